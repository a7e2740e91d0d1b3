"""Channels of a map in another order, without what `index_select` costs in training.

On a CPU `index_select` turns channels_last maps into the default format, which every later layer then pays for, and its
backward adds row by row. Measured for 128 bfloat16 maps of 16x32x32 on one thread, forward and backward: 18 ms, against
1.4 ms here. Exports and compilers see the plain `index_select`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx


def reorder_channels(maps: Tensor, order: Tensor) -> Tensor:
    """Return `maps` with channel j taken from channel `order[j]`, memory format kept.

    Args:
        maps: `(N, C, H, W)`.
        order: a permutation of 0 … C - 1, int64 `(C,)`, on the device of `maps`.

    Returns:
        `(N, C, H, W)`, equal to `maps.index_select(1, order)`.

    Example:
        >>> reorder_channels(torch.arange(3.0).view(1, 3, 1, 1), torch.tensor([2, 0, 1])).flatten().tolist()
        [2.0, 0.0, 1.0]
    """
    if isinstance(maps, fx.Proxy):  # record the plain operation
        return maps.index_select(1, order)
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return maps.index_select(1, order)
    if (
        torch.jit.is_tracing()
    ):  # OpenVINO 2026.4 folds axis 1, not -3, into the next convolution by a wrong permutation
        return maps.index_select(-3, order)
    if torch.is_grad_enabled() and maps.requires_grad:
        return _ReorderChannels.apply(maps, order)
    return _taken(maps, order)


def _taken(maps: Tensor, order: Tensor) -> Tensor:
    """Take channels in the maps' own memory format."""
    if torch._C._functorch.is_functorch_wrapped_tensor(maps):  # vmap cannot tell the format
        return maps.index_select(1, order)
    channels_last = maps.dim() == 4 and maps.is_contiguous(memory_format=torch.channels_last)
    if not channels_last or maps.is_contiguous() or maps.device.type != "cpu":
        return maps.index_select(1, order)
    if maps.dtype == torch.bfloat16:
        # a 1x1 convolution by the permutation matrix is exact (one product by 1, all others by 0) and quicker here
        # than `gather`, which first copies the index for every pixel; in float32 it is the other way round
        matrix = F.one_hot(order, maps.shape[1]).to(maps.dtype)
        return F.conv2d(maps, matrix[:, :, None, None])
    pixels = maps.permute(0, 2, 3, 1)
    return pixels.gather(3, order.expand(pixels.shape)).permute(0, 3, 1, 2)


class _ReorderChannels(torch.autograd.Function):
    """A permutation's backward is the inverse permutation: nothing needs to be added up."""

    generate_vmap_rule = True

    @staticmethod
    def forward(maps: Tensor, order: Tensor) -> Tensor:
        return _taken(maps, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (order,) = ctx.saved_tensors
        return _taken(gradient, torch.argsort(order)), None
