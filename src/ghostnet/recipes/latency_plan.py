"""Latency-aware conversion: `deploy.plan` chooses the layers and their ratios, `ghostify` converts them.

What is timed is what comes out, in other weights: the networks that a plan tries have random ones, and where the fit
would match channels, channel orders as a fit leaves them, so that those that stay in residual streams are in the
measurement. Only the chosen network is fitted, which takes minutes in large ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghostnet import deploy
from ghostnet.convert import ConversionReport, Layers, absorb_channel_orders_, ghostify, sensitivity
from ghostnet.convert.ghostify import RandomInit
from ghostnet.convert.graph import find_units
from ghostnet.convert.pruning.sites import PruneSite
from ghostnet.convert.select import LayerSelection, select_layers
from ghostnet.convert.streams import find_streams, orderable
from ghostnet.errors import InputError
from ghostnet.nn import GhostConv2d


@dataclass(frozen=True)
class GhostSettings:
    """What `ghostify` is called with, but the layers, which are the plan's to choose.

    Args:
        ratio: s of Eq. 2; or several, of which each layer gets the one that a budget of time asks for at the least
            cost on `calibration` images.
        cheap_kernel_size: d, odd.
        layers: the candidates, as for `ghostify`.
        init: as for `ghostify`.
        calibration: images for the fit of the new layers.
        form: as for `ghostify`.
        refit_plain: as for `ghostify`.
        streams: as for `ghostify`.
    """

    ratio: int | tuple[int, ...] = 2
    cheap_kernel_size: int = 3
    layers: LayerSelection = None
    init: str | RandomInit = "dense"
    calibration: Sequence[Any] | None = None
    form: str = "linear"
    refit_plain: bool = True
    streams: bool | None = None


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
    costs: str | Path | None = None,
    progress: bool = False,
    announce: Callable[[str], None] | None = None,
) -> tuple[nn.Module | None, ConversionReport | None, deploy.Plan]:
    """Convert the layers that pay in a runtime on this machine.

    With a budget below 1, layers have a cost: with calibration images how far the network's answers move when that
    layer alone is ghosted (`sensitivity`), without any its reconstruction error in a conversion of all candidates.
    Networks that are not fitted to the dense weights, and a budget of 1, count every layer alike.

    Args:
        model: the dense network; it is untouched.
        target: key of `deploy.TARGETS`.
        example_input: `(N, C, H, W)`; its size is what is timed.
        ghost: how layers are converted.
        precision, budget, seconds, folder, announce: as for `deploy.plan`.
        costs: keeps what layers cost on images there (JSON), as `sensitivity`'s `file`.
        progress: show that of costs and conversions on standard error.

    Returns:
        The Ghost network and its report, both None where no layer is worth it, and the plan.

    Raises:
        InputError: as `ghostify`, `sensitivity` and `deploy.plan`; several ratios without images or a budget.
    """
    how = ghost or GhostSettings()
    ratios = (how.ratio,) if isinstance(how.ratio, int) else tuple(how.ratio)
    by_images = budget < 1 and how.init == "dense" and how.form == "linear" and how.calibration is not None
    if len(ratios) > 1 and not by_images:
        raise InputError(
            "several ratios are chosen by what each costs on images: give calibration images, a budget below 1, and "
            "Ghost convolutions in linear form, fitted to the dense weights"
        )
    tell = announce or (lambda _line: None)
    reasons = _reasons_to_keep(model, how.layers, min(ratios), how.cheap_kernel_size, example_input)
    candidates = [name for name, reason in reasons.items() if reason is None]
    cost: dict[str, dict[int, float]] | dict[str, float] | None = None
    if by_images and candidates:
        assert how.calibration is not None
        tell(f"measuring what each of {len(candidates)} candidates costs the network's answers")
        cost = _costs_on_images(model, how, ratios, candidates, costs, progress=progress)
        candidates = list(cost)
    elif budget < 1 and how.init == "dense" and candidates:
        tell(f"ghosting all {len(candidates)} candidates, for what each costs")
        report = _converted(model, how, dict.fromkeys(candidates, ratios[0]), example_input)[1]
        cost = {layer.name: layer.reconstruction_error or 0.0 for layer in report.layers}
    streams = _streams(model, how, example_input) if candidates else []
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
        build=lambda chosen: _draft(model, how, chosen, example_input, streams),
        seconds=seconds,
        folder=folder,
        announce=announce,
    )
    kept = {name: reason for name, reason in reasons.items() if reason is not None}
    plan = replace(plan, left_out=plan.left_out | kept)
    if not plan.layers:
        return None, None, plan
    return *_converted(model, how, plan.ratios, example_input, progress=progress), plan


def _converted(
    model: nn.Module, how: GhostSettings, ratios: dict[str, int], example: Tensor, *, progress: bool = False
) -> tuple[nn.Module, ConversionReport]:
    one = set(ratios.values())
    return ghostify(
        model,
        ratio=ratios if len(one) > 1 else one.pop(),
        cheap_kernel_size=how.cheap_kernel_size,
        layers=list(ratios),
        init=how.init,
        calibration=how.calibration,
        example_input=example,
        form=how.form,
        refit_plain=how.refit_plain,
        streams=how.streams if how.init == "dense" else None,
        progress=progress,
    )


def _streams(model: nn.Module, how: GhostSettings, example: Tensor) -> list[PruneSite]:
    """Return the streams that `ghostify` would put in one order, as far as layers that write them are converted."""
    if how.init != "dense" or how.streams is False:
        return []
    return find_streams(model, find_units(model, example), example, asked=bool(how.streams))


def _draft(
    model: nn.Module,
    how: GhostSettings,
    ratios: dict[str, int],
    example: Tensor,
    streams: list[PruneSite],
) -> nn.Module:
    """Return a network that takes the time of the converted one."""
    if how.init != "dense":
        return _converted(model, how, ratios, example)[0]
    network, _ = _converted(model, replace(how, init="random", calibration=None), ratios, example)
    draw = torch.Generator().manual_seed(0)
    in_order = {path for site in orderable(streams, ratios) for path in site.writers}
    for name in ratios:
        if name in in_order:
            continue
        module = network.get_submodule(name)
        if isinstance(module, GhostConv2d):
            module.set_channel_order_(torch.randperm(module.out_channels, generator=draw))
    absorb_channel_orders_(network, example_input=example)
    return network


def _costs_on_images(
    model: nn.Module,
    how: GhostSettings,
    ratios: tuple[int, ...],
    candidates: list[str],
    file: str | Path | None,
    *,
    progress: bool,
) -> dict[str, dict[int, float]]:
    assert how.calibration is not None
    found = sensitivity(
        model,
        how.calibration,
        ratios=ratios,
        cheap_kernel_size=how.cheap_kernel_size,
        layers=candidates,
        file=file,
        progress=progress,
    )
    return {layer.name: layer.costs for layer in found.layers}


def _reasons_to_keep(
    model: nn.Module, layers: LayerSelection, ratio: int, cheap_kernel_size: int, example: Tensor
) -> dict[str, str | None]:
    """Return for each convolution why `ghostify` would keep it, None for those that it would convert."""
    units = find_units(model, example)
    if not units:
        raise InputError(
            f"found no convolution in this {type(model).__name__}; a plan is about nn.Conv2d layers"
        )
    selected = Layers() if layers is None else layers
    return select_layers(model, units, selected, ratio=ratio, cheap_kernel_size=cheap_kernel_size)
