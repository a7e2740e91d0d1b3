"""What ghosting each layer alone does to a network's answers, and the ratios that a budget of MACs asks for.

Layers differ by orders of magnitude: one ratio for all spends the whole loss on two or three of them. Each candidate is
fitted in closed form and put into the dense network alone; its cost is how far the network's answers move, for which
no labels are needed. Costs add up well enough to choose by. Left out: the conversion, `ghostify(ratio=...)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghostnet.convert.calibration import calibration_batches, check_images_fit, on_device_of
from ghostnet.convert.graph import ConvUnit, find_units
from ghostnet.convert.layer_cost import Measurement
from ghostnet.convert.select import (
    Layers,
    LayerSelection,
    check_cheap_kernel_size,
    check_macs_share,
    check_ratio,
    select_layers,
)
from ghostnet.errors import InputError, unknown_name
from ghostnet.knapsack import allocate
from ghostnet.measure import profile
from ghostnet.measure.ghost_convolutions import ghost_macs
from ghostnet.nn.copies import copy_model
from ghostnet.nn.eager import eager_module
from ghostnet.nn.ghost_conv import ghost_like
from ghostnet.nn.own_forward import check_own_forwards
from ghostnet.progress import Progress


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
        check_macs_share(macs)
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


@torch.inference_mode(mode=False)
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
        check_macs_share(macs)
    cheap_kernel_size = check_cheap_kernel_size(cheap_kernel_size)
    batches = calibration_batches(calibration)
    if batches is None:
        raise InputError("sensitivity looks at images: give `calibration`; 512 are enough")
    model = eager_module(model, "sensitivity")
    check_own_forwards(model, "sensitivity")
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
    measure = Measurement(dense, batches, tried, cheap_kernel_size, file)
    measured: list[LayerSensitivity] = []
    with Progress("sensitivity", total=len(wanted), unit="layers", enabled=progress) as bar:
        for unit, allowed in wanted.items():
            macs_of_layer = layer_macs[unit.name]
            costs = measure.layer(unit, allowed, macs_of_layer)
            measured.append(LayerSensitivity(unit.name, macs_of_layer, *costs))
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
            saved += max(0, *(plain - ghost_macs(ghost, convolution, plain) for ghost in ghosts))
    if saved < total - int(macs * total):
        raise _out_of_reach(macs, saved, total, tried)


def _out_of_reach(macs: float, saved: int, total: int, ratios: Sequence[int]) -> InputError:
    least = math.ceil(1000 * (total - saved) / total) / 1000
    return InputError(
        f"`macs` (={macs}) cannot be reached: ratios up to {max(ratios)} in these layers leave {least:.3f} of the "
        "MACs; ask for that or more, or try larger ratios or more layers"
    )
