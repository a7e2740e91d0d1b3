"""One HTML page of everything: each table and figure of the paper, paper beside ours, from the results folder alone.

The page holds its style, script and pictures, opens offline and reads on a phone. A record that cannot be used is
named on it, and the rest is shown.
"""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ghostnet.report.catalogue import CATALOGUE, NOT_RUN, PARTLY, Records, State, records_of, state_of
from ghostnet.report.page_assets import SCRIPT, STYLE
from ghostnet.report.points import Point, figure6, figure7
from ghostnet.report.scatter import family_colours, scatter
from ghostnet.report.sheets import Sheet, sheets_of
from ghostnet.report.tables import DEMO_HEADER, demo_rows, runs_cells, scores_cells, single_runs, speedup_line
from ghostnet.report.usable import usable_records

_PNG = b"\x89PNG\r\n\x1a\n"
_PLOTS: dict[str, tuple[Callable[[Records], list[Point]], str]] = {
    "figure6": (figure6, "MACs in millions (logarithmic)"),
    "figure7": (figure7, "latency in ms (logarithmic)"),
}
_HEAD = (
    "Every table and figure of “GhostNet: More Features from Cheap Operations” (CVPR 2020), the paper's numbers beside "
    "ours. Differences are ours minus the paper's. What was not run says so."
)


def exhibits_page(
    results: Records, folder: str | os.PathLike[str], problems: Sequence[str] = ()
) -> tuple[str, list[str]]:
    """Return the page's HTML, and one line for each record or picture that could not be shown.

    Args:
        results: from `read_results`.
        folder: of the results, which pictures' names are relative to.
        problems: lines on records that could not be read; the page shows them.

    Example:
        >>> exhibits_page([], "results")[0].count("<section")
        16
    """
    found = list(problems)
    results = usable_records(
        results, lambda records: _sections(records, Path(folder), []), folder=folder, on_error=found.append
    )
    sections = _sections(results, Path(folder), found)
    states = {key: state_of(key, results) for key in CATALOGUE}
    body = [f"<h1>GhostNet, reproduced</h1><p>{_HEAD}</p>", _overview(states), *_problems(found), *sections]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>GhostNet, reproduced</title><style>{STYLE}</style>"
    )
    text = "\n".join(body)
    text += f"\n<script>{SCRIPT}</script>"
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{text}\n</body></html>\n'
    return page, found[len(problems) :]


def _sections(results: Records, folder: Path, problems: list[str]) -> list[str]:
    exhibits = [_section(key, results, folder, problems) for key in CATALOGUE]
    return [*exhibits, _others(results), _surroundings(results)]


def _text(value: object) -> str:
    return html.escape(str(value))


def _code(value: object) -> str:
    """Escape a text and set what stands between backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", _text(value))


def _class(word: str) -> str:
    return "none" if word == NOT_RUN else word


def _overview(states: dict[str, State]) -> str:
    links = [
        f'<a href="#{key}">{_text(_short(key))} <span class="state {_class(state.word)}">{state.word}</span></a>'
        for key, state in states.items()
    ]
    return f"<nav>{''.join(links)}</nav>"


def _short(key: str) -> str:
    named = {"short": "Short table", "short_sweep": "Short sweep"}
    return named.get(key) or key.replace("table", "Table ").replace("figure", "Fig. ")


def _problems(lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    return [f'<div class="missing"><p>Not shown:</p><ul>{items}</ul></div>']


def _section(key: str, results: Records, folder: Path, problems: list[str]) -> str:
    state = state_of(key, results)
    badge = f'<p class="state {_class(state.word)}">{_text(state.word)}: {_text(state.detail)}</p>'
    parts = [f"<h2>{_text(CATALOGUE[key].title)}</h2>{badge}"]
    if key in _PLOTS:
        points, label = _PLOTS[key]
        parts.append(_plot(points(results), label, key))
    parts += _images(key, results, folder, problems)
    for sheet in sheets_of(key, results):
        table = _table(sheet)
        parts.append(f"<details><summary>All points</summary>{table}</details>" if key in _PLOTS else table)
    if state.records:
        parts.append(_how(records_of(key, results)))
    if state.word in (NOT_RUN, PARTLY):
        needs = CATALOGUE[key].needs
        parts.append(
            f'<p class="note">To run it: <code>ghostnet reproduce {key}</code>; needs {_code(needs)}.</p>'
        )
    return f'<section id="{key}">{"".join(parts)}</section>'


def _table(sheet: Sheet) -> str:
    kinds = [_column_kind([row[place] for row in sheet.rows]) for place in range(len(sheet.header))]
    head = "".join(f"<th{kind}>{_text(cell)}</th>" for kind, cell in zip(kinds, sheet.header, strict=True))
    rows = "".join(
        "<tr>" + "".join(_cell(cell, kind) for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in sheet.rows
    )
    caption = f"<caption>{_text(sheet.caption)}</caption>" if sheet.caption else ""
    notes = "".join(f'<p class="note">{_code(note)}</p>' for note in sheet.notes)
    return f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{notes}'


def _column_kind(cells: Sequence[str]) -> str:
    """Return the class of a column: words are flush left, numbers flush right."""
    words = any(cell != NOT_RUN and re.search("[a-z]", cell) for cell in cells)
    return ' class="words"' if words else ""


def _cell(text: str, kind: str) -> str:
    return f'<td class="missing">{NOT_RUN}</td>' if text == NOT_RUN else f"<td{kind}>{_text(text)}</td>"


def _images(key: str, results: Records, folder: Path, problems: list[str]) -> list[str]:
    figures = []
    for path, result in records_of(key, results):
        for name in result.get("pictures") or ():
            place = folder / path.parent / str(name)
            content = place.read_bytes() if place.is_file() else b""
            if not content.startswith(_PNG):
                problems.append(f"{place} is {'no PNG' if content else 'not there'}; run its command again")
                continue
            source = "data:image/png;base64," + base64.b64encode(content).decode("ascii")
            words = (
                f"{_short(key)}: {result['metrics'].get('network')}, layer {result['metrics'].get('layer')}"
            )
            credit = f". Photograph: {result['credit']}" if result.get("credit") else ""
            figures.append(
                f'<figure><img src="{source}" alt="{_text(words)}" loading="lazy">'
                f"<figcaption>{_text(words + credit)}</figcaption></figure>"
            )
    return figures


def _plot(points: list[Point], x_label: str, key: str) -> str:
    colours = family_colours(points)
    drawn = [point for point in points if point.top1 is not None]
    families = [
        (family, f'<span class="swatch" style="background:{colour}"></span>{_text(family)}')
        for family, colour in colours.items()
    ]
    kinds = [(kind, _text(kind)) for kind in dict.fromkeys(point.kind for point in drawn)]
    svg = scatter(points, x_label=x_label, y_label="top-1 in %", name=_short(key))
    filters = _boxes("family", families) + _boxes("kind", kinds)
    hint = "Point at a network or tap it for its name. Hollow: the paper's numbers. Grey stairs: the Pareto front."
    return (
        f'<div class="interactive">{filters}{svg}<p class="told"><span class="hint">{hint}</span></p></div>'
    )


def _boxes(name: str, entries: Iterable[tuple[str, str]]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" name="{name}" value="{_text(value)}" checked>{label}</label>'
        for value, label in entries
    )
    return f'<div class="filters">{boxes}</div>'


def _how(records: Records) -> str:
    items = []
    for path, result in records:
        seconds = f"{float(result.get('seconds', 0)):,.0f} s"
        commit = f", commit {str(result.get('commit') or 'unknown')[:12]}"
        items.append(
            f"<dt>{_text(path.as_posix())}</dt><dd><code>{_text(result.get('command', ''))}</code><br>"
            f"{seconds}{_text(commit)}, {_text(_device(result))}</dd>"
        )
    return (
        f"<details><summary>Commands and records ({len(items)})</summary><dl>{''.join(items)}</dl></details>"
    )


def _device(result: Any) -> str:
    place = result.get("environment") or {}
    return str(
        place.get("gpu") or f"{place.get('cpu', 'unknown processor')}, {place.get('cores', '?')} cores"
    )


def _others(results: Records) -> str:
    """Show what belongs to no exhibit of the paper: the demo, and single networks trained or evaluated."""
    parts = []
    for _, result in results:
        if result["exhibit"] == "demo":
            caption = f"{result['command']}: {result['model']}, seed {result['seed']}, n = 1"
            sheet = Sheet(DEMO_HEADER, demo_rows(result), caption, (speedup_line(result) + ".",))
            parts.append(_table(sheet))
    runs = single_runs(results)
    if runs:
        parts.append(_table(Sheet(*runs_cells(runs, None), "Single networks")))
    scores = [(path, result) for path, result in results if "scores" in result.get("metrics", {})]
    for path, result in scores:
        where = f"{result['metrics']['network']}, {path.as_posix()}"
        caption = f"Which layers would ghosting hurt least, in shares of variance? {where}"
        parts.append(_table(Sheet(*scores_cells(result["metrics"]["scores"]), caption)))
    parts += _score_checks(results) + _sgd_checks(results)
    inside = "".join(parts) or "<p>Nothing else was run.</p>"
    return f'<section id="others"><h2>Beyond the paper</h2>{inside}</section>'


def _score_checks(results: Records) -> list[str]:
    """Show, layer by layer, the redundancy score beside what ghosting that layer alone lost."""
    tables = []
    for path, result in results:
        metrics = result.get("metrics", {})
        if "rank_correlation" not in metrics:
            continue
        rows = [
            (
                layer["layer"],
                f"{layer['score']:.3f}",
                f"{layer['top1_lost']:.2f}",
                f"{layer['loss_rise']:.4f}",
            )
            for layer in metrics["layers"]
        ]
        found = {
            key: "–" if value is None else f"{value:.2f}"
            for key, value in metrics["rank_correlation"].items()
        }
        note = f"Rank correlation: {found['top1_lost']} with top-1 lost, {found['loss_rise']} with the loss"
        caption = f"Each layer ghosted alone: {metrics['network']}, {metrics['count']:,} test images, {path.as_posix()}"
        header = ("layer", "score", "top-1 lost, points", "rise of the loss")
        tables.append(_table(Sheet(header, rows, caption, (f"{note} ({len(rows)} layers).",))))
    return tables


def _sgd_checks(results: Records) -> list[str]:
    """Show Table 2's filters in closed form beside SGD's."""
    tables = []
    for path, result in results:
        metrics = result.get("metrics", {})
        rows = metrics.get("rows") or []
        if not rows or "closed_form" not in rows[0]:
            continue
        cells = [
            (
                f"{row['pair'][0]} to {row['pair'][1]}, d = {row['d']}",
                f"{1e3 * row['closed_form']:.3f}",
                f"{1e3 * row['sgd']:.3f}",
                f"{row['ratio']:.3f}",
            )
            for row in rows
        ]
        where = f"{metrics['network']}, {metrics['layer']}, {path.as_posix()}"
        caption = f"Filters in closed form and by {metrics['steps']} steps of SGD, MSE in 1e-3: {where}"
        tables.append(_table(Sheet(("pair", "closed form", "SGD", "SGD / closed form"), cells, caption)))
    return tables


def _surroundings(results: Records) -> str:
    """List the machines and versions that the records name."""
    known: dict[str, int] = {}
    for _, result in results:
        facts = {key: value for key, value in (result.get("environment") or {}).items() if value is not None}
        line = ", ".join(f"{key} {value}" for key, value in facts.items())
        known[line] = known.get(line, 0) + 1
    items = "".join(f"<li>{_text(line)} ({count} records)</li>" for line, count in known.items() if line)
    again = "<code>ghostnet reproduce --list</code> shows what is left; <code>ghostnet report</code> makes this page."
    inside = f"<p>{again}</p><ul>{items or '<li>No record.</li>'}</ul>"
    return f'<section id="environment"><h2>Machines and versions</h2>{inside}</section>'
