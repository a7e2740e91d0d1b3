"""All pairs of a layer's feature maps, each fitted by a d x d depthwise filter in closed form (Fig. 1, Table 2).

A filter w turns map i into map j: y_j ≈ w * y_i, zero-padded like the cheap operation of a Ghost module. Least squares
gives w = G_i^-1 b_ij, where G_i holds the inner products of map i's d² shifts with each other and b_ij those with map
j. G is computed once a map; b for all pairs at once, one matrix product a shift. So a layer of n maps costs d² products
of `(n, H·W)` with `(H·W, n)` an image, and no iteration.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ghostnet.checks import check_integer
from ghostnet.errors import InputError

_BLOCK_BYTES = 128 * 2**20  # of one working array; a few of them live at a time
_CUTOFF = (
    1e-10  # eigenvalues of G below this share of the largest count as zero: shifts that depend on each other
)
_DEAD = 1e-12  # a map whose variance is below this share of the layer's largest is constant: there is nothing to fit
_FAINT = 1e-4  # and below this one it is nobody's example of a pair that is alike


@dataclasses.dataclass(frozen=True)
class MapPair:
    """One ordered pair of maps and its fit.

    Attributes:
        source, target: channel numbers of maps i and j.
        mse: mean squared error over all positions and images, in the units of the maps.
        relative_error: mse over the variance of the target: 0 is a perfect copy, 1 no better than a constant.
    """

    source: int
    target: int
    mse: float
    relative_error: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class PairFits:
    """The fit errors of all ordered pairs of a layer's maps.

    Attributes:
        mse: `(C, C)` float64 on the CPU, entry (i, j) for map i turned into map j; infinity on the diagonal.
        variance: `(C,)` of each map over positions and images.
        cheap_kernel_size: d.
        bias: whether a constant was fitted too.
    """

    mse: Tensor
    variance: Tensor
    cheap_kernel_size: int
    bias: bool

    @property
    def relative(self) -> Tensor:
        """`mse` over the target's variance, `(C, C)`; infinity for constant targets, which need no map at all."""
        varies = self.variance > _DEAD * self.variance.max()
        scale = torch.where(varies, self.variance, torch.ones_like(self.variance))
        return torch.where(varies[None, :], self.mse / scale[None, :], torch.inf)

    def ranked(self, count: int | None = None) -> list[MapPair]:
        """Return the ordered pairs, the smallest relative error first; pairs with a faint map are left out.

        A map is faint if its variance is below 1e-4 of the layer's largest: a few lit pixels are fitted by anything.

        Args:
            count: how many at most; None gives all.
        """
        errors, places = self._in_order()
        kept = places[errors.isfinite()][:count]
        channels = len(self.variance)
        sources, targets = kept // channels, kept % channels
        numbers = (sources, targets, self.mse.flatten()[kept], errors[: len(kept)])
        return [MapPair(*row) for row in zip(*(column.tolist() for column in numbers), strict=True)]

    def _in_order(self) -> tuple[Tensor, Tensor]:
        """Return the relative errors of all pairs in rising order, infinite for faint maps, and their places."""
        faint = self.variance <= _FAINT * self.variance.max()
        relative = self.relative
        relative[faint] = torch.inf
        relative[:, faint] = torch.inf
        return relative.flatten().sort(stable=True)

    def pair(self, source: int, target: int) -> MapPair:
        """Return one pair by its channel numbers; its relative error is infinite where the target is constant."""
        return MapPair(source, target, float(self.mse[source, target]), float(self.relative[source, target]))

    def most_alike(self, count: int = 3) -> list[MapPair]:
        """Return the best pairs that share no map with each other, as Fig. 1 shows three; faint maps are left out.

        Args:
            count: how many; fewer are returned where the layer has not enough maps.
        """
        errors, places = self._in_order()
        chosen: list[MapPair] = []
        taken: set[int] = set()
        for place in places[errors.isfinite()].tolist():
            if len(chosen) == count:
                break
            source, target = divmod(place, len(self.variance))
            if not taken & {source, target}:
                chosen.append(self.pair(source, target))
                taken |= {source, target}
        return chosen


def fit_pairs(maps: Tensor, cheap_kernel_size: int = 3, *, bias: bool = False) -> PairFits:
    """Fit every ordered pair of a layer's maps by a d x d depthwise filter, in closed form.

    Args:
        maps: `(N, C, H, W)`; one filter a pair serves all N images.
        cheap_kernel_size: d, an odd integer >= 1.
        bias: fit a constant too, as the batch norm behind a cheap operation gives one.

    Returns:
        The errors of all C·(C-1) pairs.

    Raises:
        InputError: maps of another shape, fewer than two of them, values that are not finite, or a d that is even.

    Example:
        >>> maps = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> found = fit_pairs(torch.cat([maps, 2 * maps], 1), 1)
        >>> round(float(found.mse[0, 1]), 6)
        0.0
    """
    radius = _checked(maps, cheap_kernel_size)
    values = maps.detach().double()
    count, channels, height, width = values.shape
    positions = count * height * width
    padded = F.pad(values, (radius, radius, radius, radius))
    targets = values.transpose(0, 1).reshape(channels, positions)
    energy, sums = (targets * targets).sum(1), targets.sum(1)
    variance = (energy / positions - (sums / positions) ** 2).clamp_min(0)
    terms = cheap_kernel_size**2 + int(bias)
    mse = torch.empty(channels, channels, dtype=torch.float64)
    # what a block of sources needs: its shifts of one image, and its inner products with all targets
    block = max(1, min(channels, _BLOCK_BYTES // (8 * terms * max(height * width, channels))))
    for start in range(0, channels, block):
        rows = slice(start, min(start + block, channels))
        gram, cross = _inner_products(padded[:, rows], targets, cheap_kernel_size, (height, width))
        if bias:
            gram, cross = _with_constant(gram, cross, padded[:, rows], cheap_kernel_size, sums)
        explained = (cross * (_inverse(gram) @ cross)).sum(1)
        mse[rows] = ((energy[None, :] - explained).clamp_min(0) / positions).cpu()
    mse.fill_diagonal_(torch.inf)
    return PairFits(mse, variance.cpu(), cheap_kernel_size, bias)


def fit_filter(source: Tensor, target: Tensor, cheap_kernel_size: int = 3) -> tuple[Tensor, float]:
    """Return the best d x d filter from one map to another, and its mean squared error.

    Args:
        source: `(N, H, W)`.
        target: `(N, H, W)`.
        cheap_kernel_size: d, an odd integer >= 1.

    Returns:
        The filter `(d, d)` as `torch.nn.functional.conv2d` applies it, float64, and the error.

    Raises:
        InputError: as `fit_pairs`.

    Example:
        >>> source = torch.arange(16.0).reshape(1, 4, 4)
        >>> fit_filter(source, 3 * source, 1)[0]
        tensor([[3.]], dtype=torch.float64)
    """
    radius = _checked(torch.stack([source, target], 1), cheap_kernel_size)
    padded = F.pad(source.double()[:, None], (radius, radius, radius, radius))
    flat = target.double().reshape(1, -1)
    gram, cross = _inner_products(padded, flat, cheap_kernel_size, (source.shape[1], source.shape[2]))
    weights = (_inverse(gram) @ cross)[0, :, 0]
    error = float((flat * flat).sum()) - float((cross[0, :, 0] * weights).sum())
    return weights.reshape(cheap_kernel_size, cheap_kernel_size), max(0.0, error) / flat.numel()


def _checked(maps: Tensor, cheap_kernel_size: int) -> int:
    """Return the padding d // 2."""
    check_integer("`cheap_kernel_size`", cheap_kernel_size, odd=True, ending="; the paper uses 1 to 7")
    if not isinstance(maps, Tensor) or maps.ndim != 4 or maps.shape[1] < 2 or not maps.numel():
        shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise InputError(f"maps (={shape}) must be a tensor (N, C, H, W) with at least two maps")
    if not torch.isfinite(maps).all():
        raise InputError("the maps hold NaN or infinity; look at the network's weights and its input")
    return cheap_kernel_size // 2


def _shifts(padded: Tensor, size: int, height: int, width: int) -> Tensor:
    """Return the size² shifts of each map of one image: `(B, H + 2r, W + 2r) -> (B, size², H·W)`."""
    windows = padded.unfold(1, height, 1).unfold(2, width, 1)  # (B, size, size, H, W)
    return windows.reshape(len(padded), size * size, height * width)


def _inner_products(
    padded: Tensor, targets: Tensor, size: int, shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return G `(B, size², size²)` of a block of sources and b `(B, size², C)` with all targets, over all images."""
    height, width = shape
    images, block = padded.shape[:2]
    here = {"dtype": padded.dtype, "device": padded.device}
    gram = torch.zeros(block, size * size, size * size, **here)  # type: ignore[call-overload]
    cross = torch.zeros(block * size * size, len(targets), **here)  # type: ignore[call-overload]
    area = height * width
    for image in range(images):
        patches = _shifts(padded[image], size, height, width)
        gram.baddbmm_(patches, patches.transpose(1, 2))
        part = targets[:, image * area : (image + 1) * area]
        cross.addmm_(patches.reshape(-1, area), part.T)
    return gram, cross.reshape(block, size * size, len(targets))


def _with_constant(
    gram: Tensor, cross: Tensor, padded: Tensor, size: int, sums: Tensor
) -> tuple[Tensor, Tensor]:
    """Add a row of ones to the shifts: its inner products are the shifts' and the targets' sums."""
    images, block, tall, wide = padded.shape
    height, width = tall - size + 1, wide - size + 1
    totals = torch.stack([_shifts(padded[image], size, height, width).sum(2) for image in range(images)]).sum(
        0
    )
    positions = torch.full(
        (block, 1, 1), float(images * height * width), dtype=gram.dtype, device=gram.device
    )
    top = torch.cat([gram, totals[:, :, None]], 2)
    bottom = torch.cat([totals[:, None, :], positions], 2)
    return torch.cat([top, bottom], 1), torch.cat([cross, sums.expand(block, 1, -1)], 1)


def _inverse(gram: Tensor) -> Tensor:
    """Return the pseudo-inverse of each G: shifts of a map may depend on each other (a constant map's do)."""
    scale = (
        gram.diagonal(dim1=1, dim2=2).clamp_min(1e-300).rsqrt()
    )  # the constant has another scale than the shifts
    values, vectors = torch.linalg.eigh(gram * scale[:, :, None] * scale[:, None, :])
    kept = values > _CUTOFF * values[:, -1:].clamp_min(1e-300)
    inverted = torch.where(kept, 1 / values.where(kept, torch.ones_like(values)), torch.zeros_like(values))
    half = vectors * inverted.sqrt()[:, None, :] * scale[:, :, None]
    return half @ half.transpose(1, 2)
