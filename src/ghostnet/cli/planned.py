"""`ghostnet convert --plan`: only the layers that gain in a runtime on this machine, each in its ratio."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostnet.cli.export import TARGET_NAMES
from ghostnet.cli.output import note
from ghostnet.errors import InputError, unknown_name
from ghostnet.files import refuse_overwrite

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ghostnet.convert import ConversionReport
    from ghostnet.deploy import Plan, SharePlan

_PRECISIONS = ("fp32", "bf16", "int8")


@dataclass(frozen=True)
class Planned:
    """A plan, and the network that it led to, if any."""

    plan: Plan | SharePlan
    network: nn.Module | None
    report: ConversionReport | None

    def out(self, path: Path) -> str | None:
        """Return the file that was written, None where the network stays as it is."""
        return None if self.network is None else str(path)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return {"plan": self.plan.to_dict(), "conversion": self.report.to_dict() if self.report else None}

    def text(self) -> str:
        """Return the plan's table, and the conversion's."""
        if self.report is None:
            return f"{self.plan}\nnothing is written"
        return f"{self.plan}\n\n{self.report}"


def check_plan(
    plan: str | None,
    method: str,
    budget: float,
    files: Path | None,
    result: Path | None,
    *,
    force: bool,
    macs: float | None,
) -> None:
    """Refuse what makes no sense together, before anything slow is loaded.

    Raises:
        InputError: an unknown runtime or precision, a budget outside (0, 1], options without `--plan`, pruning without
            a budget, or with one and a share of the MACs.
    """
    if plan is None:
        if budget != 1 or files is not None or result is not None:
            raise InputError("--budget, --plan-files and --plan-result are for --plan RUNTIME; give it too")
        return
    target, _, precision = plan.partition(":")
    if target not in TARGET_NAMES:
        raise unknown_name("export target", target, TARGET_NAMES)
    if precision and precision not in _PRECISIONS:
        raise unknown_name("precision", precision, _PRECISIONS)
    if not 0 < budget <= 1:
        raise InputError(f"--budget (={budget}) must be above 0 and at most 1; 0.7 asks for 70 % of the time")
    if method != "ghost" and budget == 1:
        raise InputError(
            f"--plan with method {method} prunes to a share of the time: give it as --budget, such as 0.7"
        )
    if method != "ghost" and macs is not None:
        raise InputError(
            "--budget asks for a share of the time, --macs for one of the MACs; leave out one of them"
        )
    if result is not None:
        refuse_overwrite(result, force=force)


def convert_planned(
    model: nn.Module,
    plan: str,
    budget: float,
    example: Tensor,
    settings: dict[str, Any],
    files: tuple[Path | None, Path | None, Path | None],
    recipe: dict[str, Any],
) -> Planned:
    """Plan, convert, and write what was measured.

    Args:
        model: the dense network.
        plan: runtime and precision.
        budget: time ratio.
        example: images of the size that is timed.
        settings: of `GhostSettings`.
        files: the folder of exported candidates, the file of costs and the result to write; each or None.
        recipe: what the result says of the conversion.
    """
    from ghostnet import recipes
    from ghostnet.recipes.latency_plan import GhostSettings, convert_by_plan

    started = time.perf_counter()
    candidates, costs, result = files
    target, _, precision = plan.partition(":")
    network, report, found = convert_by_plan(
        model,
        target,
        example_input=example,
        ghost=GhostSettings(**settings),
        precision=precision or "fp32",
        budget=budget,
        folder=candidates,
        costs=costs,
        progress=True,
        announce=note,
    )
    if result is not None:
        seconds = time.perf_counter() - started
        recipe = {"name": result.stem, **recipe}
        recipes.write_record(result, found.to_dict(), seconds=seconds, recipe=recipe, unplaced="plan")
    return Planned(found, network, report)
