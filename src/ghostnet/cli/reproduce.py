"""`ghostnet reproduce`: any exhibit of the paper, run where it is missing, ours beside the paper's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostnet.checks import check_integer
from ghostnet.cli.exhibit_runs import RunOptions, run_exhibit
from ghostnet.cli.idle import Use, refuse_idle
from ghostnet.cli.integer import integer_option
from ghostnet.cli.output import answer, note
from ghostnet.errors import InputError, unknown_name

if TYPE_CHECKING:
    from ghostnet.recipes.plan import PlannedRun


def reproduce(
    context: typer.Context,
    exhibits: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXHIBIT...",
            help="table1 to table8, figure1, 4, 5, 6, 7, short or short_sweep (ResNet-20).",
        ),
    ] = None,
    only: Annotated[str, typer.Option(help="Name or pattern of rows' recipes, e.g. 'resnet56*'.")] = "*",
    seeds: Annotated[int, integer_option(help="Seeds 0, 1, ... of each.")] = 1,
    dense: Annotated[
        str | None,
        typer.Option(
            help="For short and short_sweep: weights of a trained ResNet-20 for its rows to start from, not akamaster."
        ),
    ] = None,
    list_them: Annotated[
        bool,
        typer.Option(
            "--list",
            help="Show what is done, what is left and how long it takes here (of one table, it "
            "times each recipe for some steps, once). Trains nothing.",
        ),
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the exhibit as it is; run nothing.")] = False,
    count: Annotated[
        bool,
        typer.Option("--count", help="Count the networks into results/cifar10/counts.json; run nothing."),
    ] = False,
    jobs: Annotated[int, integer_option(help="Runs at a time, each with its share of cores.")] = 1,
    together: Annotated[
        bool,
        typer.Option("--together", help="Train a recipe's seeds as one stacked network: for GPUs."),
    ] = False,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile", help="Train with torch.compile; on a GPU, where it pays, with CUDA graphs."
        ),
    ] = False,
    network: Annotated[
        str | None,
        typer.Option(help="For table2, figure1, 4, 5: a trained network, or a ResNet-50 v2's .npz."),
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="For the same: an image or a folder; may be repeated.")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="For the same: dotted name. Default: the second convolution's maps.")
    ] = None,
    limit: Annotated[int, integer_option(help="For the same: images to use, the first ones.")] = 8,
    credit: Annotated[str, typer.Option(help="For the same: author and licence of the first image.")] = "",
    out: Annotated[Path, typer.Option(help="Folder of networks and checkpoints.")] = Path("runs/reproduce"),
    results: Annotated[Path, typer.Option(help="Folder of finished results.")] = Path("results"),
    data_dir: Annotated[str | None, typer.Option(help="Folder or archive of the data set.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run again what needs no training.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run what an exhibit misses, go on with what was interrupted, and print paper, ours and the difference.

    \b
    Example:
      ghostnet reproduce --list
      ghostnet reproduce table1 table7 figure6
      ghostnet reproduce table2 --network resnet50v2.npz --layer stages.0 --images photos/
      ghostnet reproduce short --only 'short_resnet20_*'
    """
    from ghostnet.recipes import plan

    keys = _keys(exhibits, {"--list": list_them, "--show": show, "--count": count})
    refuse_idle(context, *_uses(keys))
    check_integer("--limit", limit)
    check_integer("`seeds`", seeds)
    plan.check_jobs(jobs, together=together)
    trained = _Trained(only, seeds, dense, jobs, out, results, data_dir, compiled, together)
    if list_them:
        _list(keys, trained, as_json=as_json)
        return
    options = RunOptions(results, network, layer, tuple(images or ()), limit, credit, force)
    _run(keys, trained, options, count=count, show=show)
    _print(keys, results, as_json=as_json)


def _keys(exhibits: list[str] | None, answers: dict[str, bool]) -> list[str]:
    """Return the exhibits that are asked for, all where they are listed.

    Args:
        exhibits: as they were given.
        answers: the options that each ask for another answer, and whether they were given.

    Raises:
        InputError: more than one answer, no exhibit, or an unknown one.
    """
    from ghostnet import report

    asked = [flag for flag, given in answers.items() if given]
    if len(asked) > 1:
        raise InputError(f"{' and '.join(asked)} are different answers; ask for one")
    keys = list(dict.fromkeys(exhibits or (report.CATALOGUE if answers["--list"] else ())))
    if not keys:
        raise InputError(
            "name an exhibit (table1 to table8, figure1, 4, 5, 6, 7, short, short_sweep), or give --list"
        )
    unknown = next((key for key in keys if key not in report.CATALOGUE), None)
    if unknown is not None:
        raise unknown_name("exhibit", unknown, report.CATALOGUE)
    return keys


def _list(keys: list[str], trained: _Trained, *, as_json: bool) -> None:
    """Show what is done and what is left: of one table its runs, else a row an exhibit."""
    from ghostnet import report

    cache = trained.out / "step_seconds.json"
    if len(keys) == 1 and keys[0] in report.EXHIBITS:
        runs = _listed(trained.plan(keys[0]), cache)
        answer(runs, as_json=as_json, text=lambda: _plan_text(runs))
    else:
        overview = _overview(keys, trained, cache)
        answer(overview, as_json=as_json, text=lambda: _overview_text(overview))


def _run(keys: list[str], trained: _Trained, options: RunOptions, *, count: bool, show: bool) -> None:
    """Run what the exhibits miss; those that are trained are all looked at before the first one runs."""
    from ghostnet import report

    for key in keys:
        if key in report.EXHIBITS:
            trained.check(key)
    for key in keys:
        if key in report.EXHIBITS:
            trained.run(key, count=count, show=show)
        elif not show:
            run_exhibit(key, options)


def _print(keys: list[str], results: Path, *, as_json: bool) -> None:
    """Print the exhibits as the records give them."""
    found = _known(
        results, lambda records: [(_value(key, records), _exhibit_text(key, records)) for key in keys]
    )
    values = {key: _value(key, found) for key in keys}
    answer(
        values if len(keys) > 1 else values[keys[0]],
        as_json=as_json,
        text=lambda: "\n\n".join(_exhibit_text(key, found) for key in keys),
    )


def _uses(keys: list[str]) -> list[Use]:
    """Return which options the exhibits read."""
    from ghostnet import report

    trained = set(report.EXHIBITS)
    looked_at = ("table2", "figure1", "figure4", "figure5")
    training = ("only", "seeds", "jobs", "together", "compiled", "out", "data_dir", "count")
    return [
        (not {"short", "short_sweep"}.isdisjoint(keys), "short and short_sweep", ("dense",)),
        (not trained.isdisjoint(keys), _listing(report.EXHIBITS), training),
        (not trained.issuperset(keys), "exhibits without training", ("force",)),
        (
            not set(looked_at).isdisjoint(keys),
            _listing(looked_at),
            ("network", "images", "layer", "limit", "credit"),
        ),
    ]


def _listing(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


@dataclass(frozen=True)
class _Trained:
    """How the exhibits that are trained are run: the options of this command."""

    only: str
    seeds: int
    dense: str | None
    jobs: int
    out: Path
    results: Path
    data_dir: str | None
    compiled: bool
    together: bool = False

    def check(self, key: str) -> None:
        """Raise unless `only` names a row."""
        from ghostnet import report

        report.check_only(report.exhibit(key).rows, self.only)

    def plan(self, key: str) -> list[PlannedRun]:
        """Return the runs of a table."""
        from ghostnet import recipes, report

        self.check(key)
        rows = report.exhibit(key).rows
        entries = [
            (row.recipe, row.variant) for row in rows if row.recipe and fnmatchcase(row.name, self.only)
        ]
        return recipes.make_plan(
            entries, self.results, seeds=self.seeds, dense=self.dense, compiled=self.compiled
        )

    def run(self, key: str, *, count: bool, show: bool) -> None:
        """Run what a table misses, or count its networks."""
        from ghostnet import recipes, report
        from ghostnet.recipes import plan

        if count:
            rows = [row for each in report.EXHIBITS for row in report.exhibit(each).rows if row.recipe]
            entries = [(row.recipe, row.variant) for row in rows]
            note(f"wrote {plan.count_networks(entries, self.results)}")
        planned = self.plan(key)
        if not (show or count):
            recipes.run_plan(
                planned, self.out, data_root=self.data_dir, jobs=self.jobs, together=self.together
            )


def _known(folder: Path, use: Callable[[Any], object]) -> list[Any]:
    """Return the records that a use of them stands; each other one is noted in one line."""
    from ghostnet import report

    found = report.read_results(folder, on_error=lambda error: note(f"not read: {error}"))
    return list(
        report.usable_records(found, use, folder=folder, on_error=lambda line: note(f"not read: {line}"))
    )


def _value(key: str, found: list[Any]) -> Any:
    from ghostnet import report

    if key in report.EXHIBITS:
        return [row.to_dict() for row in report.compare(key, found)]
    state = report.state_of(key, found)
    sheets = [asdict(sheet) for sheet in report.sheets_of(key, found)]
    return {"state": state.word, "detail": state.detail, "records": list(state.records), "sheets": sheets}


def _exhibit_text(key: str, found: list[Any]) -> str:
    from ghostnet import report

    return report.comparison_text(key, found) if key in report.EXHIBITS else report.exhibit_text(key, found)


def _overview(keys: list[str], trained: _Trained, cache: Path) -> list[dict[str, Any]]:
    """Return a row an exhibit: its state, and the hours left where a plan's steps were timed before."""
    from ghostnet import report

    found = _known(trained.results, lambda records: [report.state_of(key, records) for key in keys])
    rows = []
    for key in keys:
        state, entry = report.state_of(key, found), report.CATALOGUE[key]
        time_here = f"took {state.seconds:,.0f} s" if state.seconds is not None else ""
        if key in report.EXHIBITS and state.word != "done":
            hours = _hours_left(trained.plan(key), cache)
            time_here = f"`reproduce {key} --list` times it" if hours is None else f"{hours:,.1f} h left"
        rows.append(
            {
                "exhibit": key,
                "title": entry.title,
                "state": state.word,
                "detail": state.detail,
                "needs": entry.needs,
                "time": time_here,
            }
        )
    return rows


def _hours_left(planned: list[PlannedRun], cache: Path) -> float | None:
    """Return the hours that a plan takes, or None where a step of it was never timed on this machine."""
    from ghostnet.recipes import plan

    known = plan.known_step_seconds(cache)
    runs = [run for run in planned if not run.done]
    if not all(run.recipe.name in known for run in runs):
        return None
    return sum(known[run.recipe.name] * run.steps for run in runs) / 3600


def _overview_text(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        lines.append(f"{row['exhibit']:<8}  {row['state']:<7}  {row['title']}")
        facts = (row["detail"], f"needs {row['needs']}", row["time"])
        lines.append(" " * 19 + "; ".join(fact for fact in facts if fact))
    return "\n".join(lines)


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
