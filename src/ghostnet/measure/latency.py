"""Times of several callables, taken side by side in one process: A B A B ..., after warm-up.

Interleaving spreads a slow moment of the machine over all of them: ratios hold where absolute times do not.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from ghostnet.errors import InputError


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: the median and the 10th and 90th percentiles over `rounds` calls."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    rounds: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return dataclasses.asdict(self)


def time_interleaved(
    callables: Mapping[str, Callable[[], object]],
    *,
    min_seconds: float = 1.0,
    min_rounds: int = 20,
    warmup: int = 5,
) -> dict[str, Timing]:
    """Time callables in turn until both limits are met.

    Args:
        callables: by name; each does its work to the end (synchronises its device) before it returns.
        min_seconds: least time in seconds spent on each callable on average, >= 0.
        min_rounds: least number of timed calls of each, >= 1.
        warmup: untimed calls of each first, >= 0.

    Returns:
        A `Timing` for each name, in the given order.

    Raises:
        InputError: no callable, or a limit out of its range.

    Example:
        >>> timings = time_interleaved({"sum": lambda: sum(range(100))}, min_seconds=0, min_rounds=3)
        >>> timings["sum"].rounds
        3
    """
    if not callables:
        raise InputError("there is nothing to time; give at least one callable")
    if not (math.isfinite(min_seconds) and min_seconds >= 0 and min_rounds >= 1 and warmup >= 0):
        raise InputError(
            f"min_seconds (={min_seconds}) and warmup (={warmup}) must be finite and >= 0, "
            f"min_rounds (={min_rounds}) >= 1"
        )
    for call in callables.values():
        for _ in range(warmup):
            call()
    times: dict[str, list[float]] = {name: [] for name in callables}
    spent, rounds = 0.0, 0
    while rounds < min_rounds or spent < min_seconds * len(callables):
        for name, call in callables.items():
            start = time.perf_counter()
            call()
            seconds = time.perf_counter() - start
            times[name].append(1e3 * seconds)
            spent += seconds
        rounds += 1
    return {name: _timing(values) for name, values in times.items()}


def _timing(values: list[float]) -> Timing:
    ordered = sorted(values)
    last = len(ordered) - 1
    return Timing(
        median_ms=statistics.median(ordered),
        p10_ms=ordered[round(0.1 * last)],
        p90_ms=ordered[round(0.9 * last)],
        rounds=len(ordered),
    )
