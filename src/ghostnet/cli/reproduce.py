"""`ghostnet reproduce`: a table of the paper, run where it is missing, ours beside the paper's."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostnet.cli.integer import integer
from ghostnet.cli.output import answer, note

if TYPE_CHECKING:
    from ghostnet.recipes.plan import PlannedRun


def reproduce(
    exhibit: Annotated[
        str, typer.Argument(help="table3, table4, table5, or short (ResNet-20 in minutes on a CPU).")
    ],
    only: Annotated[str, typer.Option(help="Name or pattern of rows' recipes, e.g. 'resnet56*'.")] = "*",
    seeds: Annotated[
        int, typer.Option(parser=integer, metavar="INTEGER", help="Seeds 0, 1, ... of each.")
    ] = 1,
    dense: Annotated[
        str | None, typer.Option(help="For short: weights of the trained ResNet-20 that its rows start from.")
    ] = None,
    list_them: Annotated[
        bool, typer.Option("--list", help="Show the plan and the time that it takes here; run nothing.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the table as it is; run nothing.")] = False,
    count: Annotated[
        bool,
        typer.Option("--count", help="Count the networks into results/cifar10/counts.json; run nothing."),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of networks and checkpoints.")] = Path("runs/reproduce"),
    results: Annotated[Path, typer.Option(help="Folder of finished results.")] = Path("results"),
    data_dir: Annotated[str | None, typer.Option(help="Folder or archive of the data set.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run what a table misses, go on with what was interrupted, and print paper, ours and the difference.

    \b
    Example:
      ghostnet reproduce table5 --list
      ghostnet reproduce short --dense resnet20.th --only 'short_resnet20_*'
    """
    from ghostnet import recipes, report
    from ghostnet.recipes import plan

    shown = report.exhibit(exhibit)
    report.check_only(shown.rows, only)
    entries = [(row.recipe, row.variant) for row in shown.rows if row.recipe and fnmatchcase(row.name, only)]
    if count:
        everything = [
            (row.recipe, row.variant) for key in report.EXHIBITS for row in report.exhibit(key).rows
        ]
        note(f"wrote {plan.count_networks([entry for entry in everything if entry[0]], results)}")
    planned = recipes.make_plan(entries, results, seeds=seeds, dense=dense)
    if list_them:
        rows = _listed(planned, out / "step_seconds.json")
        answer(rows, as_json=as_json, text=lambda: _plan_text(rows))
        return
    if not (show or count):
        recipes.run_plan(planned, out, data_root=data_dir)
    found = report.read_results(results)
    compared = [row.to_dict() for row in report.compare(exhibit, found)]
    answer(compared, as_json=as_json, text=lambda: report.comparison_text(exhibit, found))


def _listed(planned: list[PlannedRun], cache: Path) -> list[dict[str, Any]]:
    from ghostnet.recipes import plan

    rows = []
    for run in planned:
        seconds = None
        if not run.done:
            note(f"timing {run.recipe.name}")
            seconds = plan.cached_step_seconds(run.recipe, cache)
        rows.append(
            {
                "recipe": run.recipe.name,
                "seed": run.recipe.seed,
                "state": "done" if run.done else "not run",
                "steps": run.steps,
                "step_seconds": seconds,
                "hours": None if seconds is None else seconds * run.steps / 3600,
            }
        )
    return rows


def _plan_text(rows: list[dict[str, Any]]) -> str:
    from ghostnet import report

    cells = [
        (
            row["recipe"],
            str(row["seed"]),
            row["state"],
            f"{row['steps']:,}",
            "" if row["step_seconds"] is None else f"{row['step_seconds']:.3f}",
            "" if row["hours"] is None else f"{row['hours']:.2f}",
        )
        for row in rows
    ]
    header = ("recipe", "seed", "state", "steps", "seconds a step", "hours")
    total = sum(row["hours"] or 0.0 for row in rows)
    left = sum(row["state"] != "done" for row in rows)
    return (
        f"{report.text_table(header, cells)}\n{left} of {len(rows)} runs left, about {total:.1f} hours here"
    )
