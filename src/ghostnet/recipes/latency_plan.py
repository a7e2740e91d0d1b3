"""Latency-aware conversion: `deploy.plan` chooses the layers, `ghostify` converts them, and the result was timed.

What is timed is what comes out: each network that the plan tries is converted by the same `ghostify` call, so that
channel orders that stay in residual streams are in the measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ghostnet import deploy
from ghostnet.convert import ConversionReport, Layers, ghostify
from ghostnet.convert.ghostify import RandomInit
from ghostnet.convert.graph import find_units
from ghostnet.convert.select import LayerSelection, select_layers
from ghostnet.errors import InputError


@dataclass(frozen=True)
class GhostSettings:
    """What `ghostify` is called with, but the layers, which are the plan's to choose.

    Args:
        ratio: s of Eq. 2.
        cheap_kernel_size: d, odd.
        layers: the candidates, as for `ghostify`.
        init: as for `ghostify`.
        calibration: images for the fit of the new layers.
        form: as for `ghostify`.
        refit_plain: as for `ghostify`.
    """

    ratio: int = 2
    cheap_kernel_size: int = 3
    layers: LayerSelection = None
    init: str | RandomInit = "dense"
    calibration: Sequence[Any] | None = None
    form: str = "linear"
    refit_plain: bool = True


def convert_by_plan(
    model: nn.Module,
    target: str,
    *,
    example_input: Tensor,
    ghost: GhostSettings | None = None,
    precision: str = "fp32",
    budget: float = 1.0,
    seconds: float = 0.3,
    folder: str | Path | None = None,
    announce: Callable[[str], None] | None = None,
) -> tuple[nn.Module | None, ConversionReport | None, deploy.Plan]:
    """Convert the layers that pay in a runtime on this machine.

    With a budget below 1, what a layer costs is its reconstruction error in a conversion of all candidates
    (`init="dense"`), else every layer costs the same.

    Args:
        model: the dense network; it is untouched.
        target: key of `deploy.TARGETS`.
        example_input: `(N, C, H, W)`; its size is what is timed.
        ghost: how layers are converted.
        precision, budget, seconds, folder, announce: as for `deploy.plan`.

    Returns:
        The Ghost network and its report, both None where no layer is worth it, and the plan.

    Raises:
        InputError: as `ghostify` and `deploy.plan`.
    """
    how = ghost or GhostSettings()
    built: dict[tuple[str, ...], tuple[nn.Module, ConversionReport]] = {}

    def build(names: list[str]) -> nn.Module:
        key = tuple(sorted(names))
        if key not in built:
            built[key] = ghostify(
                model,
                ratio=how.ratio,
                cheap_kernel_size=how.cheap_kernel_size,
                layers=list(names),
                init=how.init,
                calibration=how.calibration,
                example_input=example_input,
                form=how.form,
                refit_plain=how.refit_plain,
            )
        return built[key][0]

    reasons = _reasons_to_keep(model, how, example_input)
    candidates = [name for name, reason in reasons.items() if reason is None]
    cost = None
    if budget < 1 and how.init == "dense" and candidates:
        if announce is not None:
            announce(f"ghosting all {len(candidates)} candidates, for what each costs")
        build(candidates)
        report = built[tuple(sorted(candidates))][1]
        cost = {layer.name: layer.reconstruction_error or 0.0 for layer in report.layers}
    plan = deploy.plan(
        model,
        target,
        input_size=tuple(example_input.shape[1:]),
        precision=precision,
        budget=budget,
        layers=candidates,
        ratio=how.ratio,
        cheap_kernel_size=how.cheap_kernel_size,
        cost=cost,
        build=build,
        seconds=seconds,
        folder=folder,
        announce=announce,
    )
    kept = {name: reason for name, reason in reasons.items() if reason is not None}
    plan = replace(plan, left_out=plan.left_out | kept)
    if not plan.layers:
        return None, None, plan
    build(plan.layers)  # files of an earlier plan may have stood in for it
    network, done = built[tuple(sorted(plan.layers))]
    return network, done, plan


def _reasons_to_keep(model: nn.Module, how: GhostSettings, example: Tensor) -> dict[str, str | None]:
    """Return for each convolution why `ghostify` would keep it, None for those that it would convert."""
    layers = Layers() if how.layers is None else how.layers
    units = find_units(model, example)
    if not units:
        raise InputError(
            f"found no convolution in this {type(model).__name__}; a plan is about nn.Conv2d layers"
        )
    return select_layers(model, units, layers, ratio=how.ratio, cheap_kernel_size=how.cheap_kernel_size)
