"""Which layers stay in float: all are quantised first; where the answers change too much, the worst layers are kept.

A layer's harm is the error of the network's outputs when that layer alone is quantised.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ghostnet.deploy.quantization.quantiser import Quantiser
from ghostnet.errors import InputError


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much int8 may cost on the calibration images.

    Args:
        max_drop: largest loss of top-1 accuracy in points, where labels are given.
        min_agreement: least share of images with the same first answer as in float, where they are not.
        max_error: of a network that answers with tensors by name: largest relative error of any of them.

    Raises:
        InputError: a number out of its range.
    """

    max_drop: float = 1.0
    min_agreement: float = 0.95
    max_error: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop <= 100:
            raise InputError(f"max_drop (={self.max_drop}) must be between 0 and 100 points of accuracy")
        if not 0 <= self.min_agreement <= 1:
            raise InputError(f"min_agreement (={self.min_agreement}) must be between 0 and 1")
        if not self.max_error > 0:
            raise InputError(
                f"max_error (={self.max_error}) must be above 0; 0.2 allows a fifth of an output's norm"
            )


ANY_COST = Limits(100.0, 0.0, math.inf)  # timing needs no right answers


@dataclasses.dataclass(frozen=True)
class Score:
    """What int8 did to the answers on the calibration images.

    Attributes:
        agreement: share of images with the same first answer as in float (of a single logit its sign, of maps a pixel's
            class); None of tensors by name.
        relative_error: norm of the difference of the outputs over that of the float outputs; of several the largest.
        top1_float, top1: percent, None without labels.
    """

    agreement: float | None
    relative_error: float
    top1_float: float | None = None
    top1: float | None = None

    def within(self, limits: Limits) -> bool:
        """Tell whether this is good enough."""
        if not math.isfinite(self.relative_error):
            return False
        if self.agreement is None:
            return self.relative_error <= limits.max_error
        if self.top1 is None or self.top1_float is None:
            return self.agreement >= limits.min_agreement
        return self.top1_float - self.top1 <= limits.max_drop


Judge = Callable[[list[np.ndarray], list[np.ndarray]], Score]  # compares outputs in float with those in int8


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Which layers stay in float and what is left of the accuracy; `ranking` is empty where none had to.

    `weight_bits` is stated where weights do not have the usual 8, and of a network made by `fake_quantized`.
    """

    kept: tuple[str, ...]
    score: Score
    layers: int
    ranking: dict[str, float]
    weight_bits: int | None = None


def scored(expected: np.ndarray, found: np.ndarray, labels: np.ndarray | None) -> Score:
    """Compare outputs `(N, classes, …)`; one number an image, or a pixel, is a logit, and its sign is the answer."""
    answers, wanted = _answers(found), _answers(expected)
    agreement = float((answers == wanted).mean())
    error = relative_error(expected, found)
    if labels is None:
        return Score(agreement, error)
    top1 = [100 * float((given == labels).mean()) for given in (wanted, answers)]
    return Score(agreement, error, *top1)


def _answers(outputs: np.ndarray) -> np.ndarray:
    if outputs.ndim == 1:
        outputs = outputs[:, None]
    # of one output the largest is always the first
    return (outputs[:, 0] > 0).astype(np.int64) if outputs.shape[1] == 1 else outputs.argmax(axis=1)


def differing(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> Score:
    """Compare the outputs of a network that answers with tensors by name."""
    return Score(None, largest_error(expected, found))


def largest_error(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    """Return the largest relative error of several outputs."""
    return max(relative_error(*pair) for pair in zip(expected, found, strict=True))


def relative_error(expected: np.ndarray, found: np.ndarray) -> float:
    """Return the norm of the difference over that of what was expected."""
    difference = np.linalg.norm(expected.astype(np.float64) - found)
    return float(difference / max(np.linalg.norm(expected), 1e-12))


def choose(
    quantiser: Quantiser,
    path: Path,
    *,
    score_of: Callable[[Path], Score],
    harm_of: Callable[[Path], float],
    limits: Limits,
    announce: Callable[[str], None],
) -> Chosen:
    """Write the int8 files at `path` with as few layers in float as the limits ask for.

    Args:
        quantiser: of the float files.
        path: where the files go; after the call they are the chosen ones.
        score_of: runs the files at a path and compares their answers with float's.
        harm_of: runs them and says how far their outputs are from float's, on few images: it is asked once a layer.
        limits: how much int8 may cost.
        announce: called with a line before each slow step.

    Raises:
        InputError: the limits do not hold even with every layer but one in float.
    """
    layers = quantiser.layers()
    if not layers:
        raise InputError(
            "there is no convolution and no matrix product to quantise; int8 would change nothing"
        )

    def attempt(kept: list[str]) -> Score:
        quantiser.write(path, keep=kept)
        return score_of(path)

    score = attempt([])
    if score.within(limits):
        return Chosen((), score, len(layers), {})
    announce(f"int8 costs too much ({told(score)}); ranking {len(layers)} layers")
    harm = {}
    for layer in layers:
        quantiser.write(path, only=layer)
        harm[layer] = harm_of(path)
    ranking = dict(sorted(harm.items(), key=lambda item: -item[1]))
    worst = list(ranking)
    tried: dict[int, Score] = {0: score}
    for count in _counts(len(worst)):
        tried[count] = attempt(worst[:count])
        announce(f"{count} of {len(worst)} layers in float: {told(tried[count])}")
        if tried[count].within(limits):
            least = _bisected(max(n for n in tried if n < count), count, worst, attempt, tried, limits)
            attempt(worst[:least])  # the file of the last attempt may be another one
            return Chosen(tuple(worst[:least]), tried[least], len(layers), ranking)
    raise InputError(
        f"int8 costs too much even with {len(worst) - 1} of {len(worst)} layers in float ({told(score)} with none); "
        f"allow more ({allowance(score)}), fine-tune for it (fake_quantized) or stay in float"
    )


def _counts(layers: int) -> list[int]:
    """Return 1, 2, 4, … up to all layers but one."""
    counts = [2**power for power in range(layers.bit_length()) if 2**power < layers]
    return sorted({*counts, layers - 1} - {0})


def _bisected(
    low: int,
    high: int,
    worst: list[str],
    attempt: Callable[[list[str]], Score],
    tried: dict[int, Score],
    limits: Limits,
) -> int:
    """Return the least count between a failing and a holding one that holds."""
    while high - low > 1:
        middle = (low + high) // 2
        tried[middle] = attempt(worst[:middle])
        low, high = (low, middle) if tried[middle].within(limits) else (middle, high)
    return high


def told(score: Score) -> str:
    """Return a score in words."""
    if score.agreement is None:
        return f"an output differs by {100 * score.relative_error:.1f} % of its norm"
    if score.top1 is None or score.top1_float is None:
        return f"{100 * score.agreement:.1f} % of the answers stay"
    return f"top-1 {score.top1_float:.2f} to {score.top1:.2f} %"


def allowance(score: Score) -> str:
    """Return the names of the limits that a score is held against."""
    return "max_error" if score.agreement is None else "max_drop, min_agreement"


def to_dict(chosen: Chosen) -> dict[str, Any]:
    """Return JSON-able values; of the ranking the twenty worst layers."""
    worst = dict(list(chosen.ranking.items())[:20])
    return {
        **dataclasses.asdict(chosen.score),
        "layers": chosen.layers,
        "float_layers": list(chosen.kept),
        "harm": worst,
        **({} if chosen.weight_bits is None else {"weight_bits": chosen.weight_bits}),
    }
