"""Paper beside ours, row by row: the cells of Tables 3 to 5 and of the short table, from `results/` and `paper`.

A row that was not run says "not run"; a difference is ours minus the paper's, in points.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ghostnet.report.exhibits import EXHIBITS, Exhibit, Row, exhibit
from ghostnet.report.tables import markdown_table, text_table

NOT_RUN = "not run"
COUNTS = "cifar10_counts"  # exhibit of the file that holds parameters and MACs of networks that were not run
_HEADER: tuple[str, ...] = (
    *("network", "training", "paper %", "ours %", "difference", "n", "params M, paper", "ours"),
    *("MACs M, paper", "ours", "as converted %", "record (seed)"),
)
Results = Sequence[tuple[Path, Mapping[str, Any]]]


@dataclass(frozen=True)
class Compared:
    """One row with its results.

    Attributes:
        label, training, name: of the row.
        paper_top1, paper_params_m, paper_macs_m: what the paper prints, or None.
        top1: our mean over seeds in percent, None if not run.
        std: over seeds, None with fewer than two.
        n: seeds run.
        difference: `top1 - paper_top1`.
        params, macs: counted by us.
        as_converted: mean top-1 before fine-tuning, for rows that convert.
        seconds: mean training time.
        records: result files by seed.
    """

    label: str
    training: str
    name: str
    paper_top1: float | None
    paper_params_m: float | None
    paper_macs_m: float | None
    top1: float | None
    std: float | None
    n: int
    difference: float | None
    params: int | None
    macs: int | None
    as_converted: float | None
    seconds: float | None
    records: dict[int, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as what JSON can hold."""
        return asdict(self)


def compare(key: str, results: Results) -> list[Compared]:
    """Put a table's rows beside their results.

    Args:
        key: of `EXHIBITS`.
        results: from `read_results`.

    Raises:
        InputError: an unknown key.
    """
    shown = exhibit(key)
    return [_compared(row, _runs_of(row, shown, results), counts_of(results)) for row in shown.rows]


def _runs_of(row: Row, shown: Exhibit, results: Results) -> list[tuple[Path, Mapping[str, Any]]]:
    return [
        (path, result)
        for path, result in results
        if row.recipe
        and result["exhibit"] == shown.folder
        and isinstance(result.get("recipe"), Mapping)
        and result["recipe"].get("name") == row.name
    ]


def counts_of(results: Results) -> Mapping[str, Mapping[str, int]]:
    """Return the params and MACs of networks that were only counted, by their recipes' names."""
    found = [result["metrics"]["counts"] for _, result in results if result["exhibit"] == COUNTS]
    return found[-1] if found else {}


def _compared(
    row: Row, runs: list[tuple[Path, Mapping[str, Any]]], counts: Mapping[str, Mapping[str, int]]
) -> Compared:
    paper = row.paper or {}
    metrics = [result["metrics"] for _, result in runs]
    top1 = [float(metric["top1"]) for metric in metrics]
    mean = statistics.mean(top1) if top1 else None
    printed = paper.get("accuracy")
    counted = metrics[0] if metrics else counts.get(row.recipe, {})
    converted = [
        metric["stages"]["as converted"]["top1"]
        for metric in metrics
        if "as converted" in metric.get("stages", {})
    ]
    return Compared(
        label=row.label,
        training=row.training,
        name=row.name,
        paper_top1=printed,
        paper_params_m=paper.get("params_m"),
        paper_macs_m=paper.get("macs_m"),
        top1=mean,
        std=statistics.stdev(top1) if len(top1) > 1 else None,
        n=len(top1),
        difference=None if mean is None or printed is None else mean - float(printed),
        params=counted.get("params"),
        macs=counted.get("macs"),
        as_converted=statistics.mean(converted) if converted else None,
        seconds=statistics.mean(float(result["seconds"]) for _, result in runs) if runs else None,
        records={int(result["seed"]): path.as_posix() for path, result in runs},
    )


def _cells(row: Compared, link: str | None) -> tuple[str, ...]:
    ours = "–" if not row.name else NOT_RUN
    if row.top1 is not None:
        ours = f"{row.top1:.2f}" + ("" if row.std is None else f" ± {row.std:.2f}")
    records = [
        path if link is None else f"[{seed}]({link}/{path})" for seed, path in sorted(row.records.items())
    ]
    return (
        row.label,
        row.training,
        _shown(row.paper_top1, ".1f"),
        ours,
        _shown(row.difference, "+.2f"),
        str(row.n) if row.name else "–",
        _shown(row.paper_params_m, "g"),
        "–" if row.params is None else f"{row.params / 1e6:.3f}",
        _shown(row.paper_macs_m, "g"),
        "–" if row.macs is None else f"{row.macs / 1e6:.1f}",
        _shown(row.as_converted, ".2f"),
        " ".join(records),
    )


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def comparison_cells(key: str, results: Results) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return a table's header and rows as text, empty columns left out; records are paths."""
    return _filled(compare(key, results), None)


def comparison_text(key: str, results: Results) -> str:
    """Return a table as plain text, empty columns left out."""
    return "\n".join([exhibit(key).title, "", text_table(*comparison_cells(key, results))])


def comparison_markdown(
    key: str, results: Results, link_root: str = "results", *, run_only: bool = False
) -> str:
    """Return a table as Markdown, empty columns left out.

    Args:
        key: which table.
        results: from `read_results`.
        link_root: folder of the results as seen from the document.
        run_only: leave out the rows that were not run.
    """
    compared = [row for row in compare(key, results) if row.n or not run_only]
    header, rows = _filled(compared, link_root)
    return f"{exhibit(key).title}\n\n{markdown_table(header, rows)}"


def _filled(rows: list[Compared], link: str | None) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    cells = [_cells(row, link) for row in rows]
    kept = [
        place
        for place in range(len(_HEADER))
        if place < 6 or any(row[place] not in ("–", "") for row in cells)
    ]
    alone = {7: "params M", 9: "MACs M"}  # "ours" says nothing where the paper's column is left out
    header = [alone[place] if place in alone and place - 1 not in kept else _HEADER[place] for place in kept]
    return tuple(header), [tuple(row[place] for place in kept) for row in cells]


def tables_page(results: Results) -> str:
    """Return docs/cifar10.md: every table, what was not run included."""
    head = """# CIFAR-10: Tables 3 to 5

Generated by `ghostnet report` from `results/`; a test fails when it is stale. `ghostnet reproduce table3 --list` shows
what is left to run and how long it takes on this machine, `ghostnet reproduce table3` runs it. Differences are ours
minus the paper's, in points of top-1 on all 10,000 test images. Parameters and MACs were counted by
`ghostnet.profile`. References in brackets are the paper's.
"""
    parts = [comparison_markdown(key, results, "../results") for key in EXHIBITS]
    return "\n".join([head, "\n\n".join(parts)]) + "\n"


def rows_that_were_run(results: Results, link_root: str = "results") -> str:
    """Return the rows that were run, and how many were not, for the page of results."""
    rows = {key: [row for row in compare(key, results) if row.name] for key in EXHIBITS}
    run = {key: sum(row.n > 0 for row in found) for key, found in rows.items()}
    parts = [comparison_markdown(key, results, link_root, run_only=True) for key in EXHIBITS if run[key]]
    counts = ", ".join(f"{key} {run[key]} of {len(rows[key])}" for key in EXHIBITS)
    parts.append(
        f"Rows of the CIFAR-10 tables that were run: {counts}; each of them: [CIFAR-10](cifar10.md)."
    )
    return "\n\n".join(parts)
