"""The fit of one converted layer, with groups or without: `fit_layer`.

A grouped convolution is several convolutions side by side. Where each group's ghosts are made of that group's own
primary maps, each is fitted as a layer of its own, with all that `layer_fit` can do; where the ratio does not divide
the groups evenly, `LayerFit` chooses ghosts from the maps of all groups.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from ghostnet.convert.layer_fit import FitOptions, LayerFit, cheap_convolution
from ghostnet.convert.observe import Pairs
from ghostnet.nn import GhostConv2d

_Layer = TypeVar("_Layer", bound=nn.Module)
_MOST_KEPT = 2**27  # numbers that groups keep for further fits: 1 GiB, more than the largest single layer


def fit_layer(
    convolution: nn.Conv2d,
    ghost: GhostConv2d,
    norm: nn.Module | None,
    pairs: Pairs | None,
    options: FitOptions,
    known: dict[Any, Any] | None = None,
) -> float:
    """Fit a Ghost convolution to a dense one, in place, and return the relative error of its outputs.

    Args:
        convolution: the dense layer.
        ghost: the one to be fitted; changed in place.
        norm: the batch norm behind it, changed in place where there are images.
        pairs: `(N, C, H, W)` inputs and `(N, n, H', W')` outputs wanted, the layer's bias included; None for a
            fit from the weights alone.
        options: how.
        known: keeps what does not depend on the ratio, for further fits of the same layer on the same pairs; that of
            groups only where it is not too large.
    """
    groups = convolution.groups
    if groups > 1 and _kept(convolution, ghost) > _MOST_KEPT:
        known = None
    # in order: only layers of one group write a stream
    if groups == 1 or options.in_order or ghost.ghost_channels % ghost.intrinsic_channels:
        return LayerFit(convolution, ghost, norm, pairs, options, known).run()
    lost = power = 0.0
    order = torch.empty(groups, convolution.out_channels // groups, dtype=torch.long)
    kept, ghosts = ghost.intrinsic_channels // groups, ghost.ghost_channels // groups
    for index in range(groups):
        inputs, outputs = (
            _part(index, count // groups) for count in (convolution.in_channels, convolution.out_channels)
        )
        own = _ghost_of_group(ghost, index)
        fit = LayerFit(
            _convolution_of_group(convolution, outputs),
            own,
            None if norm is None else _view(norm, outputs),
            None if pairs is None else [(one[:, inputs], two[:, outputs]) for one, two in pairs],
            replace(options, groups=groups),
            None if known is None else known.setdefault(index, {}),
        )
        fit.run()
        lost, power = lost + fit.lost, power + fit.power
        assert own.channel_order is not None
        primary, ghostly = own.channel_order + index * kept, own.channel_order - kept + index * ghosts
        order[index] = torch.where(own.channel_order < kept, primary, ghostly + ghost.intrinsic_channels)
    ghost.set_channel_order_(order.flatten())
    return math.sqrt(lost / max(power, 1e-30))


def _kept(convolution: nn.Conv2d, ghost: GhostConv2d) -> int:
    """Count the numbers in the moments of all groups, of all images and of both halves."""
    columns, taps = convolution.weight[0].numel(), ghost.cheap_kernel_size**2
    return convolution.groups * 3 * (taps * columns) ** 2


def _part(index: int, each: int) -> slice:
    return slice(index * each, (index + 1) * each)


def _view(module: _Layer, part: slice) -> _Layer:
    """Return a layer of some of the channels; its tensors are views, so that writing in place writes to `module`."""
    own = copy.copy(module)
    own._parameters = {
        name: None if value is None else nn.Parameter(value.data[part], value.requires_grad)
        for name, value in module._parameters.items()
    }
    own._buffers = {
        name: value if value is None or value.dim() == 0 else value[part]
        for name, value in module._buffers.items()
    }
    return own


def _convolution_of_group(convolution: nn.Conv2d, outputs: slice) -> nn.Conv2d:
    own = _view(convolution, outputs)
    own.in_channels, own.out_channels = convolution.in_channels // convolution.groups, len(own.weight)
    own.groups = 1
    return own


def _ghost_of_group(ghost: GhostConv2d, index: int) -> GhostConv2d:
    """Return one group's primary and cheap filters as a Ghost convolution; they are views."""
    groups = ghost.groups
    config = ghost.config() | {"groups": 1, "channel_order": False}
    config |= {"in_channels": ghost.in_channels // groups, "out_channels": ghost.out_channels // groups}
    with torch.random.fork_rng(devices=[]):  # its weights are replaced
        own = GhostConv2d.from_config(config)
    primary = _part(index, ghost.intrinsic_channels // groups)
    cheap = _part(index, ghost.ghost_channels // groups)
    for mine, whole, part in (
        (own.primary_conv, ghost.primary_conv, primary),
        (cheap_convolution(own), cheap_convolution(ghost), cheap),
    ):
        mine._parameters = _view(whole, part)._parameters
    return own
