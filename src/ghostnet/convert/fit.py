"""Least squares for one converted convolution in the moments of its input patches (paper section 3.1).

The cheap filters for given maps, and the primary filters for given cheap ones, in closed form. Left out: the moments
(moments.py), which map serves which (matching.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ghostnet.convert.moments import Moments, tap_pairs

_ENTRIES = 2**25  # of the Gram matrices made at once; each time all moments are read


@dataclass
class Groups:
    """Which target each slot stands for.

    Args:
        heads: `(m,)` target of each primary map; ghosts: `(g,)` target of each ghost map.
        sources: `(g,)` primary map of each ghost; weights: `(n,)` importance of each target.
    """

    heads: Tensor
    ghosts: Tensor
    sources: Tensor
    weights: Tensor

    @property
    def single(self) -> Groups:
        """The same in float32."""
        return replace(self, weights=self.weights.float())


def refit(moments: Moments, ridge: float) -> Tensor:
    """Refit the whole filter bank to the targets, drawn to the dense filters: `(n, D)`."""
    return moments.dense + solve(*refit_equations(moments), ridge).T


def refit_equations(moments: Moments) -> tuple[Tensor, Tensor]:
    """Return the Gram matrix `(D, D)` of the dense filters' inputs, and theirs with what the outputs lack `(D, n)`."""
    return moments.gram, moments.cross[moments.centre] - moments.gram @ moments.dense.T


def solve(gram: Tensor, right: Tensor, ridge: float) -> Tensor:
    """Solve the ridge equations; the ridge is relative to the mean power, and dead inputs give zeros."""
    return solve_(gram.clone(), right, ridge)


def solve_roughly(gram: Tensor, right: Tensor, ridge: float) -> Tensor:
    """Solve them in float32, in half the time, or in their own type where that is too coarse."""
    found = solve_(gram.to(torch.float32, copy=True), right.float(), ridge).to(right.dtype)
    return found if bool(found.isfinite().all()) else solve(gram, right, ridge)


def solve_(gram: Tensor, right: Tensor, ridge: float) -> Tensor:
    """Solve them, and leave the ridge in `gram`; NaN where float32 is too coarse for it."""
    power = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None]
    gram.diagonal(dim1=-2, dim2=-1).add_(ridge * power + 1e-30 + (power <= 1e-20))
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed.any():  # a Gram matrix formed in float32 may be indefinite by its rounding
        coarse = gram.dtype == torch.float32
        return torch.full_like(right, math.nan) if coarse else torch.linalg.solve(gram, right)
    # torch.cholesky_solve does the same, two to ten times slower for few right sides
    halfway = torch.linalg.solve_triangular(factor, right, upper=False)
    return torch.linalg.solve_triangular(factor.mT, halfway, upper=True)


def cheap_filters(windows: Tensor, against: Tensor) -> Tensor:
    """Best cheap filters in closed form: `(m, T, T), (m, T, n) -> (m, T, n)`."""
    return solve(windows, against, 1e-9)


def fit_errors(target_power: Tensor, windows: Tensor, against: Tensor) -> Tensor:
    """Squared error of each target from each map by its best cheap filter: `(m, n)`."""
    explained = (cheap_filters(windows, against) * against).sum(1)
    return (target_power - explained).clamp_min(0.0)


def best_cheap(moments: Moments, primary: Tensor, sources: Tensor, ghosts: Tensor) -> Tensor:
    """Best cheap filter of each ghost for fixed primary filters: `(m, D) -> (g, T)`."""
    windows, against = moments.windows(primary)
    return solve(windows[sources], against[sources, :, ghosts][..., None], 1e-9)[..., 0]


def best_primary(
    moments: Moments, drawn_to: Tensor, cheap: Tensor, groups: Groups, ridge: float, *, rough: bool = False
) -> Tensor:
    """Best primary filters for fixed cheap filters, each serving its own target and those of its ghosts.

    Where more is made of them, a rough solution will do: what it costs, in the moments themselves, is of second order
    in its error.

    Args:
        moments: of the layer.
        drawn_to: `(m, D)` filters to which the ridge draws.
        cheap: `(g, T)` cheap filter of each ghost.
        groups: which target each slot stands for.
        ridge: relative to the mean power.
        rough: solve in float32, in half the time.
    """
    if rough:
        found = best_primary(moments.single, drawn_to.float(), cheap.float(), groups.single, ridge).double()
        if bool(found.isfinite().all()):
            return found
    columns = drawn_to.shape[1]
    step = min(len(drawn_to), max(1, _ENTRIES // columns**2))
    # memory anew for each step would cost as much as the product
    room = torch.empty(step, columns**2, dtype=drawn_to.dtype)
    parts = []
    for slots in torch.arange(len(drawn_to)).split(step):
        gram, missing = primary_equations(moments, drawn_to, cheap, groups, slots, room)
        parts.append(drawn_to[slots] + solve_(gram, missing, ridge)[..., 0])
    return torch.cat(parts)


def primary_equations(
    moments: Moments,
    drawn_to: Tensor,
    cheap: Tensor,
    groups: Groups,
    slots: Tensor,
    room: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return for some `slots` the Gram matrices `(s, D, D)`, and the inputs with what the outputs lack `(s, D, 1)`.

    The Gram matrices lie in the first rows of `room`, `(>= s, D D)`, where it is given.
    """
    place = torch.full((len(drawn_to),), -1)
    place[slots] = torch.arange(len(slots))
    served = place[groups.sources] >= 0  # ghosts of these slots
    heads, ghosts, sources = groups.heads[slots], groups.ghosts[served], place[groups.sources[served]]
    filters, cheap, weights = drawn_to[slots], cheap[served], groups.weights
    one, two = torch.tensor(tap_pairs(moments.taps)).T
    # of each pair of taps in the Gram matrix of each slot
    shares = torch.zeros(len(slots), len(one), dtype=filters.dtype)
    shares[:, (one == moments.centre) & (two == moments.centre)] = weights[heads, None]
    shares.index_add_(0, sources, weights[ghosts, None] * cheap[:, one] * cheap[:, two])
    right = weights[heads, None] * moments.cross[moments.centre][:, heads].T
    seen = torch.einsum("gt,tdg->gd", cheap, moments.cross[:, :, ghosts])
    right.index_add_(0, sources, weights[ghosts, None] * seen)
    room = None if room is None else room[: len(slots)]
    gram = torch.mm(shares, moments.pairs.flatten(1), out=room).view(-1, *moments.gram.shape)
    return gram, right[:, :, None] - gram @ filters[:, :, None]
