"""Convolutions with small output maps in training on x86 CPUs, as products of matrices.

oneDNN's gradient of a convolution's weights has a cost for each block of weights that many pixels must share: at the
end of a network there are many weights and few pixels. The same sums are one product, of the gradient and of the
patches under each output pixel laid side by side, which cost little memory where maps are small. Of maps of at most
2x2 pixels, where most taps of a 3x3 kernel meet nothing but padding, the output and the gradient of the input are
products as well. Measured on one core of an Intel Xeon with AMX, time over PyTorch's own, for maps of 2x2 / 4x4 / 7x7
pixels and kernels of 3x3: weights in bfloat16 0.04-0.05 / 0.20-0.28 / 0.29-0.57, in float32 0.21-0.26 / 0.67-0.87 /
0.76-0.91, for kernels of 1x1 on 7x7 pixels 0.49-0.63 and 0.66-0.94; output and input of 2x2 pixels 0.17-0.39. Without
AMX only the smallest maps go this way: with oneDNN told to use AVX-512 alone, bfloat16 gained on no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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

_TINY = 4  # pixels of an output map for which all of the convolution is a product
_MAX_ROWS = (
    2560  # output pixels of a batch: 4x4 at 128 images, 7x7 at 52; with 8,192 the patches cost what is gained
)
_MIN_CHANNELS = 64  # on either side; below there are few weights
_MIN_ROWS = 128  # fewer were not measured


@contextmanager
def fast_small_maps(model: nn.Module) -> Iterator[int]:
    """Compute the convolutions of a network in training by products of matrices where maps are small, for the block.

    Only `forward` of the modules is replaced, and given back at the end whatever happens.

    Args:
        model: the network; its undilated convolutions of exactly the type `nn.Conv2d` take part that read at least 64
            channels and make as many, all from all, and pad with zeros.

    Yields:
        How many convolutions take part; which way one goes is decided anew for each input.

    Example:
        >>> with fast_small_maps(nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3))) as convolutions:
        ...     convolutions
        1
    """
    found = (module for module in model.modules() if _takes_part(module))
    with forward_replaced(found, _forward) as count:
        yield count


def small_maps_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Convolve as `F.conv2d` does; the gradient of the weights, and all of it for the smallest maps, are products.

    Args:
        x: `(N, C_in, H, W)` on a CPU, bfloat16 or float32.
        weight: `(C_out, C_in, kh, kw)`, of the type of `x`.
        bias: `(C_out,)` or None.
        stride: rows, columns.
        padding: rows and columns of zeros at each side.

    Returns:
        `(N, C_out, H', W')` in channels_last.
    """
    output: Tensor = _Products.apply(x, weight, bias, stride, padding)
    return output


def _takes_part(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    if type(module) is not nn.Conv2d or module.groups != 1 or module.dilation != (1, 1):
        return False
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return False
    return min(module.in_channels, module.out_channels) >= _MIN_CHANNELS


def _forward(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return convolved(conv, x, _pays, small_maps_conv2d)


def _pays(conv: nn.Conv2d, x: Tensor, dtype: torch.dtype) -> bool:
    """Say whether the maps are so small that products are quicker than oneDNN's convolutions on this processor."""
    if dtype not in (torch.bfloat16, torch.float32) or conv.weight.dtype not in (dtype, torch.float32):
        return False
    if not conv.weight.requires_grad:
        return False
    if x.dim() != 4 or x.shape[1] != conv.in_channels or not (is_channels_last(x) or x.shape[2:] == (1, 1)):
        return False
    if not torch.backends.mkldnn.enabled or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    assert isinstance(conv.padding, tuple)  # for the type checker
    sizes = output_size(x, conv.weight, conv.stride, conv.padding)
    pixels = sizes[0] * sizes[1]
    if not _MIN_ROWS <= len(x) * pixels <= _MAX_ROWS:
        return False
    tiny = pixels <= _TINY and conv.kernel_size != (1, 1)
    return tiny or _has_amx()


def _has_amx() -> bool:
    ask = getattr(torch.cpu, "_is_amx_tile_supported", None)  # nothing public tells it in all versions
    return ask is not None and bool(ask())


class _Products(torch.autograd.Function):
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
        sizes = output_size(x, weight, stride, padding)
        ctx.tiny = sizes[0] * sizes[1] <= _TINY and weight.shape[2:] != (1, 1)
        if not ctx.tiny:
            return F.conv2d(x, weight, bias, stride, padding)
        shape = (len(x), len(weight), *sizes)
        output = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        rows = _rows(
            output
        )  # written through: what autograd is handed must be no view, or nobody may change it
        torch.mm(_patches(x, weight, stride, padding), _matrix(weight).t(), out=rows)
        if bias is not None:
            rows += bias
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.biased and ctx.needs_input_grad[2])
        if torch.is_grad_enabled():  # for second derivatives, which PyTorch's own has
            return (*native_gradients(gradient, x, weight, stride, padding, wanted), None, None)
        rows = _rows(gradient)
        of_x = of_weight = None
        if wanted[0] and ctx.tiny:
            of_x = _gathered(rows @ _matrix(weight), x, weight, stride, padding)
        elif wanted[0]:
            of_x = native_gradients(gradient, x, weight, stride, padding, (True, False, False))[0]
        if wanted[1]:
            found = rows.t() @ _patches(x, weight, stride, padding)
            of_weight = found.view(len(weight), *weight.shape[2:], -1).permute(0, 3, 1, 2)
        return of_x, of_weight, rows.sum(0) if wanted[2] else None, None, None


def _matrix(weight: Tensor) -> Tensor:
    """View or copy weights as `(C_out, kh kw C_in)`."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _rows(maps: Tensor) -> Tensor:
    """Return maps as rows of pixels `(N H W, C)`, a view where they lie in channels_last."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _windows(
    padded: Tensor, weight: Tensor, stride: tuple[int, int], sizes: tuple[int, int]
) -> Iterator[tuple[int, int, Tensor]]:
    """Give each tap of the kernel, and what it meets at every output pixel: a view of `(N, H, W, C)`."""
    down, across = ((size - 1) * step + 1 for size, step in zip(sizes, stride, strict=True))
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            yield (
                row,
                column,
                padded[:, row : row + down : stride[0], column : column + across : stride[1]],
            )


def _patches(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """Return what lies under each output pixel as a row: `(N H' W', kh kw C_in)`."""
    sizes = output_size(x, weight, stride, padding)
    pixels = x.permute(0, 2, 3, 1)
    if any(padding):
        pixels = F.pad(pixels, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    if weight.shape[2:] == (1, 1):
        return pixels[:, :: stride[0], :: stride[1]].reshape(-1, x.shape[1])
    rows = x.new_empty(len(x), *sizes, *weight.shape[2:], x.shape[1])
    for row, column, window in _windows(pixels, weight, stride, sizes):
        rows[:, :, :, row, column] = window
    return rows.view(-1, weight[0].numel())


def _gathered(
    rows: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Return the gradient of the input from that of the patches: each pixel's sum, in float32."""
    sizes = output_size(x, weight, stride, padding)
    down, across = padding
    parts = rows.view(len(x), *sizes, *weight.shape[2:], x.shape[1])
    sums = torch.zeros(len(x), x.shape[2] + 2 * down, x.shape[3] + 2 * across, x.shape[1])
    for row, column, window in _windows(sums, weight, stride, sizes):
        window += parts[:, :, :, row, column]
    inside = sums[:, down : down + x.shape[2], across : across + x.shape[3]]
    return inside.to(x.dtype).permute(0, 3, 1, 2)
