"""Which layers to ghost, and in which ratio, by asking for more and less saved time: the search of `plan`.

One number is searched for: how much of the time that all layers could save, each alone, is asked for. For each number a
knapsack gives the choice that costs the least accuracy, and the whole network with that choice is timed. Left out: how
anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ghostnet.knapsack import allocate

WORTH = 0.05  # of the whole network's time; for less nobody gives accuracy away
CLOSE = 0.02  # below the budget by this much is close enough; less is within the noise of a measurement
_ATTEMPTS = 8
_ROUNDING = (
    0.999  # of what is asked for: the knapsack rounds savings down, which must not cost one more layer
)
INSIDE = 0.005  # aim at this much below the budget, since a measurement on the wrong side is of no use

Choice = dict[str, int]


@dataclass(frozen=True)
class GhostOption:
    """A form of a layer that is faster than the dense one.

    Args:
        ratio: s.
        gain_ms: what it saves, measured alone.
        cost: in accuracy.
    """

    ratio: int
    gain_ms: float
    cost: float


@dataclass(frozen=True)
class _Attempt:
    share: float
    choice: Choice
    ratio: float


def search(
    options: Mapping[str, list[GhostOption]], measure: Callable[[Choice], float], budget: float
) -> tuple[Choice, float]:
    """Return the ratio of each layer to ghost, and what was measured for the whole network with them.

    Args:
        options: the forms of each layer that gain.
        measure: time of the network with a choice over that of the original.
        budget: the ratio to reach at the least cost; 1 asks for the fastest network.

    Returns:
        The choice and its measured ratio; `({}, 1.0)` where no choice makes the whole network 5 % faster. Where the
        budget is out of reach, the fastest that was found.
    """
    tried: list[_Attempt] = []
    shares = [1.0]
    while len(tried) < _ATTEMPTS:
        known = [attempt.choice for attempt in tried]
        fresh = ((share, least_cost(options, share)) for share in shares)
        share, choice = next(
            ((share, choice) for share, choice in fresh if choice not in [{}, *known]), (0.0, {})
        )
        if not choice:
            break
        tried.append(_Attempt(share, choice, measure(choice)))
        if min(attempt.ratio for attempt in tried) > 1 - WORTH:
            shares = [share / 2]  # the dearest of those that gain alone do not gain in company
        else:
            shares = _above_the_best(tried) if budget == 1 else _between(tried, budget)
    good = [attempt for attempt in tried if attempt.ratio <= 1 - WORTH]
    if not good:
        return {}, 1.0
    meeting = [attempt for attempt in good if attempt.ratio <= budget < 1]
    best = (
        min(meeting, key=lambda attempt: attempt.share)
        if meeting
        else min(good, key=lambda attempt: attempt.ratio)
    )
    return best.choice, best.ratio


def least_cost(options: Mapping[str, list[GhostOption]], share: float) -> Choice:
    """Return the choice that costs least and saves a share of what all layers could save, each alone.

    Example:
        >>> options = {"a": [GhostOption(2, 1.0, 0.1), GhostOption(4, 1.5, 0.9)], "b": [GhostOption(2, 1.0, 0.2)]}
        >>> least_cost(options, 0.8)
        {'a': 2, 'b': 2}
    """
    forms = [
        [(0, 0.0), *((_nanoseconds(one.gain_ms), one.cost) for one in each)] for each in options.values()
    ]
    all_saved = sum(max(saved for saved, _ in form) for form in forms)
    asked = share if share == 1 else _ROUNDING * share
    chosen = allocate(forms, round(asked * all_saved)) or []
    pairs = zip(options.items(), chosen, strict=True) if chosen else ()
    return {name: each[index - 1].ratio for (name, each), index in pairs if index}


def _nanoseconds(milliseconds: float) -> int:
    return round(milliseconds * 1e6)


def _above_the_best(tried: list[_Attempt]) -> list[float]:
    """Return the share halfway from the fastest to the next larger one that was measured."""
    best = min(tried, key=lambda attempt: attempt.ratio).share
    return [(best + min((one.share for one in tried if one.share > best), default=best)) / 2]


def _between(tried: list[_Attempt], budget: float) -> list[float]:
    """Return what to try next, between the most that misses the budget and the least that meets it."""
    meeting = [attempt for attempt in tried if attempt.ratio <= budget]
    if not meeting:
        return []  # even the most misses it
    high = min(meeting, key=lambda attempt: attempt.share)
    if high.ratio > budget - CLOSE:
        return []
    below = [attempt for attempt in tried if attempt.share < high.share]
    low = max(below, key=lambda attempt: attempt.share, default=_Attempt(0.0, {}, 1.0))
    guess = low.share + (high.share - low.share) * (low.ratio - budget + INSIDE) / (low.ratio - high.ratio)
    return [share for share in (guess, (low.share + high.share) / 2) if low.share < share < high.share]
