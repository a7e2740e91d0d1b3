"""Learning-rate schedules as plain functions of the step, so that a resumed run needs no schedule state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ghostnet.errors import InputError, unknown_name

Schedule = Callable[[int], float]

SCHEDULES = ("linear", "cosine", "step", "constant")


def make_schedule(
    name: str, total_steps: int, *, warmup_fraction: float = 0.0, milestones: Sequence[float] = ()
) -> Schedule:
    """Return the factor on the peak learning rate as a function of the step.

    Args:
        name: "linear" and "cosine" fall to zero, "step" multiplies by 0.1 at each milestone, "constant" stays.
        total_steps: steps of the whole run.
        warmup_fraction: share of the run, in [0, 1), in which the rate rises linearly from zero.
        milestones: for "step", shares of the run in (0, 1).

    Raises:
        InputError: unknown name, a fraction outside its range, or "step" without milestones.

    Example:
        >>> [round(make_schedule("linear", 4)(step), 2) for step in range(4)]
        [0.88, 0.62, 0.38, 0.12]
    """
    if name not in SCHEDULES:
        raise unknown_name("schedule", name, SCHEDULES)
    if not 0 <= warmup_fraction < 1:
        raise InputError(f"`warmup_fraction` (={warmup_fraction}) must be at least 0 and below 1")
    if any(not 0 < milestone < 1 for milestone in milestones):
        raise InputError(
            f"`milestones` (={list(milestones)}) are shares of the run: each above 0 and below 1"
        )

    if name == "step" and not milestones:
        raise InputError(
            '`schedule` (="step") lowers the rate at `milestones`, and there are none; give some, as in [0.5, 0.75], '
            'or take "constant"'
        )

    def factor(step: int) -> float:
        done = (step + 0.5) / max(
            1, total_steps
        )  # the middle of the step: no step is wasted at a rate of zero
        if done < warmup_fraction:
            return done / warmup_fraction
        left = (1 - done) / (1 - warmup_fraction)
        if name == "linear":
            return max(0.0, left)
        if name == "cosine":
            return 0.5 * (1 - math.cos(math.pi * max(0.0, left)))
        if name == "step":
            return 0.1 ** sum(done >= milestone for milestone in milestones)
        return 1.0

    return factor
