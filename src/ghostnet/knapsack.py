"""One choice a layer, at the least summed cost, that saves enough: a knapsack by dynamic programming."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_STEPS = 50_000  # the resolution of the target; savings are rounded down to it, so that it is met


def allocate(options: Sequence[Sequence[tuple[int, float]]], target: int) -> list[int] | None:
    """Choose an option for each layer so that the savings reach the target at the least cost.

    Args:
        options: for each layer `(saved, cost)` pairs, savings >= 0.
        target: what must be saved.

    Returns:
        The index of each layer's option, or None where the target is out of reach.

    Example:
        >>> allocate([[(0, 0.0), (10, 3.0)], [(0, 0.0), (8, 1.0), (12, 2.0)]], 10)
        [0, 2]
    """
    if sum(max(saved for saved, _ in layer) for layer in options) < target:
        return None
    if target <= 0:
        return [min(range(len(layer)), key=lambda index: layer[index][1]) for layer in options]
    unit = max(1.0, target / _STEPS)
    needed = int(np.ceil(target / unit))
    best = np.full(needed + 1, np.inf)  # the least cost to save this much or, at the end, at least this much
    best[0] = 0.0
    choices: list[np.ndarray] = []
    origins: list[np.ndarray] = []
    for layer in options:
        costs = np.full(needed + 1, np.inf)
        choice, origin = np.zeros(needed + 1, np.int32), np.zeros(needed + 1, np.int32)
        for index, (saved, cost) in enumerate(layer):
            step = int(saved / unit)
            moved, start = _moved(best, step)
            moved = moved + cost
            better = moved < costs
            costs[better], choice[better], origin[better] = moved[better], index, start[better]
        best = costs
        choices.append(choice)
        origins.append(origin)
    if not np.isfinite(best[needed]):  # within the rounding of the target: every layer saves what it can
        return [max(range(len(layer)), key=lambda index: layer[index][0]) for layer in options]
    place, picked = needed, []
    for choice, origin in zip(reversed(choices), reversed(origins), strict=True):
        picked.append(int(choice[place]))
        place = int(origin[place])
    return picked[::-1]


def _moved(best: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the costs after saving `step` more, and where each came from; the last place takes all that is more."""
    last = len(best) - 1
    step = min(step, last)
    moved = np.full_like(best, np.inf)
    start = np.zeros(len(best), np.int32)
    moved[step:] = best[: len(best) - step]
    start[step:] = np.arange(len(best) - step)
    over = last - step + int(np.argmin(best[last - step :]))
    if best[over] < moved[last]:
        moved[last], start[last] = best[over], over
    return moved, start
