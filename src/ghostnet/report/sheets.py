"""Every exhibit as sheets, paper beside ours: header and rows of text that the terminal and the page both show.

A row that was not run says so; a difference is ours minus the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ghostnet.paper import table
from ghostnet.report.catalogue import NOT_RUN, Records, entry, records_of
from ghostnet.report.comparison import comparison_cells
from ghostnet.report.exhibits import EXHIBITS
from ghostnet.report.points import Point, figure6, figure7
from ghostnet.report.tables import text_table

COLOURS = ("red", "green", "blue")
_DRAWN = "`ghostnet report` draws it: on its page, and in docs/ as an SVG file."


@dataclass(frozen=True)
class Sheet:
    """A table ready to print.

    Attributes:
        header: one cell a column.
        rows: cells of text.
        caption: above it, or "".
        notes: sentences below it.
    """

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    caption: str = ""
    notes: tuple[str, ...] = ()


def sheets_of(key: str, results: Records) -> list[Sheet]:
    """Return an exhibit's sheets; figures have the numbers that they draw.

    Raises:
        InputError: there is no such exhibit.
    """
    entry(key)
    if key in EXHIBITS:
        return [Sheet(*comparison_cells(key, results))]
    return _MAKERS[key](results)


def exhibit_text(key: str, results: Records) -> str:
    """Return an exhibit as plain text.

    Raises:
        InputError: there is no such exhibit.
    """
    parts = [entry(key).title]
    for sheet in sheets_of(key, results):
        parts += ["", *([sheet.caption, ""] if sheet.caption else []), text_table(sheet.header, sheet.rows)]
        parts += sheet.notes
    return "\n".join(parts)


def _table1(results: Records) -> list[Sheet]:
    records = records_of("table1", results)
    ours = records[-1][1]["metrics"]["rows"] if records else []
    rows = []
    for number, printed in enumerate(table(1)):
        found = ours[number] if number < len(ours) else None
        rows.append((str(printed["operator"]), _layer(printed), NOT_RUN if found is None else _layer(found)))
    legend = "Each cell: input, expansion, output channels, squeeze-and-excitation (SE), stride."
    return [Sheet(("layer", "paper", "ours"), rows, notes=(legend,))]


def _layer(row: Mapping[str, Any]) -> str:
    parts = [
        str(row["input"]),
        "" if row["expansion"] is None else f"exp {row['expansion']}",
        "" if row["out_channels"] is None else f"out {row['out_channels']}",
        "SE" if row["se"] else "",
        "" if row["stride"] is None else f"stride {row['stride']}",
    ]
    return ", ".join(part for part in parts if part)


def _table2(results: Records) -> list[Sheet]:
    sizes = ("1", "3", "5", "7")
    header = ("pair", *(f"d={size}" for size in sizes))
    printed = [(str(row["pair"]), *(f"{row[f'mse_1e-3_d{size}']}" for size in sizes)) for row in table(2)]
    caption = "Paper: MSE in 1e-3, a trained ResNet-50's first residual group"
    sheets = [
        Sheet(header, printed, caption, (_falls([[float(cell) for cell in row[1:]] for row in printed]),))
    ]
    for path, result in records_of("table2", results):
        study = result["metrics"]["table2"]
        rows = [
            (
                f"{colour}: map {pair['source']} to {pair['target']}",
                *(f"{1e3 * pair['mse'][size]:.2f}" for size in sizes),
            )
            for colour, pair in zip(COLOURS, study["pairs"], strict=False)
        ]
        rows += [
            (f"{colour}: share of variance", *(f"{pair['relative_error'][size]:.3f}" for size in sizes))
            for colour, pair in zip(COLOURS, study["pairs"], strict=False)
        ]
        rows.append(
            (
                "all maps, best partner: share of variance",
                *(f"{study['best_partner'][size]:.3f}" for size in sizes),
            )
        )
        where = f"{result['metrics']['network']}, layer {result['metrics']['layer']}"
        maps = (
            f"{study['channels']} maps of {'x'.join(map(str, study['map_size']))}, {study['images']} images"
        )
        errors = [*(pair["mse"] for pair in study["pairs"]), study["best_partner"]]
        falls = _falls([[error[size] for size in sizes] for error in errors])
        notes = (falls, *_above_one(study), f"Record: {path.as_posix()}")
        sheets.append(Sheet(header, rows, f"Ours: MSE in 1e-3, {where}, {maps}", notes))
    if len(sheets) == 1:
        sheets.append(Sheet(header, [(colour, *[NOT_RUN] * 4) for colour in COLOURS], "Ours"))
    return sheets


def _falls(rows: Sequence[Sequence[float]]) -> str:
    """Say how much the errors for d = 1, 3, 5, 7 of each pair and of all maps fall to d = 3, and from there on."""
    first, rest = (
        ", ".join(
            f"{name} {100 * (1 - row[end] / row[start]):.0f} %"
            for name, row in zip((*COLOURS, "all maps"), rows, strict=False)
        )
        for start, end in ((0, 1), (1, 3))
    )
    return f"The error falls from d = 1 to 3 by: {first}; from 3 to 7 by: {rest}."


def _above_one(study: Mapping[str, Any]) -> tuple[str, ...]:
    shares = [
        *study["best_partner"].values(),
        *(e for pair in study["pairs"] for e in pair["relative_error"].values()),
    ]
    if max(shares, default=0.0) <= 1:
        return ()
    return ("A share above 1: the filters add no constant, so one can fit worse than the map's mean.",)


def _count_rows(key: str, unit: tuple[str, float], results: Records) -> Sequence[tuple[str, ...]]:
    """Return rows of networks: printed and counted parameters and MACs, printed accuracy and ours."""
    column, scale = unit
    records = records_of(key, results)
    ours = {str(row["row"]): row for row in records[-1][1]["metrics"]["rows"]} if records else {}
    missing = "–" if ours else NOT_RUN  # a network that is not built here, or nothing counted yet
    rows = []
    for printed in table(int(key[-1])):
        found = ours.get(str(printed["model"]), {})
        rows.append(
            (
                str(printed["model"]),
                _shown(printed["params_m"], ".1f"),
                _scaled(found.get("params"), 1e6, ".2f", missing),
                _difference(found.get("params"), 1e6, printed["params_m"]),
                _shown(printed[column], "g"),
                _scaled(found.get("macs"), scale, ".1f" if scale == 1e6 else ".2f", missing),
                _difference(found.get("macs"), scale, printed[column]),
                _shown(printed["top1"], ".1f"),
                NOT_RUN if found.get("top1") is None else f"{found['top1']:.2f}",
                _shown(printed["top5"], ".1f"),
            )
        )
    return rows


def _table6(results: Records) -> list[Sheet]:
    header = (
        *("network", "params M, paper", "ours", "difference", "MACs G, paper", "ours", "difference"),
        *("top-1 %, paper", "ours", "top-5 %, paper"),
    )
    return [Sheet(header, _count_rows("table6", ("macs_b", 1e9), results), notes=_reasons("table6", results))]


def _table7(results: Records) -> list[Sheet]:
    header = (
        *("network", "params M, paper", "ours", "difference", "MACs M, paper", "ours", "difference"),
        *("top-1 %, paper", "ours", "top-5 %, paper"),
    )
    return [Sheet(header, _count_rows("table7", ("macs_m", 1e6), results), notes=_reasons("table7", results))]


def _reasons(key: str, results: Records) -> tuple[str, ...]:
    records = records_of(key, results)
    rows = records[-1][1]["metrics"]["rows"] if records else []
    return tuple(f"{row['row']}: {row['reason']}" for row in rows if row.get("reason"))


def _table8(results: Records) -> list[Sheet]:
    """Take a record's rows by `backbone` and `detector`; each may have `backbone_macs` and `map`."""
    ours: dict[tuple[str, str], dict[str, Any]] = {}
    for _, result in records_of("table8", results):
        for row in result["metrics"].get("rows", ()):
            ours.setdefault((str(row.get("backbone")), str(row.get("detector"))), {}).update(row)
    rows = []
    for printed in table(8):
        found = ours.get((str(printed["backbone"]), str(printed["detector"])), {})
        own = found.get("map")
        rows.append(
            (
                str(printed["detector"]),
                str(printed["backbone"]),
                _shown(printed["backbone_macs_m"], "g"),
                _scaled(found.get("backbone_macs"), 1e6, ".1f"),
                _shown(printed["map"], ".1f"),
                NOT_RUN if own is None else f"{own:.1f}",
                "–" if own is None else f"{own - float(str(printed['map'])):+.1f}",
            )
        )
    header = (
        "detector",
        "backbone",
        *("backbone MACs M, paper", "ours"),
        *("mAP, paper", "ours", "difference"),
    )
    return [Sheet(header, rows)]


def _pictures(key: str) -> Callable[[Records], list[Sheet]]:
    def make(results: Records) -> list[Sheet]:
        rows = [
            (str(result["metrics"].get("network")), str(result["metrics"].get("layer")), path.as_posix())
            for path, result in records_of(key, results)
        ]
        return [Sheet(("network", "layer", "record"), rows or [(NOT_RUN, "–", "–")])]

    return make


def _plot(points: list[Point], unit: str, form: str) -> list[Sheet]:
    rows = [
        (
            point.name,
            point.kind,
            format(point.x, form),
            _shown(point.top1, ".2f" if point.top1_source == "ours" else ".1f"),
            point.top1_source or "–",
        )
        for point in points
    ]
    return [Sheet(("network", "whose", unit, "top-1 %", "accuracy is"), rows, notes=(_DRAWN,))]


def _figure7(results: Records) -> list[Sheet]:
    sheet = _plot(figure7(results), "latency ms", ".2f")[0]
    if records_of("figure7", results):
        return [sheet]
    note = "Ours: not run. `ghostnet bench … --result results/figure7/NAME.json` writes what this plot reads."
    return [Sheet(sheet.header, sheet.rows, notes=(note, _DRAWN))]


_MAKERS: dict[str, Callable[[Records], list[Sheet]]] = {
    "table1": _table1,
    "table2": _table2,
    "table6": _table6,
    "table7": _table7,
    "table8": _table8,
    "figure1": _pictures("figure1"),
    "figure4": _pictures("figure4"),
    "figure5": _pictures("figure5"),
    "figure6": lambda results: _plot(figure6(results), "MACs M", ".1f"),
    "figure7": _figure7,
}


def _shown(value: Any, form: str) -> str:
    return "–" if value is None else format(float(value), form)


def _scaled(value: Any, scale: float, form: str, missing: str = NOT_RUN) -> str:
    return missing if value is None else format(float(value) / scale, form)


def _difference(value: Any, scale: float, printed: Any) -> str:
    return "–" if value is None or printed is None else f"{float(value) / scale - float(printed):+.2f}"
