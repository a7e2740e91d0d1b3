"""The input patches under one window of a convolution's outputs: size, borders, taps, and how many are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MOST_ROWS = 2**17  # output positions that are read at most
_MULTIPLY_BUDGET = 1.2e11  # rows x columns^2 of a layer's Gram matrices: a few seconds on one core
_DOUBLE_BUDGET = 2e10  # below it the products are formed in float64
_STRIPE = 256  # rows of a Gram matrix that are multiplied at once
CHUNK = 2**24  # elements of one unfolded piece


def reading(positions: int, columns: int, *, groups: int = 1) -> tuple[float, torch.dtype]:
    """Return the share of the output positions that is read, and the type in which Gram matrices are formed.

    Args:
        positions: of all images.
        columns: of each group's Gram matrix.
        groups: of the convolution.
    """
    each = groups * columns**2
    rows = min(positions, int(_MULTIPLY_BUDGET / each), _MOST_ROWS)
    return rows / max(1, positions), torch.float64 if rows * each < _DOUBLE_BUDGET else torch.float32


def gram_of(inputs: Tensor) -> Tensor:
    """Return `inputs @ inputs.mT`, of which little more than half is multiplied: `(..., D, L) -> (..., D, D)`."""
    columns = inputs.shape[-2]
    if columns <= _STRIPE:
        return inputs @ inputs.mT
    gram = inputs.new_empty(*inputs.shape[:-1], columns)
    for start in range(0, columns, _STRIPE):
        end = min(start + _STRIPE, columns)
        stripe = inputs[..., start:end, :] @ inputs[..., start:, :].mT
        gram[..., start:end, start:] = stripe
        gram[..., start:, start:end] = stripe.mT
    return gram


def patch_columns(convolution: nn.Conv2d, cheap_kernel_size: int) -> int:
    """Return how many inputs one d x d window of outputs sees: the size of the Gram matrix."""
    height, width = patch_size(convolution, cheap_kernel_size)
    return convolution.in_channels * height * width


def convolution_output(convolution: nn.Conv2d, inputs: Tensor, weight: Tensor | None = None) -> Tensor:
    """Apply the convolution (or another `weight` of its shape) without its bias."""
    padded = padded_inputs(convolution, inputs, 1)
    weight = convolution.weight if weight is None else weight
    return F.conv2d(padded, weight, None, convolution.stride, 0, convolution.dilation, convolution.groups)


def patch_size(convolution: nn.Conv2d, cheap_kernel_size: int) -> tuple[int, int]:
    """Height and width of the patch under one window of outputs."""
    height, width = (
        (kernel - 1) * dilation + 1 + (cheap_kernel_size - 1) * stride
        for kernel, dilation, stride in zip(
            convolution.kernel_size, convolution.dilation, convolution.stride, strict=True
        )
    )
    return height, width


def padded_inputs(convolution: nn.Conv2d, inputs: Tensor, cheap_kernel_size: int) -> Tensor:
    """Pad as the convolution does, then with zeros for taps of the cheap filter that stand outside the map."""
    reach = cheap_kernel_size // 2
    rows, columns = convolution.stride[0] * reach, convolution.stride[1] * reach
    outside = [columns, columns, rows, rows]
    own: list[int] = list(convolution._reversed_padding_repeated_twice)  # left, right, top, bottom
    if convolution.padding_mode == "zeros":
        return F.pad(inputs, [one + more for one, more in zip(own, outside, strict=True)])
    return F.pad(F.pad(inputs, own, mode=convolution.padding_mode), outside)


def slices_of_taps(convolution: nn.Conv2d, cheap_kernel_size: int) -> list[tuple[slice, slice]]:
    """Rows and columns of the large patch that the convolution reads when it stands at each tap."""
    along = [
        [
            slice(tap * stride, tap * stride + (kernel - 1) * dilation + 1, dilation)
            for tap in range(cheap_kernel_size)
        ]
        for kernel, dilation, stride in zip(
            convolution.kernel_size, convolution.dilation, convolution.stride, strict=True
        )
    ]
    return [(down, across) for down in along[0] for across in along[1]]


def rows_of_taps(convolution: nn.Conv2d, cheap_kernel_size: int) -> Tensor:
    """Which entries of the large patch the convolution reads when it stands at each tap: `(T, C k k)`."""
    height, width = patch_size(convolution, cheap_kernel_size)
    index = torch.arange(convolution.in_channels * height * width).view(-1, height, width)
    taps = slices_of_taps(convolution, cheap_kernel_size)
    return torch.stack([index[:, down, across].flatten() for down, across in taps])


def patches_at(
    padded: Tensor, size: tuple[int, int], stride: tuple[int, int], chosen: Tensor, width: int
) -> Tensor:
    """Patches at the chosen output positions only, in unfold's order: `(N, C h w, L)`."""
    top, left = chosen // width * stride[0], chosen % width * stride[1]
    rows, columns = torch.arange(size[0])[:, None], torch.arange(size[1])[None]
    inside = (rows * padded.shape[-1] + columns).flatten()
    index = inside[:, None] + (top * padded.shape[-1] + left)
    return padded.flatten(2)[:, :, index.flatten()].view(len(padded), -1, len(chosen))


def valid_taps(size: torch.Size, cheap_kernel_size: int) -> Tensor:
    """For each output position, which taps of the cheap filter stay inside the map: `(H W, T)` booleans."""
    reach = cheap_kernel_size // 2
    inside = F.pad(torch.ones(1, 1, *size), [reach] * 4)
    return F.unfold(inside, cheap_kernel_size)[0].T > 0.5


def undilated(weight: Tensor, dilation: tuple[int, ...]) -> Tensor:
    """Write a dilated filter out, with its holes as zeros."""
    size = [(kernel - 1) * step + 1 for kernel, step in zip(weight.shape[2:], dilation, strict=True)]
    whole = weight.new_zeros(*weight.shape[:2], *size)
    whole[:, :, :: dilation[0], :: dilation[1]] = weight
    return whole


def stride_of(convolution: nn.Conv2d) -> tuple[int, int]:
    return convolution.stride[0], convolution.stride[1]


def thin(count: int, share: float, generator: torch.Generator) -> Tensor:
    """Choose a share of `count` positions at random (at least one)."""
    if share >= 1:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[: max(1, round(count * share))]


def by_halves(pairs: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield of each batch every second image and the others, with 0 or 1 for which; images alternate throughout."""
    before = 0
    for inputs, target in pairs:
        for half in (0, 1):
            mine = slice((before + half) % 2, None, 2)
            if len(inputs[mine]):
                yield half, inputs[mine], target[mine]
        before += len(inputs)
