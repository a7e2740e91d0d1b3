"""How strongly least squares draws filters to the dense ones: as one half of the images says of the other half's.

A filter has as many unknowns as inputs; where calibration images are few or maps small, the filters that fit them best
fit other images worse than the dense ones do. Each group of a grouped convolution is a problem of its own, all of them
solved at once. Left out: the windows of cheap operations (moments.py).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet.convert import fit
from ghostnet.convert.observe import Pairs
from ghostnet.convert.patches import (
    CHUNK,
    convolution_output,
    patch_size,
    patches_at,
    reading,
    rows_of_taps,
    stride_of,
    thin,
)

_RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # relative to the mean power of the inputs
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
        self.gram += inputs @ inputs.mT
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


def chosen_ridge(halves: Sequence[Sums], least: float, *, centred: bool) -> float:
    """Return the ridge whose filters, fitted to the first half, serve the second best; `NO_CHANGE` where none helps.

    Args:
        halves: from `read_halves`.
        least: the smallest that is tried, relative to the mean power of the inputs.
        centred: an offset for each channel is free.
    """
    if not all(half.count for half in halves):
        return NO_CHANGE
    gram, missing = halves[0].moments(centred=centred)
    other_gram, other_missing = halves[1].moments(centred=centred)
    weights = halves[1].target_variance().clamp_min(1e-30).reciprocal().view(len(gram), 1, -1)
    best = (0.0, NO_CHANGE)
    for ridge in (least, *(each for each in _RIDGES if each > least)):
        change = fit.solve(gram, missing, ridge)
        gain = ((2 * other_missing - other_gram @ change) * change * weights).sum()
        if float(gain) > best[0]:
            best = (float(gain), ridge)
    return best[1]


def read_halves(dense: nn.Conv2d, pairs: Pairs) -> tuple[Sums, Sums]:
    """Read inputs and outputs of a convolution, those of every second image into the second sums.

    Args:
        dense: the convolution as it was.
        pairs: `(N, C, H, W)` inputs and `(N, n, H', W')` outputs wanted, without bias.

    More output positions than the budget are thinned out.
    """
    groups, outputs, columns = dense.groups, dense.out_channels, dense.weight[0].numel()
    size, margin = patch_size(dense, 1)
    inside = rows_of_taps(dense, 1)[0]
    positions = sum(wanted[:, 0].numel() for _, wanted in pairs)
    share, dtype = reading(positions, columns, groups=groups)
    generator = torch.Generator().manual_seed(0)
    sums = Sums(groups, columns, outputs), Sums(groups, columns, outputs)
    before = 0
    for inputs, wanted in pairs:
        places = wanted[0, 0].numel()
        chosen = thin(places, share, generator)
        step = max(1, CHUNK // (groups * columns * len(chosen)))
        for half in (0, 1):
            mine = slice((before + half) % 2, None, 2)
            for part, target in zip(inputs[mine].split(step), wanted[mine].split(step), strict=True):
                if not len(part):
                    continue
                read = patches_at(F.pad(part, margin), size, stride_of(dense), chosen, target.shape[-1])
                read = read[:, inside].transpose(0, 1).reshape(groups, columns, -1)
                kept = target.flatten(2)[:, :, chosen]
                lacking = (kept - convolution_output(dense, part).flatten(2)[:, :, chosen]).transpose(0, 1)
                lacking = lacking.reshape(groups, outputs // groups, -1)
                sums[half].add_(read.to(dtype), lacking.to(dtype), kept.transpose(0, 1).flatten(1).double())
        before += len(inputs)
    return sums
