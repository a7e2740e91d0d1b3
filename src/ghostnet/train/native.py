"""What layers that `fit` computes its own way on CPUs share: replaced forwards, and when PyTorch keeps them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


@contextmanager
def forward_replaced(modules: Iterable[nn.Module], forward: Callable[..., Any]) -> Iterator[int]:
    """Let `forward(module, input)` stand for each module's own while the block runs, and give it back whatever happens.

    Args:
        modules: a module whose forward another block or tool has replaced is left alone.
        forward: takes a module and its input.

    Yields:
        How many modules take part.

    Example:
        >>> with forward_replaced([relu := nn.ReLU()], lambda module, x: -x):
        ...     relu(torch.ones(1))
        tensor([-1.])
    """
    taken = [module for module in modules if "forward" not in vars(module)]
    for module in taken:
        vars(module)["forward"] = functools.partial(forward, module)
    try:
        yield len(taken)
    finally:
        for module in taken:
            vars(module).pop("forward", None)


def on_plain_cpu(*values: Tensor | None) -> bool:
    """Say whether all are tensors on a CPU that nothing traces or wraps: no compiler, exporter, vmap or forward mode.

    Example:
        >>> on_plain_cpu(torch.ones(1), None)
        True
    """
    if torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch.jit.is_tracing():
        return False
    if forward_ad._current_level >= 0:
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return not any(value is not None and (value.device.type != "cpu" or wrapped(value)) for value in values)


def is_channels_last(maps: Tensor) -> bool:
    """Say whether maps `(N, C, H, W)` lie in channels_last, and in no other format as well (as 1x1 maps do).

    Example:
        >>> is_channels_last(torch.ones(1, 2, 3, 3))
        False
    """
    return not maps.is_contiguous() and maps.is_contiguous(memory_format=torch.channels_last)


def convolved(
    conv: nn.Conv2d,
    x: Tensor,
    pays: Callable[[nn.Conv2d, Tensor, torch.dtype], bool],
    convolve: Callable[..., Tensor],
) -> Tensor:
    """Return what a convolution makes of maps, our way where gradients are wanted and it pays, else PyTorch's.

    Args:
        conv: the module, with numbers for its padding.
        x: its input.
        pays: says so of the module, its input, and the type that is computed in.
        convolve: our way, of input, weight, bias, stride and padding.
    """
    if not torch.is_grad_enabled() or type(x) is not Tensor or not on_plain_cpu(x, conv.weight, conv.bias):
        return nn.Conv2d.forward(conv, x)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if not pays(conv, x, dtype):
        return nn.Conv2d.forward(conv, x)
    weight, bias = conv.weight.to(dtype), None if conv.bias is None else conv.bias.to(dtype)
    stride, padding = conv.stride, conv.padding
    assert isinstance(padding, tuple)  # for the type checker
    return convolve(x.to(dtype), weight, bias, (stride[0], stride[1]), (padding[0], padding[1]))


def output_size(
    x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]
) -> tuple[int, int]:
    """Return rows and columns of what an undilated convolution makes of maps.

    Args:
        x: `(N, C, H, W)`.
        weight: `(C', C / groups, kh, kw)`.
        stride: rows, columns.
        padding: rows and columns of zeros at each side.

    Example:
        >>> output_size(torch.ones(1, 2, 8, 7), torch.ones(4, 2, 3, 3), (2, 1), (1, 1))
        (4, 7)
    """
    rows, columns = (
        (size + 2 * zeros - taps) // step + 1
        for size, taps, step, zeros in zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)
    )
    return rows, columns


def native_gradients(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    wanted: tuple[bool, bool, bool],
    *,
    groups: int = 1,
) -> tuple[Tensor | None, ...]:
    """Return PyTorch's gradients of an undilated convolution's input, weights and bias, None for what is not wanted.

    Args:
        gradient: of the output, `(N, C', H', W')`.
        x: the input.
        weight: the kernels.
        stride: rows, columns.
        padding: rows and columns of zeros at each side.
        wanted: which of the three.
        groups: of the convolution.
    """
    found: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
        gradient, x, weight, [len(weight)], stride, padding, [1, 1], False, [0, 0], groups, wanted
    )
    return found
