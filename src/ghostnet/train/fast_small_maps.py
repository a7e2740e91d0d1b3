"""Convolutions of small maps in training on x86 CPUs, as products of matrices.

oneDNN's convolutions have costs for each block of weights that many pixels must share: at the end of a network there
are many weights and few pixels. A convolution of single pixels (1x1, without padding and stride) is one product, and so
are both its gradients. For larger kernels the gradient of the weights is one product for each tap, of the gradient and
the input, both with zeros around the maps so that a tap is a shift of all rows of pixels. Of maps of at most 2x2
pixels, where most taps of a 3x3 kernel meet nothing but padding, the output and the gradient of the input are products
as well, of the patches under each output pixel laid side by side.

Measured on one core of an Intel Xeon with AMX, time over PyTorch's own. Kernels of 1x1, 32 and 128 images, output and
both gradients: 0.02-0.7 on 1x1 and 2x2 pixels, 0.1-1.0 on 4x4 and 7x7, in bfloat16 about 0.8 for all three on 14x14;
with oneDNN told to use AVX-512 alone 0.05-0.9 on 1x1 and 2x2 and 0.4-1.1 on 7x7. Weights of kernels of 3x3 in bfloat16,
512 channels to 256, 32 to 500 images: 0.18-0.22 / 0.23-0.33 / 0.37-0.67 on maps of 3x3 / 4x4 / 7x7 pixels; 128 to 128
0.38-0.46 / 0.47-0.7 on 3x3 / 4x4; in float32 they gain only where there are very many, 0.46-0.86 on 3x3 and 4x4. Output
and input of 2x2 pixels 0.17-0.39. Without AMX larger kernels go this way on the smallest maps only: with oneDNN told to
use AVX-512 alone, bfloat16 gained on no others.
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

_TINY = 4  # pixels of an output map for which all of a larger kernel's convolution is a product
_POINTWISE = 49  # the same for kernels of 1x1
_POINTWISE_AMX = 196  # in bfloat16 with AMX
_MIN_POINTWISE = 8  # channels on either side; fewer were not measured
_MIN_CHANNELS = 64  # of larger kernels
_MIN_ROWS = 128  # output pixels of a batch, for larger kernels; fewer were not measured
_MAX_ROWS = 2560  # where patches are laid side by side; with 8,192 they cost what is gained
# Pixels of an output map up to which the weights' gradient pays in bfloat16, by weights of one tap
_MAX_PIXELS = ((1 << 17, 64), (1 << 15, 49), (1 << 14, 25), (1 << 12, 9))
_MAX_PIXELS_FLOAT32 = ((1 << 17, 16),)
_ROWS = 8192  # pixels at a time in the products of taps: rows that stay in a cache


@contextmanager
def fast_small_maps(model: nn.Module) -> Iterator[int]:
    """Compute the convolutions of a network in training by products of matrices where maps are small, for the block.

    Only `forward` of the modules is replaced, and given back at the end whatever happens.

    Args:
        model: the network; its undilated convolutions of exactly the type `nn.Conv2d` take part that pad with zeros,
            make all channels from all, and read and make at least 64 of them, or 8 with kernels of 1x1.

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
    """Convolve as `F.conv2d` does; of kernels of 1x1 and the smallest maps all is products, else the weights' gradient.

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
    fewest = _MIN_POINTWISE if _is_pointwise(module.weight, module.stride, module.padding) else _MIN_CHANNELS
    return min(module.in_channels, module.out_channels) >= fewest


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
    pixels, bf16 = sizes[0] * sizes[1], dtype == torch.bfloat16
    if _is_pointwise(conv.weight, conv.stride, conv.padding):
        return len(x) * pixels > 0 and pixels <= (_POINTWISE_AMX if bf16 and _has_amx() else _POINTWISE)
    rows = len(x) * pixels
    if rows < _MIN_ROWS:
        return False
    if pixels <= _TINY and conv.kernel_size != (1, 1):
        return rows <= _MAX_ROWS
    return _has_amx() and _weights_pay(conv, rows, pixels, bf16=bf16)


def _weights_pay(conv: nn.Conv2d, rows: int, pixels: int, *, bf16: bool) -> bool:
    """Say whether the weights' gradient alone is quicker as a product, with AMX."""
    if not _by_taps(conv.stride, bf16=bf16):
        if rows > _MAX_ROWS:
            return False
        if bf16:
            return True
    weights = conv.in_channels * conv.out_channels
    limits = _MAX_PIXELS if bf16 else _MAX_PIXELS_FLOAT32
    return pixels <= next((most for fewest, most in limits if weights >= fewest), 0)


def _is_shift(stride: tuple[int, ...]) -> bool:
    return tuple(stride) == (1, 1)


def _is_pointwise(weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...] | str) -> bool:
    return weight.shape[2:] == (1, 1) and _is_shift(stride) and tuple(padding) == (0, 0)


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
        ctx.pointwise = _is_pointwise(weight, stride, padding)
        ctx.tiny = sizes[0] * sizes[1] <= _TINY and weight.shape[2:] != (1, 1)
        if not (ctx.tiny or ctx.pointwise):
            return F.conv2d(x, weight, bias, stride, padding)
        shape = (len(x), len(weight), *sizes)
        output = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        rows = _rows(
            output
        )  # written through: what autograd is handed must be no view, or nobody may change it
        read = _patches(x, weight, stride, padding)
        if bias is None:
            torch.mm(read, _matrix(weight).t(), out=rows)
        else:
            torch.addmm(bias, read, _matrix(weight).t(), out=rows)
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
        if wanted[0] and ctx.pointwise:
            of_x = (rows @ _matrix(weight)).view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)
        elif wanted[0] and ctx.tiny:
            of_x = _gathered(rows @ _matrix(weight), x, weight, stride, padding)
        elif wanted[0]:
            of_x = native_gradients(gradient, x, weight, stride, padding, (True, False, False))[0]
        taps = not (ctx.tiny or ctx.pointwise) and _by_taps(stride, bf16=x.dtype == torch.bfloat16)
        if wanted[1] and taps:
            of_weight = _gradient_by_taps(gradient, x, weight, padding)
        elif wanted[1]:
            of_weight = (
                (rows.t() @ _patches(x, weight, stride, padding))
                .view(len(weight), *weight.shape[2:], -1)
                .permute(0, 3, 1, 2)
            )
        return of_x, of_weight, rows.sum(0) if wanted[2] else None, None, None


def _by_taps(stride: tuple[int, ...], *, bf16: bool) -> bool:
    """Say how the weights' gradient is quicker where maps are not tiny: in float32 patches are."""
    return bf16 and _is_shift(stride)


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


def _gradient_by_taps(gradient: Tensor, x: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
    """Return the weights' gradient of an unstrided convolution: one product a tap, sums over batches in float32.

    Both are laid on a grid that is as large as the input with the zeros above and on the left of each map, which also
    are those on the right and below of the map before: what a tap reads for an output pixel, is then the same number of
    pixels away for all.
    """
    rows, columns = gradient.shape[2:]
    grid = (max(x.shape[2] + padding[0], rows), max(x.shape[3] + padding[1], columns))
    each = max(1, _ROWS // (grid[0] * grid[1]))
    found = None
    for start in range(0, len(x), each):
        end = start + each
        part = _gradients_of_taps(gradient[start:end], x[start:end], weight, padding, grid)
        found = part if found is None else found.float().add_(part)
    assert found is not None  # `_pays` leaves batches without images to PyTorch
    return found.to(x.dtype).permute(2, 3, 0, 1)


def _gradients_of_taps(
    gradient: Tensor, x: Tensor, weight: Tensor, padding: tuple[int, int], grid: tuple[int, int]
) -> Tensor:
    """Return `(kh, kw, C_out, C_in)` of some images, on a grid of these rows and columns for each."""
    height, width = grid
    made, read, taps_down, taps_across = weight.shape
    count = len(x) * height * width
    before = padding[0] * width + padding[1]
    after = (taps_down - 1) * width + taps_across - 1
    pixels = x.new_zeros(count + max(before, after), read)
    pixels[before : before + count].view(-1, height, width, read)[:, : x.shape[2], : x.shape[3]] = x.permute(
        0, 2, 3, 1
    )
    upstream = x.new_zeros(made, len(x), height, width)
    upstream[:, :, : gradient.shape[2], : gradient.shape[3]] = gradient.transpose(0, 1)
    found = x.new_empty(taps_down, taps_across, made, read)
    for row in range(taps_down):
        for column in range(taps_across):
            shift = row * width + column
            torch.mm(upstream.view(made, count), pixels[shift : shift + count], out=found[row, column])
    return found
