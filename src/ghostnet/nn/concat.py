"""Concatenation of intrinsic and ghost maps whose backward hands on dense gradients.

`torch.cat`'s own backward returns views into the gradient of the whole; batch norm and convolution then copy
or walk strided memory. One copy made at once is cheaper on memory-bound Ghost networks. Exports and compilers
see the plain `torch.cat`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx


def concat_channels(first: Tensor, second: Tensor) -> Tensor:
    """Concatenate along dimension 1; the gradients that flow back are dense in the gradient's memory format.

    Args:
        first: maps `(N, C_1, H, W)`.
        second: maps `(N, C_2, H, W)`.

    Returns:
        `(N, C_1 + C_2, H, W)`, equal to `torch.cat([first, second], dim=1)`; nothing is saved for backward.

    Example:
        >>> concat_channels(torch.zeros(1, 2, 4, 4), torch.ones(1, 3, 4, 4)).shape
        torch.Size([1, 5, 4, 4])
    """
    if _plain_is_enough(first, second):
        return torch.cat([first, second], dim=1)
    return _ConcatChannels.apply(first, second)


def _plain_is_enough(first: Tensor, second: Tensor) -> bool:
    if isinstance(first, fx.Proxy):  # record the plain operation
        return True
    if torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch.jit.is_tracing():
        return True
    return not (torch.is_grad_enabled() and (first.requires_grad or second.requires_grad))


def _dense(piece: Tensor, like: Tensor) -> Tensor:
    channels_last = (
        like.dim() == 4
        and not torch._C._functorch.is_functorch_wrapped_tensor(like)  # vmap cannot tell the format
        and like.is_contiguous(memory_format=torch.channels_last)
        and not like.is_contiguous()  # a 1x1 map is both: the default format then
    )
    return piece.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


class _ConcatChannels(torch.autograd.Function):
    """`torch.cat` on dimension 1 with a backward that copies each slice once."""

    generate_vmap_rule = True

    @staticmethod
    def forward(first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([first, second], dim=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.boundary = inputs[0].shape[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        first = second = None
        if ctx.needs_input_grad[0]:
            first = _dense(gradient[:, : ctx.boundary], gradient)
        if ctx.needs_input_grad[1]:
            second = _dense(gradient[:, ctx.boundary :], gradient)
        return first, second
