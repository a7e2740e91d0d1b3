"""Layers cut to some of their channels: the weights that a part of a value meets, or that make a part.

`positions` says for each channel of a part which channel of the whole value it is, None for a channel that belongs to
none (padding, or a map that is made and not kept): its weights are zero.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def taken(values: Tensor, positions: Sequence[int | None], axis: int = 0, *, missing: float = 0.0) -> Tensor:
    """Return `values` at `positions` along `axis`; None gives `missing`."""
    index = torch.tensor([position or 0 for position in positions], device=values.device, dtype=torch.long)
    chosen = values.detach().index_select(axis, index)
    absent = torch.tensor([position is None for position in positions], device=values.device)
    shape = [1] * values.dim()
    shape[axis] = len(positions)
    return chosen.masked_fill(absent.view(shape), missing).contiguous()


def like_convolution(
    conv: nn.Conv2d, weight: Tensor, bias: Tensor | None, *, in_channels: int, groups: int
) -> nn.Conv2d:
    padding = conv.padding if isinstance(conv.padding, str) else tuple(conv.padding)
    fresh = nn.Conv2d(
        in_channels,
        weight.shape[0],
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        groups,
        bias is not None,
        conv.padding_mode,
        device="meta",
    )
    fresh.weight = nn.Parameter(weight, requires_grad=False)
    fresh.bias = nn.Parameter(bias, requires_grad=False) if bias is not None else None
    return fresh


def kept_inputs(conv: nn.Conv2d, positions: Sequence[int | None], *, bias: bool) -> nn.Conv2d:
    """Return a convolution of one part of the input, with the bias or without."""
    weight = taken(conv.weight, positions, 1)
    kept = conv.bias.detach().clone() if bias and conv.bias is not None else None
    return like_convolution(conv, weight, kept, in_channels=len(positions), groups=1)


def kept_outputs(conv: nn.Conv2d, positions: Sequence[int | None]) -> nn.Conv2d:
    """Return a convolution that makes one part of the output."""
    bias = taken(conv.bias, positions) if conv.bias is not None else None
    return like_convolution(conv, taken(conv.weight, positions), bias, in_channels=conv.in_channels, groups=1)


def physical_depthwise(conv: nn.Conv2d, positions: Sequence[int | None]) -> nn.Conv2d:
    """Return a depthwise convolution of one part."""
    each = conv.out_channels // conv.in_channels
    spread = [
        None if position is None else position * each + copy for position in positions for copy in range(each)
    ]
    bias = taken(conv.bias, spread) if conv.bias is not None else None
    return like_convolution(
        conv, taken(conv.weight, spread), bias, in_channels=len(positions), groups=len(positions)
    )


def physical_norm(norm: nn.BatchNorm2d, positions: Sequence[int | None]) -> nn.BatchNorm2d:
    """Return a batch norm of one part."""
    fresh = copy.deepcopy(norm)
    fresh.num_features = len(positions)
    for name, missing in (("weight", 1.0), ("bias", 0.0)):
        value = getattr(norm, name)
        if value is not None:
            setattr(fresh, name, nn.Parameter(taken(value, positions, missing=missing), requires_grad=False))
    for name, missing in (("running_mean", 0.0), ("running_var", 1.0)):
        value = getattr(norm, name)
        if value is not None:
            setattr(fresh, name, taken(value, positions, missing=missing))
    return fresh
