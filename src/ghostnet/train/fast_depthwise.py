"""Depthwise convolutions in training on x86 CPUs, asked of oneDNN in the forms that it has depthwise kernels for.

oneDNN computes four kinds as grouped convolutions, each group padded to 16 channels: several maps from one (a Ghost
module of ratio 3 or more), the gradient of kernels wider than 3, that of kernels larger than their input (the last maps
of small images), and in bfloat16 the gradient of the input where the stride is above 1. Here they are, in turn: one
convolution for each map of a channel; gradients of three columns of the kernel at a time, from shifted inputs; of
inputs that zeros make as large as the kernel; for every stride-th row and column of the input a convolution of the
gradient with the taps that meet them. The same sums, in another order. Measured on one core of a Zen 4, forward and
backward of a layer at batches of 32 and 128, time over PyTorch's own: in bfloat16 0.16-0.33 for several maps, 0.09-0.44
for wide kernels, 0.03-0.25 with a stride; in float32 0.27-0.82 and 0.40-0.85, strides are left as they are. The
gradient of kernels larger than their input, on one core of an Intel Xeon: 0.03-0.37 of at least 64 channels in bfloat16
(0.5 at 8 images), 0.14-0.9 in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet.train.native import (
    convolved,
    forward_replaced,
    is_channels_last,
    native_gradients,
    output_size,
)

_COLUMNS = 3  # of a kernel, for whose gradient oneDNN has a depthwise algorithm
# With several maps for a channel; below, the small operators around the convolutions cost more than they gain: 1.1-1.3
# at a tenth of these sizes, and as much in float32 on fewer channels.
_MIN_ELEMENTS = {torch.bfloat16: 1 << 16, torch.float32: 1 << 17}
_MIN_CHANNELS = 6
# Elements of an input smaller than its kernel; below, all of it takes a tenth of a millisecond.
_MIN_SMALL = 1 << 9


@contextmanager
def fast_depthwise(model: nn.Module) -> Iterator[int]:
    """Compute the depthwise convolutions of a network in training by oneDNN's depthwise kernels while the block runs.

    Only `forward` of the modules is replaced, and given back at the end whatever happens.

    Args:
        model: the network; its undilated depthwise convolutions of exactly the type `nn.Conv2d` that pad with zeros
            take part.

    Yields:
        How many convolutions take part; which way one goes is decided anew for each input.

    Example:
        >>> with fast_depthwise(nn.Sequential(nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 16, 3))) as convolutions:
        ...     convolutions
        1
    """
    found = (module for module in model.modules() if _takes_part(module))
    with forward_replaced(found, _forward) as count:
        yield count


def depthwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Convolve each channel with kernels of its own, as `F.conv2d` with as many groups as channels does.

    Args:
        x: `(N, C, H, W)` in channels_last on a CPU, bfloat16 or float32.
        weight: `(C k, 1, kh, kw)` for k maps of each channel, of the type of `x`.
        bias: `(C k,)` or None.
        stride: rows, columns.
        padding: rows and columns of zeros at each side, below the kernel's.

    Returns:
        `(N, C k, H', W')` in channels_last.
    """
    output: Tensor = _Depthwise.apply(x, weight, bias, stride, padding)
    return output


def _takes_part(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    if type(module) is not nn.Conv2d or module.groups != module.in_channels or module.in_channels < 2:
        return False
    if module.padding_mode != "zeros" or isinstance(module.padding, str) or module.dilation != (1, 1):
        return False
    return all(zeros < size for zeros, size in zip(module.padding, module.kernel_size, strict=True))


def _forward(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return convolved(conv, x, _pays, depthwise_conv2d)


def _pays(conv: nn.Conv2d, x: Tensor, dtype: torch.dtype) -> bool:
    """Say whether PyTorch would have oneDNN compute one of the four kinds as a grouped convolution, and lose by it."""
    if dtype not in _MIN_ELEMENTS or conv.weight.dtype not in (dtype, torch.float32):
        return False
    if x.dim() != 4 or x.shape[1] != conv.in_channels:
        return False
    if not is_channels_last(x) and not (x.shape[2:] == (1, 1) and x.is_contiguous()):
        return False
    if not torch.backends.mkldnn.enabled or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    several, strided = conv.out_channels > conv.in_channels, max(conv.stride) > 1
    if several and x.numel() < _MIN_ELEMENTS[dtype]:
        return False
    small = x.numel() >= _MIN_SMALL and any(_missing(x, conv.kernel_size)) and conv.weight.requires_grad
    wide = conv.kernel_size[1] > _COLUMNS
    if dtype == torch.bfloat16:
        return several or strided or wide or small
    return not strided and (wide or small or (several and conv.in_channels >= _MIN_CHANNELS))


def _missing(x: Tensor, kernel: tuple[int, ...]) -> tuple[int, int]:
    """Return how many rows and columns an input has less than the part of a kernel that is asked for at a time."""
    rows, columns = x.shape[2:]
    return max(0, kernel[0] - rows), max(0, min(kernel[1], _COLUMNS) - columns)


def _maps_of(maps: Tensor, each: int, number: int) -> Tensor:
    """Return map `number` of the `each` maps of every channel, a view `(N, C, H, W)`."""
    return maps.permute(0, 2, 3, 1).unflatten(-1, (-1, each))[..., number].permute(0, 3, 1, 2)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.biased = stride, padding, bias is not None
        channels, each = x.shape[1], weight.shape[0] // x.shape[1]
        if each == 1:
            return F.conv2d(x, weight, bias, stride, padding, groups=channels)
        sizes = output_size(x, weight, stride, padding)
        shape = (len(x), channels * each, *sizes)
        output = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        for number in range(each):
            biases = None if bias is None else bias[number::each]
            made = F.conv2d(x, weight[number::each], biases, stride, padding, groups=channels)
            _maps_of(output, each, number).copy_(made)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.biased and ctx.needs_input_grad[2])
        if torch.is_grad_enabled():  # for second derivatives, which PyTorch's own has
            found = native_gradients(gradient, x, weight, ctx.stride, ctx.padding, wanted, groups=x.shape[1])
            return (*found, None, None)
        of_bias = gradient.sum((0, 2, 3)) if wanted[2] else None
        each = weight.shape[0] // x.shape[1]
        of_x: Tensor | None = None
        of_weight = torch.empty_like(weight) if wanted[1] else None
        for number in range(each):
            upstream = gradient if each == 1 else _maps_of(gradient, each, number)
            upstream = upstream.contiguous(memory_format=torch.channels_last)
            kernels = weight[number::each]
            if wanted[0]:
                part = _gradient_of_input(upstream, x, kernels, ctx.stride, ctx.padding)
                of_x = part if of_x is None else of_x.add_(part)
            if of_weight is not None:
                of_weight[number::each] = _gradient_of_kernels(upstream, x, kernels, ctx.stride, ctx.padding)
        return of_x, of_weight, of_bias, None, None


def _gradient_of_input(
    gradient: Tensor, x: Tensor, kernels: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Return the input's gradient for one map a channel."""
    if max(stride) == 1 or x.dtype != torch.bfloat16:
        found = native_gradients(
            gradient, x, kernels, stride, padding, (True, False, False), groups=x.shape[1]
        )[0]
        assert found is not None  # for the type checker
        return found
    output = torch.empty_like(x)  # channels_last, as `_pays` asks
    down, across = (_phases(x, gradient, kernels, stride, padding, side) for side in (2, 3))
    for row in down:
        for column in across:
            part = output[:, :, row.start :: stride[0], column.start :: stride[1]]
            taps = kernels[:, :, row.tap :: stride[0], column.tap :: stride[1]].flip(2, 3)
            if not taps.numel():  # a stride wider than the kernel leaves these out
                part.zero_()
                continue
            around = (row.around, column.around)
            found = F.conv2d(gradient, taps, padding=around, groups=x.shape[1])
            part.copy_(
                found[:, :, row.first : row.first + row.count, column.first : column.first + column.count]
            )
    return output


@dataclass(frozen=True)
class _Phase:
    """Every stride-th row of an input (or column): which ones, and which taps of the kernel meet them.

    Attributes:
        start: the first row.
        count: how many there are.
        tap: the first of these taps; the next is a stride further.
        around: zeros at each side of the gradient, for a convolution with the taps, last one first.
        first: row of its output that belongs to `start`.
    """

    start: int
    count: int
    tap: int
    around: int
    first: int


def _phases(
    x: Tensor,
    gradient: Tensor,
    kernels: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    side: int,
) -> list[_Phase]:
    """Return the phases of one side (2: rows, 3: columns) of a strided convolution's input."""
    size, made, taps = x.shape[side], gradient.shape[side], kernels.shape[side]
    step, zeros = stride[side - 2], padding[side - 2]
    phases = []
    for start in range(min(step, size)):
        tap = (start + zeros) % step
        count, shift = len(range(start, size, step)), (start + zeros) // step
        before = len(range(tap, taps, step)) - 1 - shift  # rows read above the gradient; then those below it
        around = max(before, count - 1 + shift - (made - 1), 0)
        phases.append(_Phase(start, count, tap, around, around - before))
    return phases


def _gradient_of_kernels(
    gradient: Tensor, x: Tensor, kernels: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Return the kernels' gradient for one map a channel, three columns of them at a time."""
    if any(missing := _missing(x, kernels.shape[2:])):
        # zeros below and on the right, in steps of the stride: each makes one more output, whose gradient is zero
        down, across = (-(-count // step) for count, step in zip(missing, stride, strict=True))
        x = F.pad(x, (0, across * stride[1], 0, down * stride[0])).contiguous(
            memory_format=torch.channels_last
        )
        gradient = F.pad(gradient, (0, across, 0, down)).contiguous(memory_format=torch.channels_last)
    width = kernels.shape[3]
    if width <= _COLUMNS:
        found = native_gradients(
            gradient, x, kernels, stride, padding, (False, True, False), groups=x.shape[1]
        )[1]
        assert found is not None  # for the type checker
        return found
    output = torch.empty_like(kernels)
    # columns that a tap at 0 reads beyond the input
    last = (gradient.shape[3] - 1) * stride[1] - x.shape[3] + 1
    for start in [*range(0, width - _COLUMNS, _COLUMNS), width - _COLUMNS]:
        left = padding[1] - start
        moved = F.pad(x, (left, last + _COLUMNS - 1 - left))
        columns = slice(start, start + _COLUMNS)
        inside = (padding[0], 0)
        found = native_gradients(
            gradient, moved, kernels[..., columns], stride, inside, (False, True, False), groups=x.shape[1]
        )[1]
        assert found is not None  # for the type checker
        output[..., columns] = found
    return output
