"""How strongly least squares draws filters to what they were: as halves of the images say of each other.

A filter has as many unknowns as inputs; where calibration images are few or maps small, the filters that fit them best
fit other images worse than the dense ones do. `chosen_ridge` serves both kinds of layer; the least squares of plain
ones stands here too: each group of a grouped convolution is a problem of its own, all of them solved at once. Left out:
the windows of cheap operations (moments.py).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ghostnet.convert import fit
from ghostnet.convert.observe import Pairs
from ghostnet.convert.patches import (
    CHUNK,
    by_halves,
    convolution_output,
    gram_of,
    padded_inputs,
    patch_size,
    patches_at,
    reading,
    rows_of_taps,
    stride_of,
    thin,
)

Equations = tuple[Tensor, Tensor]  # a Gram matrix, and inputs with what outputs lack
_START, _LAST = 8, 14  # where the search begins and ends, in half decades above 1e-6
_MOST_OUTPUTS = 64  # that are asked; each costs a solution for each ridge tried
_TOLERANCE = 0.05  # of the best gain; what a ridge holds back adds up from layer to layer, noise less so
NO_CHANGE = 1e3  # a ridge that leaves the dense filters as they are


class Sums:
    """Sums over output positions of what least squares needs, group by group.

    Attributes:
        count: positions.
        gram: `(G, D, D)` of the D inputs of an output with themselves.
        first: `(G, D)` of the inputs.
        missing: `(G, D, n / G)` of the inputs with what the outputs lack.
        lacking: `(n,)` of what they lack.
        target, square: `(n,)` of the outputs wanted, and of their squares.
    """

    def __init__(self, groups: int, columns: int, outputs: int) -> None:
        self.count = 0
        self.gram = torch.zeros(groups, columns, columns, dtype=torch.float64)
        self.first = torch.zeros(groups, columns, dtype=torch.float64)
        self.missing = torch.zeros(groups, columns, outputs // groups, dtype=torch.float64)
        self.lacking, self.target, self.square = torch.zeros(3, outputs, dtype=torch.float64)

    def add_(self, inputs: Tensor, lacking: Tensor, target: Tensor) -> None:
        """Add positions: `(G, D, L)` inputs, `(G, n / G, L)` lacking, `(n, L)` wanted."""
        self.count += inputs.shape[2]
        self.gram += gram_of(inputs)
        self.first += inputs.sum(2)
        self.missing += inputs @ lacking.mT
        self.lacking += lacking.sum(2).flatten()
        self.target += target.sum(1)
        self.square += target.square().sum(1)

    def __add__(self, other: Sums) -> Sums:
        both = copy.copy(self)
        for name, value in vars(other).items():
            setattr(both, name, getattr(self, name) + value)
        return both

    def moments(self, *, centred: bool) -> tuple[Tensor, Tensor]:
        """Return Gram matrix and what is missing, a position; centred where an offset is free."""
        gram, missing = self.gram / self.count, self.missing / self.count
        if centred:
            first, lacking = self.first / self.count, self.lacking / self.count
            gram = gram - first[:, :, None] * first[:, None, :]
            missing = missing - first[:, :, None] * lacking.view(len(first), 1, -1)
        return gram, missing

    def target_variance(self) -> Tensor:
        """Return the variance of the outputs wanted, `(n,)`."""
        return (self.square / self.count - (self.target / self.count).square()).clamp_min(0.0)


def chosen_ridge(halves: Sequence[Equations], weights: Tensor, least: float) -> float:
    """Return the ridge for all images: half of that whose filters, fitted to one half, serve the other best.

    Of those nearly as good the smallest. `NO_CHANGE` where none helps, or one half has no images. Twice the images
    need half the ridge, which is relative to moments of one position.

    Args:
        halves: of each half the Gram matrices `(..., D, D)`, and the inputs with what the outputs lack `(..., D, m)`.
        weights: of the outputs' squared errors, as they are broadcast to `(..., D, m)`.
        least: the smallest that is tried, relative to the mean power of the inputs.
    """
    if len(halves) < 2:
        return NO_CHANGE
    few = slice(None, None, -(-halves[0][1].shape[-1] // _MOST_OUTPUTS))
    sides = [(gram, missing[..., few]) for gram, missing in halves]
    weights = weights[..., few]

    @functools.cache
    def gain(step: int) -> float:
        return _gain(sides, weights, _ridge(step, least))

    best = _START
    for stride in (2, 1):
        while (near := max((best, max(best - stride, 0), min(best + stride, _LAST)), key=gain)) != best:
            best = near
    enough = (1 - _TOLERANCE) * gain(best)
    while best and gain(best - 1) >= enough:
        best -= 1
    return max(least, _ridge(best, least) / 2) if gain(best) > 0 else NO_CHANGE


def _gain(halves: Sequence[Equations], weights: Tensor, ridge: float) -> float:
    """Return by how much the squared error falls on either half with filters that were fitted to the other."""
    total = 0.0
    for (gram, missing), (other_gram, other_missing) in (halves, halves[::-1]):
        change = fit.solve_roughly(gram, missing, ridge)
        total += float(((2 * other_missing - other_gram @ change) * change * weights).sum())
    return total


def _ridge(step: int, least: float) -> float:
    return max(least, 10 ** (step / 2 - 6))


def read_halves(dense: nn.Conv2d, pairs: Pairs) -> tuple[Sums, Sums]:
    """Read inputs and outputs of a convolution, those of every second image into the second sums.

    Args:
        dense: the convolution as it was.
        pairs: `(N, C, H, W)` inputs and `(N, n, H', W')` outputs wanted, the layer's bias included.

    More output positions than the budget are thinned out.
    """
    groups, outputs, columns = dense.groups, dense.out_channels, dense.weight[0].numel()
    size = patch_size(dense, 1)
    inside = rows_of_taps(dense, 1)[0]
    positions = sum(wanted[:, 0].numel() for _, wanted in pairs)
    share, dtype = reading(positions, columns, groups=groups)
    generator = torch.Generator().manual_seed(0)
    sums = Sums(groups, columns, outputs), Sums(groups, columns, outputs)
    for half, inputs, wanted in by_halves(pairs):
        chosen = thin(wanted[0, 0].numel(), share, generator)
        step = max(1, CHUNK // (groups * columns * len(chosen)))
        for part, target in zip(inputs.split(step), wanted.split(step), strict=True):
            read = patches_at(padded_inputs(dense, part, 1), size, stride_of(dense), chosen, target.shape[-1])
            read = read[:, inside].transpose(0, 1).reshape(groups, columns, -1)
            kept = target.flatten(2)[:, :, chosen]
            lacking = (kept - convolution_output(dense, part).flatten(2)[:, :, chosen]).transpose(0, 1)
            lacking = lacking.reshape(groups, outputs // groups, -1)
            sums[half].add_(read.to(dtype), lacking.to(dtype), kept.transpose(0, 1).flatten(1).double())
    return sums


@dataclass(frozen=True)
class Fitted:
    """Filters `(n, D)` of D inputs each, and of the maps that they give, without a bias, mean and variance `(n,)`."""

    filters: Tensor
    mean: Tensor
    power: Tensor
    target_mean: Tensor


def least_squares(dense: nn.Conv2d, pairs: Pairs, ridge: float, *, centred: bool) -> Fitted:
    """Find the filters of each group that come nearest to the wanted outputs, drawn to the dense ones.

    Args:
        dense: the convolution as it was.
        pairs: `(N, C, H, W)` inputs and `(N, n, H', W')` outputs wanted, the layer's bias included.
        ridge: the least, relative to the mean power of the inputs.
        centred: an offset for each channel is free.
    """
    halves = read_halves(dense, pairs)
    both = halves[0] + halves[1]
    gram, missing = both.moments(centred=centred)
    filters = dense.weight.detach().double().reshape(dense.groups, -1, gram.shape[-1])
    weights = both.target_variance().clamp_min(1e-30).reciprocal().view(dense.groups, 1, -1)
    sides = [half.moments(centred=centred) for half in halves if half.count]
    filters = filters + fit.solve(gram, missing, chosen_ridge(sides, weights, ridge)).mT
    mean = (filters @ both.first[:, :, None])[:, :, 0].flatten() / both.count
    power = ((filters @ gram) * filters).sum(2).flatten()
    return Fitted(filters.flatten(0, 1), mean, power, both.target / both.count)
