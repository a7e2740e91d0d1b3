"""How much of a network may stay for it to meet a budget of time, by measuring in the runtime: `plan_share`.

What a share is of is the caller's to say: of the MACs, for a network whose channels are pruned. Times do not follow
shares closely, since runtimes compute channels in blocks, so that each step is a network that was built and timed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ghostnet.deploy.layer_times import Setting
from ghostnet.deploy.plan_search import CLOSE, INSIDE
from ghostnet.deploy.processor import processor_features
from ghostnet.deploy.quantization.calibration import calibration_array
from ghostnet.deploy.targets import TARGETS
from ghostnet.deploy.whole_times import WholeTimes, check_setting, folder_for_exports, form_of, versions_of
from ghostnet.errors import InputError
from ghostnet.measure import environment

_ATTEMPTS = 8
_FINEST = 0.01  # of the share; nearer ones differ by less than a measurement knows


@dataclasses.dataclass(frozen=True)
class SharePlan:
    """What share meets a budget of time; `print` it for a table.

    Attributes:
        target, precision, threads: what it holds for.
        budget: time ratio that was asked for.
        share: the largest found that meets it; else the one of the fastest network.
        measured_ratio: time of the network with it over that of the original.
        attempts: every network that was timed.
        settings: input_size.
        environment: processor and versions.
    """

    target: str
    precision: str
    threads: int
    budget: float
    share: float
    measured_ratio: float
    attempts: tuple[dict[str, Any], ...]
    settings: dict[str, Any]
    environment: dict[str, Any]

    @property
    def met(self) -> bool:
        """Whether the budget is met."""
        return self.measured_ratio <= self.budget

    def to_dict(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        return {
            **dataclasses.asdict(self),
            "met": self.met,
            "processor_features": list(processor_features()),
        }

    def __str__(self) -> str:
        """Return a table of what was tried, and the verdict."""
        lines = [f"{'share':>6}  {'dense ms':>9}  {'ms':>9}  {'time':>6}"]
        for one in sorted(self.attempts, key=lambda attempt: -attempt["share"]):
            times = f"{one['dense_ms']:>9.3f}  {one['ms']:>9.3f}  {one['ratio']:>6.3f}"
            lines.append(f"{one['share']:>6.3f}  {times}{'  *' if one['share'] == self.share else ''}")
        where = f"{TARGETS[self.target].runtime} {self.precision}, {self.threads} thread(s)"
        verdict = f"share {self.share:.3f}: whole network at {self.measured_ratio:.3f} of the time in {where}"
        return "\n".join(
            [*lines, verdict if self.met else f"{verdict}; the budget of {self.budget} cannot be met"]
        )


def plan_share(
    model: nn.Module,
    target: str,
    *,
    build: Callable[[float], nn.Module],
    input_size: Sequence[int],
    budget: float,
    least: float = 0.05,
    precision: str = "fp32",
    calibration: Any = None,
    threads: int = 1,
    seconds: float = 0.3,
    folder: str | Path | None = None,
    announce: Callable[[str], None] | None = None,
) -> SharePlan:
    """Find the largest share with which a network meets a budget of time in a runtime on this machine.

    Args:
        model: the original; it is untouched.
        target: key of `TARGETS`.
        build: makes the network of a share in (0, 1), such as `lambda share: prune(model, "l1", macs=share)[0]`;
            smaller shares should be faster.
        input_size: shape of one input without the batch.
        budget: time of the network over that of the original, in (0, 1).
        least: the smallest share that `build` can make.
        precision: "fp32", "bf16" (OpenVINO) or "int8" (onnx, openvino, litert, c).
        calibration: float32 images `(N, C, H, W)` for int8; None takes random ones, which is enough for times.
        threads: inside one operator.
        seconds: a quarter of the least time for each network.
        folder: keeps the exported files there, as for `plan`.
        announce: called with a line before each slow step.

    Returns:
        A `SharePlan`; `met` says whether the budget could be met.

    Raises:
        InputError: a bad argument, or a runtime that is missing or cannot run in `precision`.

    Example:
        >>> found = plan_share(model, "onnx", build=half, input_size=(3, 32, 32), budget=0.7)  # doctest: +SKIP
    """
    check_setting(target, precision, budget, seconds, threads)
    if budget == 1:
        raise InputError("budget (=1) asks for nothing; 0.7 asks for 70 % of the time")
    if not 0 < least < 1:
        raise InputError(f"least (={least}) must be a share above 0 and below 1")
    sizes = tuple(input_size)
    if calibration is not None and precision == "int8":
        calibration = calibration_array(calibration, sizes)
    with folder_for_exports(folder) as place:
        tell = announce or (lambda _line: None)
        whole = WholeTimes(
            model, Setting(target, precision, threads, seconds, place, calibration, tell), sizes
        )

        known: dict[str, dict[str, Any]] = {}  # shares that are near can give the same network

        def ratio_of(share: float) -> float:
            network = build(share)
            form = form_of(network)
            if form not in known:
                whole.ratio(network, f"share {share:.3f}", {"share": share})
                known[form] = whole.attempts[-1]
            else:
                whole.attempts.append({**known[form], "share": share})
                ratio = known[form]["ratio"]
                tell(f"share {share:.3f}: whole network at {ratio:.3f} of the time, the same as before")
            return float(known[form]["ratio"])

        share, measured = search_share(ratio_of, budget, least)
    return SharePlan(
        target=target,
        precision=precision,
        threads=threads,
        budget=budget,
        share=share,
        measured_ratio=measured,
        attempts=tuple(whole.attempts),
        settings={"input_size": list(sizes)},
        environment=environment() | versions_of(target, precision),
    )


def search_share(measure: Callable[[float], float], budget: float, least: float) -> tuple[float, float]:
    """Return the largest share found whose time meets the budget, and its time; else those of the fastest.

    Args:
        measure: time of a share over that of the whole.
        budget: of the time, in (0, 1).
        least: the smallest share to ask for.

    Example:
        >>> search_share(lambda share: 0.2 + 0.8 * share, 0.6, 0.05)
        (0.494, 0.5952)
    """
    tried: dict[float, float] = {}
    share: float | None = max(least, budget)
    while share is not None and len(tried) < _ATTEMPTS:
        tried[share] = measure(share)
        share = _next_share(tried, budget, least)
    meeting = {share: ratio for share, ratio in tried.items() if ratio <= budget}
    best = max(meeting) if meeting else min(tried, key=lambda one: tried[one])
    return best, tried[best]


def _next_share(tried: dict[float, float], budget: float, least: float) -> float | None:
    """Return what to try next, between the largest share that meets the budget and the next that misses it."""
    low = max((share for share, ratio in tried.items() if ratio <= budget), default=None)
    if low is not None and tried[low] > budget - CLOSE:
        return None
    known = {1.0: 1.0, **tried}
    above = min(share for share in known if low is None or share > low)
    if low is None:  # go on along the line through the whole network
        fall = (1 - known[above]) / (1 - above) if above < 1 else 1.0
        guess = 1 - (1 - budget + INSIDE) / fall if fall > 0 else above / 2
        guess = max(least, round(min(guess, above - 2 * _FINEST), 3))
        return None if guess >= above else guess
    slope = (known[above] - tried[low]) / (above - low)
    guess = low + (budget - INSIDE - tried[low]) / slope if slope > 0 else (low + above) / 2
    guess = round(min(max(guess, low + _FINEST), above - _FINEST), 3)
    return guess if low < guess < above else None
