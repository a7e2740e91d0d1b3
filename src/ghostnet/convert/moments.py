"""Second moments of what a converted convolution reads, in which its fit is least squares (paper section 3.1).

A ghost map is `k * (x * f)`: linear in the primary filter `f` for a fixed cheap filter `k`, and the other way round.
`Moments` holds, for each pair of taps of `k`, the second moments of the input patches there, zero borders included, so
that images are read once; `MapMoments` those of the maps themselves. Left out: the solutions (fit.py), where data come
from (sequential.py).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet.convert.patches import (
    CHUNK,
    by_halves,
    convolution_output,
    gram_of,
    padded_inputs,
    patch_size,
    patches_at,
    reading,
    slices_of_taps,
    stride_of,
    thin,
    undilated,
    valid_taps,
)


@dataclass
class Moments:
    """Second moments of one layer, divided by the number of positions (centred when an offset is free).

    Args:
        pairs: `(T (T + 1) / 2, D, D)`, patches (D = C k k) seen by tap t against those seen by tap u, for t <= u in the
            order of `tap_pairs`; where t < u with the transposed added, since nothing asks for one without the other.
        cross: `(T, D, n)`, patches seen by tap t against the n targets.
        mean: `(T, D)` mean patch seen by each tap; `target_mean`, `target_power`: `(n,)`.
        dense: `(n, D)` the dense filters.
        inside: `(T,)` the share of positions whose tap stays inside the map.
        halves: the same of every second image and of the others; none where the inputs are assumed.
    """

    pairs: Tensor
    cross: Tensor
    mean: Tensor
    target_mean: Tensor
    target_power: Tensor
    dense: Tensor
    inside: Tensor
    halves: tuple[Moments, ...] = ()

    @property
    def taps(self) -> int:
        """T, of one cheap filter."""
        return len(self.inside)

    @property
    def centre(self) -> int:
        """Index of the middle tap, which sees the map itself."""
        return self.taps // 2

    @property
    def gram(self) -> Tensor:
        """The Gram matrix of the patches that the middle tap sees, `(D, D)`."""
        return self.pairs[tap_pairs(self.taps).index((self.centre, self.centre))]

    @functools.cached_property
    def single(self) -> Moments:
        """The same in float32, without the halves."""
        tensors = {
            field.name: getattr(self, field.name).float() for field in fields(self) if field.name != "halves"
        }
        return Moments(**tensors)

    def map_means(self, filters: Tensor) -> Tensor:
        """Mean of each map as each tap sees it: `(m, D) -> (m, T)`."""
        return filters @ self.mean.T

    def windows(self, filters: Tensor) -> tuple[Tensor, Tensor]:
        """Moments of the windows of maps: `(m, D) -> (m, T, T)` Grams, `(m, T, n)` against targets."""
        grams = filters.new_zeros(len(filters), self.taps, self.taps)
        for (one, two), pair in zip(tap_pairs(self.taps), self.pairs, strict=True):
            value = ((filters @ pair) * filters).sum(1)
            grams[:, one, two] = grams[:, two, one] = value if one == two else value / 2
        return grams, torch.einsum("md,tdn->mtn", filters, self.cross)


@functools.cache
def tap_pairs(taps: int) -> list[tuple[int, int]]:
    """Return the pairs (t, u) of taps with t <= u, in the order of `Moments.pairs`."""
    return list(itertools.combinations_with_replacement(range(taps), 2))


@dataclass
class MapMoments:
    """Moments of the d x d windows of given maps, for layers whose patch Gram is too large.

    Args:
        windows: `(m, T, T)`; against: `(m, T, n)`; mean: `(m, T)` of the windows.
        target_mean, target_power: `(n,)`; inside: `(T,)` as in `Moments`.
    """

    windows: Tensor
    against: Tensor
    mean: Tensor
    target_mean: Tensor
    target_power: Tensor
    inside: Tensor

    def map_means(self, filters: Tensor) -> Tensor:
        """Mean of each map as each tap sees it; `filters` must be those of the maps."""
        return self.mean[: len(filters)]

    def only(self, maps: Tensor) -> MapMoments:
        """The same for a choice of the maps."""
        return replace(self, windows=self.windows[maps], against=self.against[maps], mean=self.mean[maps])


def patch_moments(
    pairs: Sequence[tuple[Tensor, Tensor]],
    convolution: nn.Conv2d,
    cheap_kernel_size: int,
    *,
    centred: bool,
    groups: int = 1,
) -> Moments:
    """Accumulate the moments of a layer from inputs and wanted outputs.

    Args:
        pairs: batches of `(N, C, H, W)` inputs and `(N, n, H', W')` targets.
        convolution: the dense convolution, or one group of it.
        cheap_kernel_size: d of the cheap operation, odd.
        centred: an offset for each channel is free (batch norm or bias).
        groups: how many such calls share one layer's budget of output positions.

    More output positions than the budget are thinned out.
    """
    positions = sum(target[:, 0].numel() for _, target in pairs)
    size = patch_size(convolution, cheap_kernel_size)
    columns = convolution.in_channels * size[0] * size[1]
    share, dtype = reading(positions, columns, groups=groups)
    generator = torch.Generator().manual_seed(0)
    sums = _BorderSums(convolution), _BorderSums(convolution)
    for half, inputs, target in by_halves(pairs):
        step = max(1, int(CHUNK / (columns * max(1.0, target[0, 0].numel() * min(1.0, share)))))
        for part, wanted in zip(inputs.split(step), target.split(step), strict=True):
            valid = valid_taps(wanted.shape[-2:], cheap_kernel_size)
            chosen = thin(len(valid), share, generator)
            residual = (wanted - convolution_output(convolution, part)).flatten(2)[:, :, chosen]
            padded = padded_inputs(convolution, part, cheap_kernel_size)
            read = patches_at(padded, size, stride_of(convolution), chosen, wanted.shape[-1])
            sums[half].add_target_(wanted.flatten(2)[:, :, chosen])
            sums[half].add_by_border_(valid[chosen], read.to(dtype), residual.to(dtype))
    halves = [_by_taps(one, convolution, cheap_kernel_size) for one in sums if one.count]
    whole = sum(halves[1:], halves[0]).moments_(centred=centred)
    if len(halves) == 1:
        return whole
    return replace(whole, halves=tuple(half.moments_(centred=centred) for half in halves))


def white_moments(convolution: nn.Conv2d, cheap_kernel_size: int) -> Moments:
    """Return the moments for white inputs: what is left to assume when there are no images."""
    size = patch_size(convolution, cheap_kernel_size)
    weight = convolution.weight.detach().double()
    columns = weight.shape[1] * size[0] * size[1]
    sums = _BorderSums(convolution)
    sums.count, sums.square = 1, weight.flatten(1).square().sum(1)
    second, first = torch.eye(columns).double(), torch.zeros(columns).double()
    inside = (True,) * cheap_kernel_size**2
    sums.kinds[inside] = [second, first, first.new_zeros(columns, len(weight)), torch.tensor(1.0).double()]
    return _by_taps(sums, convolution, cheap_kernel_size).moments_(centred=False)


def map_windows(
    pairs: Iterable[tuple[Tensor, Tensor]],
    convolution: nn.Conv2d,
    filters: Tensor,
    cheap_kernel_size: int,
    *,
    centred: bool,
) -> MapMoments:
    """Accumulate the moments of the windows of the maps that `filters` `(n, D)` make.

    Maps in half precision are summed in float32: in float16 the sums of a few thousand positions are infinite.
    """
    maps, taps = len(filters), cheap_kernel_size**2
    weight = filters.view_as(convolution.weight).to(convolution.weight.dtype)
    grams, cross = torch.zeros(maps, taps, taps).double(), torch.zeros(maps, taps, maps).double()
    mean, inside = torch.zeros(maps, taps).double(), torch.zeros(taps).double()
    target_mean, power, count = torch.zeros(maps).double(), torch.zeros(maps).double(), 0
    for inputs, target in pairs:
        step = max(1, CHUNK // (maps * taps * target[0, 0].numel()))
        for part, wanted in zip(inputs.split(step), target.split(step), strict=True):
            summed = torch.promote_types(part.dtype, torch.float32)
            output = convolution_output(convolution, part, weight).to(summed)
            flat = wanted.transpose(0, 1).flatten(1).to(summed)
            seen = F.unfold(output, cheap_kernel_size, padding=cheap_kernel_size // 2)
            seen = seen.view(len(output), maps, taps, -1).permute(1, 2, 0, 3).flatten(2)
            grams += seen @ seen.transpose(1, 2)
            cross += (seen.flatten(0, 1) @ flat.T).view(maps, taps, maps)
            mean += seen.sum(2)
            target_mean += flat.sum(1)
            power += flat.square().sum(1)
            count += flat.shape[1]
            inside += valid_taps(wanted.shape[-2:], cheap_kernel_size).double().mean(0) * flat.shape[1]
    totals = [value / count for value in (grams, cross, mean, target_mean, power, inside)]
    grams, cross, mean, target_mean, power, inside = totals
    if centred:
        grams = grams - mean[:, :, None] * mean[:, None, :]
        cross = cross - mean[:, :, None] * target_mean
        power = (power - target_mean.square()).clamp_min(0.0)
    return MapMoments(grams, cross, mean, target_mean, power, inside)


def white_map_windows(convolution: nn.Conv2d, cheap_kernel_size: int) -> MapMoments:
    """Return the moments of the windows of a convolution's own maps for white inputs: its filters' correlations."""
    weight = undilated(convolution.weight.detach().float(), convolution.dilation)  # quicker by far
    taps, rows, columns = cheap_kernel_size**2, *stride_of(convolution)
    reach = cheap_kernel_size // 2

    def correlations(filters: Tensor, others: Tensor, most: int) -> Tensor:
        """Sums of products of filters shifted against others by up to `most` strides: `(others, filters, K, K)`."""
        padded = F.pad(others, [most * columns] * 2 + [most * rows] * 2)
        return F.conv2d(padded, filters, stride=(rows, columns)).double()

    # a map seen by tap t is the map of its filter shifted by t: E[(f * x)(p + t) (g * x)(p)]
    against = correlations(weight, weight, reach).flatten(2).permute(1, 2, 0)
    group = torch.arange(len(weight)) * convolution.groups // len(weight)
    against *= (group[:, None] == group)[:, None]  # other groups see other inputs
    own = torch.stack([correlations(one[None], one[None], 2 * reach)[0, 0] for one in weight])
    tap = torch.arange(cheap_kernel_size)
    row, column = tap.repeat_interleave(cheap_kernel_size), tap.repeat(cheap_kernel_size)
    apart = [(axis[:, None] - axis[None]) + 2 * reach for axis in (row, column)]
    power = weight.double().flatten(1).square().sum(1)
    zeros = power.new_zeros(len(power))
    return MapMoments(
        own[:, apart[0], apart[1]],
        against,
        power.new_zeros(len(power), taps),
        zeros,
        power,
        power.new_ones(taps),
    )


class _BorderSums:
    """Sums over output positions.

    Attributes:
        count: positions.
        target, square: `(n,)` of the outputs wanted, and of their squares.
        kinds: for each kind of border position the Gram matrix of the patches, their sum, their products with what
            the outputs lack, and the positions. The channels of a patch lie side by side there, so that what one tap
            sees of it is a few long runs.

    Args:
        convolution: the layer.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        self.count = 0
        self.channels = convolution.in_channels
        self.target, self.square = torch.zeros(2, convolution.out_channels, dtype=torch.float64)
        self.kinds: dict[tuple[bool, ...], list[Tensor]] = {}

    def add_target_(self, wanted: Tensor) -> None:
        """Add outputs wanted, `(N, n, L)`."""
        flat = wanted.transpose(0, 1).flatten(1).double()
        self.count += flat.shape[1]
        self.target += flat.sum(1)
        self.square += flat.square().sum(1)

    def add_by_border_(self, valid: Tensor, patches: Tensor, residual: Tensor) -> None:
        """Add patches `(N, C h w, L)` and what the outputs lack `(N, n, L)`, each kind of border position apart."""
        kinds, member = torch.unique(valid, dim=0, return_inverse=True)
        pixels = patches.unflatten(1, (self.channels, -1))
        for index, kind in enumerate(kinds.tolist()):
            chosen = (member == index).nonzero()[:, 0]
            rows = pixels[..., chosen].permute(0, 3, 2, 1).flatten(2).flatten(0, 1)
            left = residual[:, :, chosen].transpose(1, 2).flatten(0, 1)
            new = [gram_of(rows.T), rows.sum(0), rows.T @ left, rows.new_tensor(float(len(rows)))]
            held = self.kinds.setdefault(tuple(kind), new)
            if held is not new:
                for old, value in zip(held, new, strict=True):
                    old += value


@dataclass
class _TapSums:
    """Sums over output positions of what each tap sees; the fields are those of `Moments`, not yet divided.

    Args:
        count: positions.
        pairs: without the transposed added.
        cross: against what the outputs lack.
        mean, target, square, inside: sums of what becomes means and shares.
        dense: `(n, D)`.
    """

    count: int
    pairs: Tensor
    cross: Tensor
    mean: Tensor
    target: Tensor
    square: Tensor
    inside: Tensor
    dense: Tensor

    def __add__(self, other: _TapSums) -> _TapSums:
        added = {
            field.name: getattr(self, field.name) + getattr(other, field.name)
            for field in fields(self)
            if field.name != "dense"
        }
        return _TapSums(**added, dense=self.dense)

    def moments_(self, *, centred: bool) -> Moments:
        """Divide, and take means away where `centred`; the sums are used up."""
        taps = len(self.inside)
        grams, mean, cross = self.pairs.div_(self.count), self.mean / self.count, self.cross / self.count
        target_mean, power = self.target / self.count, self.square / self.count
        both = list(zip(tap_pairs(taps), grams, strict=True))
        for (one, two), gram in both:
            if two == taps // 2:
                cross[one] += gram @ self.dense.T
            elif one == taps // 2:
                cross[two] += gram.T @ self.dense.T
        if centred:
            cross -= mean[:, :, None] * target_mean
            power = power - target_mean.square()
        for (one, two), gram in both:
            if centred:
                gram.addr_(mean[one], mean[two], alpha=-1)
            if one != two:
                gram.copy_(gram + gram.T)
        inside = self.inside / self.count
        return Moments(grams, cross, mean, target_mean, power.clamp_min(0.0), self.dense, inside)


def _by_taps(sums: _BorderSums, convolution: nn.Conv2d, cheap_kernel_size: int) -> _TapSums:
    """Turn sums by kind of border into those of what each tap, and each pair of taps, sees."""
    parts = slices_of_taps(convolution, cheap_kernel_size)
    dense = convolution.weight.detach().flatten(1).double()
    taps, columns = len(parts), dense.shape[1]
    patch = patch_size(convolution, cheap_kernel_size)
    found = _TapSums(
        sums.count,
        torch.zeros(len(tap_pairs(taps)), columns, columns, dtype=torch.float64),
        torch.zeros(taps, columns, len(dense), dtype=torch.float64),
        torch.zeros(taps, columns, dtype=torch.float64),
        sums.target,
        sums.square,
        torch.zeros(taps, dtype=torch.float64),
        dense,
    )
    for kind, (_, first, against, positions) in sums.kinds.items():
        for tap in (tap for tap in range(taps) if kind[tap]):
            found.inside[tap] += positions
            found.mean[tap] += first.view(*patch, -1)[parts[tap]].flatten(0, 1).T.flatten()
            seen = against.view(*patch, sums.channels, -1)[parts[tap]]
            found.cross[tap] += seen.flatten(0, 1).transpose(0, 1).flatten(0, 1)
    for (one, two), gram in zip(tap_pairs(taps), found.pairs, strict=True):
        # slices, because gathering by index takes more than twice as long
        place = (*parts[one], slice(None), *parts[two])
        seen_by_both = [
            second.view(*patch, sums.channels, *patch, sums.channels)[place]
            for kind, (second, *_) in sums.kinds.items()
            if kind[one] and kind[two]
        ]
        if seen_by_both:
            # (k, k, C, k, k, C)
            total = seen_by_both[0].to(torch.float64, copy=True, memory_format=torch.contiguous_format)
            for more in seen_by_both[1:]:
                total += more
            gram.copy_(total.permute(2, 0, 1, 5, 3, 4).reshape(columns, columns))
    return found
