"""Which filters stay primary and which of them serves which ghost map (paper section 3.1, fig. 3).

The cost of a pair is the error of its best cheap filter, which ranks pairs well where correlation does not.
Left out: the fits themselves (fit.py).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ghostnet.errors import InputError


def match(errors: Tensor, own: Tensor, sources: Tensor, *, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Choose targets for every primary and every ghost slot so that the summed error is small.

    For ratio 2 a minimum-weight pairing by greedy choice and exchanges; else heads by greedy choice and
    exchanges, ghosts by optimal assignment.

    Args:
        errors: `(n, n)`, entry (i, j) the error of target j as a ghost of target i's map.
        own: `(n,)` error of each target as a primary map.
        sources: `(g,)` primary slot that serves each ghost slot; there are n - g primary slots.
        groups: of the convolution: the targets, and the primary slots, of one group are consecutive, and each group
            keeps as many heads; ghosts may be served by any group.

    Returns:
        heads `(n - g,)` and ghosts `(g,)`: the target of each slot; together each target once.

    Example:
        >>> heads, ghosts = match(torch.zeros(4, 4), torch.zeros(4), torch.tensor([0, 1]))
        >>> sorted([*heads.tolist(), *ghosts.tolist()])
        [0, 1, 2, 3]

    Raises:
        InputError: the shapes do not belong together.
    """
    count = len(own)
    if errors.shape != (count, count) or len(sources) >= max(count, 1):
        raise InputError(
            f"errors {tuple(errors.shape)}, own {tuple(own.shape)} and {len(sources)} ghosts do not belong"
            " together; give (n, n), (n,) and fewer than n ghosts."
        )
    errors, own = torch.nan_to_num(errors.double(), 1e9, 1e9), torch.nan_to_num(own.double(), 1e9, 1e9)
    if groups > 1:
        heads = _heads_of_groups(errors, own, len(own) - len(sources), groups)
        return _assign(errors, own, heads, sources)[1:]
    capacity = torch.bincount(sources, minlength=count - len(sources))
    if bool((capacity == 1).all()):
        pairs = _pair(errors + own[:, None])
        heads, serving = pairs[:, 0], pairs[:, 1]
        return heads, serving[sources]
    return _group(errors, own, sources)


def _pair(costs: Tensor) -> Tensor:
    """Pair all nodes at small cost (`costs[i, j]`: i serves j): `(n / 2, 2)` rows (server, served)."""
    both = torch.minimum(costs, costs.T).clone()
    both.fill_diagonal_(float("inf"))
    paired = _exchange(both, torch.from_numpy(_nearest_pairs(both.numpy().copy())))
    swap = costs[paired[:, 0], paired[:, 1]] > costs[paired[:, 1], paired[:, 0]]
    paired[swap] = paired[swap].flip(1)
    return paired


def _nearest_pairs(work: np.ndarray) -> np.ndarray:
    """Pair the two nearest nodes that are left, until none is: `(n / 2, 2)`; the costs in `work` are lost."""
    partner = work.argmin(1)
    least = work.min(1)
    pairs = np.empty((len(work) // 2, 2), dtype=np.int64)
    for row in range(len(pairs)):
        one = int(least.argmin())
        gone = [one, int(partner[one])]
        pairs[row] = gone
        work[gone] = work[:, gone] = least[gone] = np.inf
        stale = np.flatnonzero(np.isin(partner, gone) & np.isfinite(least))  # few: whose nearest one is taken
        partner[stale] = work[stale].argmin(1)
        least[stale] = work[stale, partner[stale]]
    return pairs


def _exchange(both: Tensor, pairs: Tensor) -> Tensor:
    """Exchange partners between two pairs as long as that helps, the largest gain first; `both` is symmetric."""
    everything = torch.arange(len(pairs))
    gain = _gains(both, pairs, everything)
    for _ in range(20 * len(pairs)):
        first, second = divmod(int(gain.argmax()), len(pairs))
        (a, b), (c, d) = pairs[first].tolist(), pairs[second].tolist()
        if gain[first, second] <= 1e-12 * (both[a, b] + both[c, d]):
            break
        crossed = both[a, c] + both[b, d] <= both[a, d] + both[b, c]
        new = [[a, c], [b, d]] if crossed else [[a, d], [b, c]]
        pairs[first], pairs[second] = torch.tensor(new[0]), torch.tensor(new[1])
        changed = torch.tensor([first, second])
        rows = _gains(both, pairs, changed)  # no other two pairs gain more or less than before
        gain[changed] = rows
        gain[:, changed] = rows.T
    return pairs


def _gains(both: Tensor, pairs: Tensor, chosen: Tensor) -> Tensor:
    """What each of the chosen pairs saves by the better exchange with each pair: `(len(chosen), len(pairs))`."""
    one, two = pairs.T
    ours, theirs = one[chosen], two[chosen]
    present = both[one, two]
    cross = both[ours][:, one] + both[theirs][:, two]
    turned = both[ours][:, two] + both[theirs][:, one]
    gain = present[chosen][:, None] + present[None] - torch.minimum(cross, turned)
    gain[torch.arange(len(chosen)), chosen] = 0.0
    return gain


def _group(errors: Tensor, own: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
    """Choose heads greedily, exchange heads with their ghosts, assign ghosts optimally."""
    heads = _greedy_heads(errors, own, len(own) - len(sources))
    best = _assign(errors, own, heads, sources)
    for _ in range(10):
        cost, heads, ghosts = best
        better = heads.clone()
        for slot in range(len(heads)):
            members = torch.cat([heads[slot : slot + 1], ghosts[sources == slot]])
            inside = errors[members][:, members].clone()
            inside.fill_diagonal_(0.0)
            better[slot] = members[int((inside.sum(1) + own[members]).argmin())]
        found = _assign(errors, own, better, sources)
        if found[0] >= cost * (1 - 1e-9):
            break
        best = found
    return best[1], best[2]


def _greedy_heads(errors: Tensor, own: Tensor, count: int) -> Tensor:
    """Add the head that lowers the total error most, `count` times."""
    serve = errors.clone()
    serve[range(len(own)), range(len(own))] = own
    reached = torch.full_like(own, float(serve.max()) + 1.0)
    heads: list[int] = []
    for _ in range(count):
        totals = torch.minimum(serve, reached).sum(1)
        totals[heads] = float("inf")
        heads.append(int(totals.argmin()))
        reached = torch.minimum(reached, serve[heads[-1]])
    return torch.tensor(heads)


def _heads_of_groups(errors: Tensor, own: Tensor, count: int, groups: int) -> Tensor:
    """Choose the heads of each group among its own targets."""
    heads = []
    for targets in torch.arange(len(own)).view(groups, -1):
        heads.append(targets[_greedy_heads(errors[targets][:, targets], own[targets], count // groups)])
    return torch.cat(heads)


def _assign(errors: Tensor, own: Tensor, heads: Tensor, sources: Tensor) -> tuple[float, Tensor, Tensor]:
    """Assign the targets that are no heads to the ghost slots at the least total error."""
    from scipy.optimize import linear_sum_assignment  # here, so that training needs no scipy

    rest = torch.ones(len(own), dtype=torch.bool)
    rest[heads] = False
    targets = rest.nonzero()[:, 0]
    costs = errors[heads[sources]][:, targets]
    slots, chosen = linear_sum_assignment(costs.numpy())
    ghosts = torch.empty(len(sources), dtype=torch.long)
    ghosts[torch.as_tensor(slots)] = targets[torch.as_tensor(chosen)]
    return float(costs[slots, chosen].sum() + own[heads].sum()), heads, ghosts
