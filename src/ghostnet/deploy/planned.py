"""A finished plan: what was measured for each layer, what was chosen, and how fast the whole network became."""

from __future__ import annotations

import dataclasses
from typing import Any

from ghostnet.columns import aligned
from ghostnet.deploy.processor import processor_features
from ghostnet.deploy.targets import TARGETS


@dataclasses.dataclass(frozen=True)
class PlannedLayer:
    """One candidate.

    Attributes:
        name: its path.
        shape: input, kernel, output channels.
        macs: of the dense form.
        ratio: s of the Ghost form that the next five are about: the chosen one, else the first that gains, else the
            first; None where no form could be run.
        macs_ratio: of that form over the dense one.
        dense_ms, ghost_ms: medians, each form alone.
        cost: in accuracy, as it was given.
        chosen: whether the layer is ghosted.
        reason: why, or why not.
        ghost_times: milliseconds by ratio, of all forms that were timed.
        costs: by ratio.
    """

    name: str
    shape: str
    macs: int
    ratio: int | None = None
    macs_ratio: float | None = None
    dense_ms: float | None = None
    ghost_ms: float | None = None
    cost: float | None = None
    chosen: bool = False
    reason: str = ""
    ghost_times: dict[int, float] = dataclasses.field(default_factory=dict)
    costs: dict[int, float] = dataclasses.field(default_factory=dict)

    @property
    def time_ratio(self) -> float | None:
        """Time of the ghosted form over that of the dense one."""
        return self.ghost_ms / self.dense_ms if self.ghost_ms is not None and self.dense_ms else None


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which layers to ghost for a runtime; `print` it for a table.

    Attributes:
        target, precision, threads: what it holds for.
        budget: time ratio that was asked for.
        rows: the candidates in execution order.
        left_out: other convolutions and why they were none.
        measured_ratio: time of the whole Ghost network over that of the original; 1.0 where no layer is chosen.
        attempts: every whole network that was timed.
        settings: ratio, cheap_kernel_size, input_size.
        environment: processor and versions.
    """

    target: str
    precision: str
    threads: int
    budget: float
    rows: tuple[PlannedLayer, ...]
    left_out: dict[str, str]
    measured_ratio: float
    attempts: tuple[dict[str, Any], ...]
    settings: dict[str, Any]
    environment: dict[str, Any]

    @property
    def layers(self) -> list[str]:
        """Names of the layers to ghost; empty if none is worth it."""
        return list(self.ratios)

    @property
    def ratios(self) -> dict[str, int]:
        """The ratio of each layer to ghost, for `ghostify(model, ratio=plan.ratios)`; empty if none is worth it."""
        return {row.name: row.ratio for row in self.rows if row.chosen and row.ratio}

    @property
    def met(self) -> bool:
        """Whether the budget is met (1 always is)."""
        return self.measured_ratio <= self.budget

    @property
    def all_ratio(self) -> float | None:
        """Time of the network with all candidates ghosted that can be, over that of the original; None if not run."""
        found = [attempt["ratio"] for attempt in self.attempts if attempt["layers"] == self._able]
        return found[-1] if found else None

    @property
    def _able(self) -> int:
        return sum(row.ghost_ms is not None for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        return {
            **dataclasses.asdict(self),
            "layers": self.layers,
            "ratios": self.ratios,
            "met": self.met,
            "all_ratio": self.all_ratio,
            "processor_features": list(processor_features()),
        }

    def __str__(self) -> str:
        """Return a table, where there are candidates, and the verdict."""
        if not self.rows:
            return self.verdict()
        header = ("layer", "shape", "MACs", "dense ms", "ghost ms", "time", "cost", "choice")
        table = [
            header,
            *(_cells(row, several=isinstance(self.settings.get("ratio"), list)) for row in self.rows),
        ]
        return "\n".join([*aligned(table, numbers=range(2, 7)), self.verdict()])

    def verdict(self) -> str:
        """Return what came of it, in one line."""
        where = f"{TARGETS[self.target].runtime} {self.precision}, {self.threads} thread(s)"
        if not self.rows:
            return f"no layer is a candidate for ghosting: {_some_left_out(self.left_out)}"
        if not self._able:
            return f"no layer could be measured in {where}: {self.rows[0].name}: {self.rows[0].reason}"
        if not self.layers:
            return f"no layer is worth ghosting in {where}: the whole network would not become 5 % faster"
        line = f"{len(self.layers)} of {len(self.rows)} layers, whole network at {self.measured_ratio:.3f} of the time"
        line += f" in {where}"
        if self.all_ratio is not None and len(self.layers) < self._able:
            line += f" (all {self._able}: {self.all_ratio:.3f})"
        return line if self.met else f"{line}; the budget of {self.budget} cannot be met"


def _some_left_out(left_out: dict[str, str]) -> str:
    """Return the first three convolutions that are no candidates, each with the reason, and how many more."""
    text = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:3])
    return text if len(left_out) <= 3 else f"{text}; and {len(left_out) - 3} more"


def _cells(row: PlannedLayer, *, several: bool) -> tuple[str, ...]:
    numbers = (_number(row.macs_ratio), _number(row.dense_ms), _number(row.ghost_ms), _number(row.time_ratio))
    cost = "?" if row.cost is None else f"{row.cost:.3g}"
    taken = f"ghost, s = {row.ratio}" if several else "ghost"
    return (row.name, row.shape, *numbers, cost, taken if row.chosen else row.reason)


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"
