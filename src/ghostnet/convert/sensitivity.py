"""What ghosting each layer alone does to a network's answers, and the ratios that a budget of MACs asks for.

Layers differ by orders of magnitude: one ratio for all spends the whole loss on two or three of them. Each candidate is
fitted in closed form and put into the dense network alone; its cost is how far the network's answers move, for which
no labels are needed. Costs add up well enough to choose by. Left out: the conversion, `ghostify(ratio=...)`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet.convert.allocate import allocate
from ghostnet.convert.calibration import calibration_batches, check_images_fit, on_device_of
from ghostnet.convert.graph import ConvUnit, find_units
from ghostnet.convert.layer_fit import FitOptions, LayerFit
from ghostnet.convert.observe import Pairs, observe
from ghostnet.convert.select import (
    Layers,
    LayerSelection,
    check_cheap_kernel_size,
    check_ratio,
    select_layers,
)
from ghostnet.convert.surgery import ghost_like
from ghostnet.errors import InputError, unknown_name
from ghostnet.files import atomic_write
from ghostnet.measure import profile
from ghostnet.nn.copies import copy_model
from ghostnet.nn.eager import eager_module
from ghostnet.nn.edits import replace_module_
from ghostnet.progress import Progress

_FIT_IMAGES = 512  # the first of the calibration images
_COST_IMAGES = 1024  # the last of them; the same ones where there are few


@dataclass(frozen=True)
class LayerSensitivity:
    """What one layer costs and saves, by ratio.

    Args:
        name: module path.
        macs: of the plain convolution, for one image.
        costs: by ratio, how far the network's answers move when this layer alone is ghosted; 0 is not at all.
        macs_at: by ratio, of the Ghost convolution.
    """

    name: str
    macs: int
    costs: dict[int, float]
    macs_at: dict[int, int]


@dataclass(frozen=True)
class Sensitivity:
    """The sensitivity of a network's layers; `print` it for a table, the most sensitive layer first.

    Args:
        layers: in execution order.
        macs: of the whole network, for one image.
        unit: what the costs are: "KL divergence" of class probabilities, or "relative squared error" of other outputs.
        settings: ratios, cheap kernel size and numbers of images.
    """

    layers: tuple[LayerSensitivity, ...]
    macs: int
    unit: str
    settings: dict[str, Any]

    def ratios(self, macs: float) -> dict[str, int]:
        """Choose a ratio for each layer so that a share of the network's MACs is left at the least summed cost.

        Args:
            macs: the share, in (0, 1); at most this much is left.

        Returns:
            The ratio of each layer that is to be ghosted, for `ghostify(ratio=...)`.

        Raises:
            InputError: no such share, or less than what the largest ratios leave.

        Example:
            >>> ghost, report = ghostify(model, ratio=sensitivity(model, images).ratios(0.5))  # doctest: +SKIP
        """
        _check_share(macs)
        choices = [
            [(1, 0, 0.0), *((s, layer.macs - layer.macs_at[s], layer.costs[s]) for s in sorted(layer.costs))]
            for layer in self.layers
        ]
        chosen = allocate(
            [[(saved, cost) for _, saved, cost in options] for options in choices],
            self.macs - int(macs * self.macs),
        )
        if chosen is None:
            saved = sum(max(saved for _, saved, _ in options) for options in choices)
            raise _out_of_reach(macs, saved, self.macs, self.settings["ratios"])
        picked = {
            layer.name: options[index][0]
            for layer, options, index in zip(self.layers, choices, chosen, strict=True)
        }
        return {name: ratio for name, ratio in picked.items() if ratio > 1}

    def cost(self, ratios: Mapping[str, int]) -> float:
        """Return the summed cost of a choice of ratios; 1 leaves a layer plain.

        Raises:
            InputError: a layer or ratio that was not measured.
        """
        costs = {layer.name: {1: 0.0, **layer.costs} for layer in self.layers}
        for name, ratio in ratios.items():
            if name not in costs:
                raise unknown_name("layer", name, costs)
            if ratio not in costs[name]:
                raise InputError(
                    f"ratio {ratio!r} was not measured for layer {name}; {', '.join(map(str, costs[name]))} are known"
                )
        return sum(costs[name][ratio] for name, ratio in ratios.items())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        return asdict(self)

    def __str__(self) -> str:
        ratios = sorted({ratio for layer in self.layers for ratio in layer.costs})
        width = max(len("layer"), *(len(layer.name) for layer in self.layers))
        lines = [f"{'layer':<{width}}  {'MACs':>13}" + "".join(f"  {f's = {s}':>9}" for s in ratios)]
        lines.append("-" * len(lines[0]))
        for layer in sorted(self.layers, key=lambda each: -max(each.costs.values())):
            cells = [f"{layer.costs[s]:>9.4f}" if s in layer.costs else " " * 9 for s in ratios]
            lines.append(f"{layer.name:<{width}}  {layer.macs:>13,}  " + "  ".join(cells))
        lines.append(f"{self.unit} of the network's outputs when that layer alone is ghosted")
        return "\n".join(line.rstrip() for line in lines)


@torch.no_grad()
def sensitivity(
    model: nn.Module,
    calibration: Tensor | Iterable[Any],
    *,
    ratios: Sequence[int] = (2, 3, 4),
    cheap_kernel_size: int = 3,
    layers: LayerSelection = None,
    macs: float | None = None,
    file: str | Path | None = None,
    progress: bool = False,
) -> Sensitivity:
    """Measure what ghosting each convolution alone does to the network's answers. No labels, no training.

    Args:
        model: any network that `ghostify` takes; it is not changed.
        calibration: unlabelled images `(N, C, H, W)`, normalised as the network expects, or batches of them. 512 of
            them fit the layers, 1,024 are asked for answers.
        ratios: values of s to try, each at least 2.
        cheap_kernel_size: d, odd.
        layers: the candidates, as for `ghostify`.
        macs: the share that `.ratios` will be asked for, if it is known: one that no choice reaches is refused before
            anything is measured.
        file: keeps the costs there (JSON) as they are measured; an interrupted measurement goes on from it.
        progress: show it on standard error.

    Returns:
        A `Sensitivity`; `.ratios(macs=0.5)` is what `ghostify(ratio=...)` takes.

    Raises:
        InputError: an argument that cannot be used, no candidate, a share that cannot be reached, or a `file` of
            another network.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3))
        >>> found = sensitivity(model, torch.randn(8, 3, 12, 12), ratios=(2,))
        >>> found.ratios(macs=0.7)
        {'2': 2}
    """
    tried = _checked_ratios(ratios)
    if macs is not None:
        _check_share(macs)
    cheap_kernel_size = check_cheap_kernel_size(cheap_kernel_size)
    batches = calibration_batches(calibration)
    if batches is None:
        raise InputError("sensitivity looks at images: give `calibration`; 512 are enough")
    model = eager_module(model, "sensitivity")
    dense = copy_model(model).eval()
    batches = on_device_of(dense, batches)
    for batch in {tuple(batch.shape[1:]): batch for batch in batches}.values():
        check_images_fit(dense, batch, name="calibration")
    if not isinstance(layers, (str, Layers)) and isinstance(layers, Iterable):
        layers = list(layers)  # asked once for each ratio
    wanted = _candidates(dense, find_units(dense, batches[0][:1]), layers, tried, cheap_kernel_size)
    counted = profile(dense, tuple(batches[0].shape[1:]))
    layer_macs = {layer.name: layer.macs for layer in counted.layers}
    if macs is not None:
        _check_reach(macs, dense, wanted, layer_macs, (counted.macs, tried, cheap_kernel_size))
    measure = _Measurement(dense, batches, tried, cheap_kernel_size, file)
    measured: list[LayerSensitivity] = []
    with Progress("sensitivity", total=len(wanted), unit="layers", enabled=progress) as bar:
        for unit, allowed in wanted.items():
            measured.append(measure.layer(unit, allowed, layer_macs[unit.name]))
            bar.update(1, unit.name)
    return Sensitivity(tuple(measured), counted.macs, measure.unit_of_cost, measure.settings)


def _checked_ratios(ratios: object) -> list[int]:
    if not isinstance(ratios, Iterable):
        raise InputError(f"`ratios` (={ratios!r}) must be several values of s, such as (2, 3, 4)")
    tried = sorted({check_ratio(ratio) for ratio in ratios})
    if not tried or tried[0] < 2:
        raise InputError(f"`ratios` (={tried}) must be integers of at least 2; plain layers cost nothing")
    return tried


def _candidates(
    dense: nn.Module,
    units: list[ConvUnit],
    layers: LayerSelection,
    tried: list[int],
    cheap_kernel_size: int,
) -> dict[ConvUnit, list[int]]:
    """Return the ratios that each convolution can have, where there are any."""
    reasons = {
        ratio: select_layers(dense, units, layers, ratio=ratio, cheap_kernel_size=cheap_kernel_size)
        for ratio in tried
    }
    wanted = {unit: [ratio for ratio in tried if reasons[ratio][unit.name] is None] for unit in units}
    if not any(wanted.values()):
        raise InputError("no layer can be ghosted with these ratios; `layers` may leave all of them out")
    return {unit: allowed for unit, allowed in wanted.items() if allowed}


def _check_share(macs: object) -> None:
    if isinstance(macs, bool) or not isinstance(macs, int | float) or not 0 < macs < 1:
        raise InputError(f"`macs` (={macs!r}) must be a share of the network's MACs above 0 and below 1")


def _check_reach(
    macs: float,
    dense: nn.Module,
    wanted: Mapping[ConvUnit, list[int]],
    layer_macs: Mapping[str, int],
    settings: tuple[int, list[int], int],
) -> None:
    """Raise unless the candidates, each in its cheapest ratio, leave at most a share of the network's MACs."""
    total, tried, cheap_kernel_size = settings
    saved = 0
    with torch.random.fork_rng(devices=[]):  # the Ghost convolutions are built for their sizes alone
        for unit, allowed in wanted.items():
            convolution, plain = dense.get_submodule(unit.name), layer_macs[unit.name]
            assert isinstance(convolution, nn.Conv2d)
            ghosts = [
                ghost_like(convolution, {"ratio": s, "cheap_kernel_size": cheap_kernel_size}) for s in allowed
            ]
            saved += max(0, *(plain - _macs_of(ghost, convolution, plain) for ghost in ghosts))
    if saved < total - int(macs * total):
        raise _out_of_reach(macs, saved, total, tried)


def _out_of_reach(macs: float, saved: int, total: int, ratios: Sequence[int]) -> InputError:
    least = math.ceil(1000 * (total - saved) / total) / 1000
    return InputError(
        f"`macs` (={macs}) cannot be reached: ratios up to {max(ratios)} in these layers leave {least:.3f} of the "
        "MACs; ask for that or more, or try larger ratios or more layers"
    )


def _macs_of(ghost: nn.Module, convolution: nn.Conv2d, macs: int) -> int:
    """Return the MACs of a Ghost convolution that stands in for a convolution of `macs`."""
    weights = sum(m.weight.numel() for m in ghost.modules() if isinstance(m, nn.Conv2d))
    return round(macs * weights / convolution.weight.numel())


class _Measurement:
    """A network, the images that layers are fitted to, and those that it is asked about.

    Args:
        dense: the network in evaluation mode; layers of it are exchanged for a moment.
        batches: calibration images.
        tried: ratios.
        cheap_kernel_size: d.
        file: keeps the costs, or None.
    """

    def __init__(
        self,
        dense: nn.Module,
        batches: list[Tensor],
        tried: list[int],
        cheap_kernel_size: int,
        file: str | Path | None,
    ) -> None:
        first, last = _head(batches, _FIT_IMAGES), _tail(batches, _COST_IMAGES)
        self.settings: dict[str, Any] = {
            "ratios": tried,
            "cheap_kernel_size": cheap_kernel_size,
            "fit_images": sum(map(len, first)),
            "cost_images": sum(map(len, last)),
        }
        self._dense = dense
        answers = [_tensors(dense(batch)) for batch in last]
        if not all(bool(tensor.isfinite().all()) for one in answers for tensor in one):
            raise InputError(
                "the network answers `calibration` with NaN or infinity; its weights may be damaged"
            )
        if not all(answers):
            raise InputError(
                "sensitivity compares answers, and the network gives none that is a tensor of floats"
            )
        self._asked = answers, last
        self.unit_of_cost = "KL divergence" if _are_logits(answers) else "relative squared error"
        self._source = observe(dense, dense, first)
        self._notes = _Notes(file, lambda: _fingerprint(dense, batches, self.settings))

    def layer(self, unit: ConvUnit, ratios: list[int], macs: int) -> LayerSensitivity:
        """Measure one convolution in the ratios that it can have; called in execution order."""
        convolution = self._dense.get_submodule(unit.name)
        assert isinstance(convolution, nn.Conv2d)
        costs, macs_at = {}, {}
        moments: dict[Any, Any] = {}  # they serve all ratios
        seen: Pairs | None = None
        for ratio in ratios:
            config = {"ratio": ratio, "cheap_kernel_size": self.settings["cheap_kernel_size"]}
            ghost = ghost_like(convolution, config).eval()
            macs_at[ratio] = _macs_of(ghost, convolution, macs)
            known = self._notes.get(unit.name, ratio)
            if known is None:
                if seen is None and convolution.groups == 1:
                    seen = self._source.pairs(unit)
                norm = None if unit.norm is None else copy.deepcopy(self._dense.get_submodule(unit.norm))
                LayerFit(convolution, ghost, norm, seen, FitOptions(), moments).run()
                known = _cost(self._dense, {unit.name: ghost, unit.norm or "": norm}, self._asked)
                self._notes.put(unit.name, ratio, known)
            costs[ratio] = known
        return LayerSensitivity(unit.name, macs, costs, macs_at)


def _cost(
    dense: nn.Module, new: dict[str, nn.Module | None], asked: tuple[list[list[Tensor]], list[Tensor]]
) -> float:
    """Put modules into the network, see how far its answers move, and take them out again."""
    answers, batches = asked
    old = {path: dense.get_submodule(path) for path, module in new.items() if module is not None}
    try:
        for path in old:
            replace_module_(dense, path, new[path])  # type: ignore[arg-type]
        moved = [_tensors(dense(batch)) for batch in batches]
    finally:
        for path, module in old.items():
            replace_module_(dense, path, module)
    if _are_logits(answers):
        before = torch.cat([one[0] for one in answers]).double().log_softmax(1)
        after = torch.cat([one[0] for one in moved]).double().log_softmax(1)
        # this order of arguments keeps NaN, which no choice takes
        return max(float(F.kl_div(after, before, reduction="batchmean", log_target=True)), 0.0)
    error = power = 0.0
    for one, other in zip(answers, moved, strict=True):
        for wanted, found in zip(one, other, strict=True):
            error += float((wanted.double() - found.double()).square().sum())
            power += float(wanted.double().square().sum())
    return error / max(power, 1e-30)


def _tensors(output: Any) -> list[Tensor]:
    """Return the floating-point tensors of an output, whatever holds them."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [tensor for part in output for tensor in _tensors(part)]
    return []


def _are_logits(answers: list[list[Tensor]]) -> bool:
    return all(len(one) == 1 and one[0].dim() == 2 and one[0].shape[1] > 1 for one in answers)


def _head(batches: list[Tensor], count: int) -> list[Tensor]:
    """Return the first images, in the batches that they came in."""
    kept: list[Tensor] = []
    for batch in batches:
        missing = count - sum(map(len, kept))
        if missing > 0:
            kept.append(batch[:missing])
    return kept


def _tail(batches: list[Tensor], count: int) -> list[Tensor]:
    """Return the last images."""
    return [batch.flip(0) for batch in _head([batch.flip(0) for batch in reversed(batches)], count)]


def _fingerprint(model: nn.Module, batches: list[Tensor], settings: dict[str, Any]) -> str:
    """Return a hash of the network, the images and the settings, which costs on disk must agree with."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    tensors = [*model.state_dict().values(), *batches]
    for tensor in tensors:
        digest.update(tensor.detach().double().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class _Notes:
    """Costs on disk, written as they are measured; without a path nothing is kept.

    Args:
        path: the file, or None.
        fingerprint: of what the costs belong to; called where there is a path.
    """

    def __init__(self, path: str | Path | None, fingerprint: Callable[[], str]) -> None:
        self._path = None if path is None else Path(path)
        self._costs: dict[str, float] = {}
        if self._path is None:
            return
        self._head = {"kind": "ghostnet sensitivity", "fingerprint": fingerprint()}
        if not self._path.exists():
            return
        if self._path.is_dir():
            raise InputError(f"{path} is a folder; name a file for the costs")
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            head = {key: found[key] for key in self._head}
            self._costs = {str(key): float(value) for key, value in found["costs"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} holds no measured costs of layers; name another file") from error
        if head != self._head:
            raise InputError(
                f"{path} belongs to another network, other images or settings; name another file"
            )

    def get(self, name: str, ratio: int) -> float | None:
        """Return a cost that was measured before."""
        return self._costs.get(f"{name}/{ratio}")

    def put(self, name: str, ratio: int, cost: float) -> None:
        """Keep a cost."""
        self._costs[f"{name}/{ratio}"] = cost
        if self._path is not None:
            with atomic_write(self._path) as temporary:
                temporary.write_text(json.dumps({**self._head, "costs": self._costs}, indent=1) + "\n")
