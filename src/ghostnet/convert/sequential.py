"""Initialise a converted network from the dense one, layer by layer: `initialise_from_dense_`.

In execution order each layer is fitted (`layer_fit`) on the inputs that the already converted network gives, towards
what the dense network makes of its own (`observe`); so are, with images, layers that stay plain behind the first
converted one (`plain_fit`). No labels, no gradients. Left out: choosing layers, replacing modules.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ghostnet.convert.graph import ConvUnit
from ghostnet.convert.group_fit import fit_layer
from ghostnet.convert.layer_fit import FitOptions
from ghostnet.convert.observe import Observer, observe
from ghostnet.convert.plain_fit import refit_plain_
from ghostnet.errors import InputError
from ghostnet.modes import evaluating
from ghostnet.nn import GhostConv2d
from ghostnet.progress import Progress


@torch.no_grad()
def initialise_from_dense_(
    dense_model: nn.Module,
    ghost_model: nn.Module,
    units: Sequence[ConvUnit],
    calibration_batches: Sequence[Tensor] | None,
    *,
    plain: Collection[str] = (),
    in_order: Collection[str] = (),
    rounds: int = 6,
    ridge: float = 1e-6,
    max_gram: int = 1700,
    progress: bool = False,
) -> dict[str, float]:
    """Set the weights and batch norms of all Ghost convolutions of `ghost_model` from the dense network.

    Args:
        dense_model: the trained network.
        ghost_model: a copy in which each unit's convolution is a linear `GhostConv2d`; changed in place.
        units: the converted layers in execution order, among them those of `plain`.
        calibration_batches: unlabelled `(N, C, H, W)` inputs, or None for a fit that assumes white inputs.
        plain: names of units that are still plain convolutions and are refitted, where there are images.
        in_order: names of layers whose first channels are the primary ones, see `streams`.
        rounds: of alternation between primary and cheap filters.
        ridge: the least, relative to the mean power of the inputs; draws filters to what they were, as strongly as
            halves of the images ask for.
        max_gram: largest Gram matrix (columns); larger layers are fitted on their output maps only.
        progress: show a bar on standard error.

    Returns:
        For each converted unit the relative error of its outputs (0 is exact), weighted as batch norm weights them.

    Raises:
        InputError: `rounds` or `ridge` is negative, there are no calibration images, or a unit is no convolution of
            its kind.
    """
    if rounds < 0 or ridge < 0:
        raise InputError(f"`rounds` (={rounds}) and `ridge` (={ridge}) must not be negative; use 6 and 1e-6.")
    if calibration_batches is not None and not calibration_batches:
        raise InputError(
            "`calibration_batches` is empty; give at least one batch, or None to convert without data."
        )
    options = FitOptions(rounds, ridge, max_gram)
    with evaluating(dense_model, ghost_model):
        source = (
            None if calibration_batches is None else observe(dense_model, ghost_model, calibration_batches)
        )
        errors: dict[str, float] = {}
        with Progress("fit", total=len(units), unit="layers", enabled=progress) as bar:
            for unit in units:
                if unit.name not in plain:
                    own = replace(options, in_order=unit.name in in_order)
                    errors[unit.name] = _initialise(unit, dense_model, ghost_model, source, own)
                elif source is not None:
                    _refit(unit, dense_model, ghost_model, source, options)
                bar.update(1, unit.name)
        return errors


def _initialise(
    unit: ConvUnit,
    dense_model: nn.Module,
    ghost_model: nn.Module,
    source: Observer | None,
    options: FitOptions,
) -> float:
    """Fit one unit and return its error."""
    convolution, ghost = dense_model.get_submodule(unit.name), ghost_model.get_submodule(unit.name)
    if not isinstance(ghost, GhostConv2d) or not isinstance(convolution, nn.Conv2d):
        raise InputError(f"`{unit.name}` is no converted convolution; give the units that were replaced.")
    if ghost.primary_conv.out_channels == convolution.out_channels:
        _copy(convolution, ghost.primary_conv)
        return 0.0
    norm = None if unit.norm is None else ghost_model.get_submodule(unit.norm)
    pairs = None if source is None else source.pairs(unit)
    return fit_layer(convolution, ghost, norm, pairs, options)


def _refit(
    unit: ConvUnit, dense_model: nn.Module, ghost_model: nn.Module, source: Observer, options: FitOptions
) -> None:
    """Refit one unit that stays a plain convolution."""
    convolution, dense = ghost_model.get_submodule(unit.name), dense_model.get_submodule(unit.name)
    if not isinstance(convolution, nn.Conv2d) or not isinstance(dense, nn.Conv2d):
        raise InputError(f"`{unit.name}` is no plain convolution; `plain` names those that were not replaced")
    pairs = source.pairs(unit)
    if pairs:
        norm = None if unit.norm is None else ghost_model.get_submodule(unit.norm)
        refit_plain_(dense, convolution, norm, pairs, options)


def _copy(convolution: nn.Conv2d, primary: nn.Conv2d) -> None:
    primary.weight.copy_(convolution.weight)
    if primary.bias is not None and convolution.bias is not None:
        primary.bias.copy_(convolution.bias)
