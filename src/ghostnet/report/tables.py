"""Tables from results: plain text for the terminal, Markdown for the README.

The README's section between the two markers is generated, never typed; `ghostnet report --check` fails when
it is stale. A gap is shown: what was not run says "not run".
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ghostnet.columns import aligned
from ghostnet.errors import InputError

BEGIN = "<!-- results:begin -->"
END = "<!-- results:end -->"
_WITH_TABLES = (
    "cifar10",
    "cifar10_short",
    "int8",
)  # these have tables of their own: `comparison`, `deploy_tables`
DEMO_HEADER = ("network", "top-1 %", "top-5 %", "params", "MACs", "latency ms", "time / dense")


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned table; every column but the first is flush right.

    Example:
        >>> print(text_table(("name", "n"), [("a", "10")]))
        name   n
        --------
        a     10
    """
    lines = aligned([header, *rows], numbers=range(1, len(header)))
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join(lines)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a GitHub table; every column but the first is flush right."""
    marks = [":--", *["--:"] * (len(header) - 1)]
    lines = [header, marks, *[[cell.replace("|", "\\|") for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def demo_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the cells of a demo's table, one tuple a network, in the order of `DEMO_HEADER`."""
    return [
        (
            str(row["name"]),
            _number(row["top1"], 2),
            _number(row["top5"], 2),
            f"{row['params']:,}",
            f"{row['macs']:,}",
            _number(row.get("latency_ms"), 3),
            _number(row.get("latency_ratio"), 3),
        )
        for row in result["rows"]
    ]


def scores_cells(scores: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return header and rows of a network's redundancy scores, the layer that ghosting would hurt least first.

    Args:
        scores: `measure.features.redundancy`'s, as a record holds them.
    """
    header = ("layer", "maps", "size", "MACs M", f"lost at s={scores['ratio']}", "alike %")
    layers = sorted(scores["layers"], key=lambda layer: layer["ghost_error"])
    rows: list[tuple[str, ...]] = [
        (
            str(layer["name"]),
            str(layer["channels"]),
            "x".join(map(str, layer["map_size"])),
            f"{layer['macs'] / 1e6:,.1f}",
            f"{layer['ghost_error']:.3f}",
            f"{100 * layer['alike']:.0f}",
        )
        for layer in layers
    ]
    return header, rows


def demo_table(result: Mapping[str, Any]) -> str:
    """Return a demo's table and its two speed-ups as plain text.

    Args:
        result: the record in `demo.json`.
    """
    lines = [text_table(DEMO_HEADER, demo_rows(result)), ""]
    return "\n".join([*lines, speedup_line(result)])


def speedup_line(result: Mapping[str, Any]) -> str:
    """Return one sentence: what the MACs promise and what the clock says."""
    theory, measured = (_number(result.get(f"{kind}_speedup"), 2) for kind in ("theoretical", "measured"))
    return f"Speed-up: {theory} x in MACs, {measured} x measured (ONNX Runtime, one thread, batch 1)"


def runs_section(results: Sequence[tuple[Path, Mapping[str, Any]]], link_root: str = "results") -> str:
    """Return the demo's table, and one of single networks that were trained or evaluated.

    Args:
        results: from `read_results`.
        link_root: folder of the results as seen from the document.
    """
    demos = [(path, result) for path, result in results if result["exhibit"] == "demo"]
    runs = single_runs(results)
    parts = [_demo_part(path, result, link_root) for path, result in demos]
    if not demos:
        parts.append("The demo: not run.")
    if runs:
        parts.append(_runs_part(runs, link_root))
    return "\n\n".join(parts)


def _demo_part(path: Path, result: Mapping[str, Any], link_root: str) -> str:
    place = result["environment"]
    device = f"{place.get('cpu', 'unknown processor')}, {place.get('cores', '?')} cores"
    runtime = f"ONNX Runtime {place.get('onnxruntime', '?')}"
    title = f"`{result['command']}`: {result['model']} on CIFAR-10's 10,000 test images, n = 1"
    title += f" (seed {result['seed']}), {device}, {runtime}; [record]({link_root}/{path.as_posix()}):"
    return "\n\n".join([title, markdown_table(DEMO_HEADER, demo_rows(result)), speedup_line(result) + "."])


def _runs_part(runs: Sequence[tuple[Path, Mapping[str, Any]]], link_root: str) -> str:
    return markdown_table(*runs_cells(runs, link_root))


def single_runs(results: Sequence[tuple[Path, Mapping[str, Any]]]) -> list[tuple[Path, Mapping[str, Any]]]:
    """Return the trained or evaluated networks whose rows stand in no table of the paper."""
    return [
        (path, result)
        for path, result in results
        if "top1" in result.get("metrics", {}) and result["exhibit"] not in _WITH_TABLES
    ]


def runs_cells(
    runs: Sequence[tuple[Path, Mapping[str, Any]]], link_root: str | None
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return header and rows of `single_runs`, one row a recipe and number of epochs.

    Args:
        runs: from `single_runs`.
        link_root: folder of the results as seen from the document; None gives paths instead of links.
    """
    groups: dict[tuple[str, str], list[tuple[Path, Mapping[str, Any]]]] = {}
    for path, result in runs:
        groups.setdefault((_recipe_name(path, result), _epochs(result)), []).append((path, result))
    several = Counter(name for name, _ in groups)
    rows = []
    for (recipe, epochs), members in groups.items():
        name = f"{recipe}, {epochs}" if several[recipe] > 1 else recipe
        accuracies = [float(result["metrics"]["top1"]) for _, result in members]
        spread = f" ± {statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
        links = " ".join(
            path.as_posix() if link_root is None else f"[{result['seed']}]({link_root}/{path.as_posix()})"
            for path, result in members
        )
        metrics = members[0][1]["metrics"]
        counts = [f"{metrics[key]:,}" if key in metrics else "?" for key in ("params", "macs")]
        seconds = statistics.mean(float(result["seconds"]) for _, result in members)
        row = (
            name,
            *(_stage(members, stage) for stage in ("dense", "as converted")),
            f"{statistics.mean(accuracies):.2f}{spread}",
            str(len(members)),
            *counts,
            f"{seconds:,.0f}",
            links,
        )
        rows.append(row)
    return _RUNS_HEADER, rows


_RUNS_HEADER = (
    *("recipe", "dense %", "as converted %", "trained %", "n", "params", "MACs", "seconds"),
    "record (seed)",
)


def _stage(members: Sequence[tuple[Path, Mapping[str, Any]]], stage: str) -> str:
    """Return the mean top-1 of a stage before training, over the runs that went through it."""
    stages = [result["metrics"].get("stages") or {} for _, result in members]
    found = [float(each[stage]["top1"]) for each in stages if stage in each]
    return f"{statistics.mean(found):.2f}" if found else "–"


def _recipe_name(path: Path, result: Mapping[str, Any]) -> str:
    recipe = result.get("recipe")
    name = recipe.get("name") if isinstance(recipe, Mapping) else recipe
    return str(name or path.stem.rpartition("-seed")[0] or path.stem)


def _epochs(result: Mapping[str, Any]) -> str:
    recipe = result.get("recipe")
    epochs = recipe.get("epochs") if isinstance(recipe, Mapping) else None
    return "" if epochs is None else f"{float(epochs):g} epochs"


def replace_section(text: str, section: str) -> str:
    """Return a document with what stands between its markers replaced.

    Raises:
        InputError: the markers are missing, doubled or in the wrong order.
    """
    before, opened, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not opened or not closed or BEGIN in rest or END in after:
        raise InputError(f"the document must hold {BEGIN} and {END} once each, in this order")
    return f"{before}{BEGIN}\n\n{section}\n\n{END}{after}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
