"""The README's picture: a demo's accuracy, MACs and latency as bars, one SVG file that needs nothing but itself.

Left out: everything that the table beside it says better (parameters, top-5).
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from ghostnet.report.chart import COLOURS

_ROW, _BAR, _NAME, _PANEL, _GAP, _TOP = 30, 18, 256, 190, 24, 46
_STYLE = "text{font:13px system-ui,sans-serif;fill:#222}.head{font-weight:600}.value{font-size:12px}"


def demo_picture(result: Mapping[str, Any]) -> str:
    """Draw a finished demo: a row a network, and panels for top-1, MACs and measured latency.

    Args:
        result: the record in `demo.json`.

    Returns:
        A whole SVG document, readable on light and dark pages.
    """
    rows = result["rows"]
    panels = [
        ("top-1 in %", [row["top1"] for row in rows], "{:.2f}"),
        ("MACs in millions", [row["macs"] / 1e6 for row in rows], "{:.1f}"),
        ("latency in ms", [row.get("latency_ms") or 0.0 for row in rows], "{:.3f}"),
    ]
    width = _NAME + len(panels) * (_PANEL + _GAP)
    height = _TOP + len(rows) * _ROW + 12
    parts = [f'<rect width="{width}" height="{height}" rx="6" fill="#fff"/>']
    for number, row in enumerate(rows):
        parts.append(_text(_NAME - 12, _middle(number), str(row["name"]), anchor="end"))
    for place, (title, values, form) in enumerate(panels):
        left = _NAME + place * (_PANEL + _GAP)
        parts.append(_text(left, _TOP - 16, title, kind="head"))
        parts += _bars(left, values, form)
    title = html.escape(f"{result['model']} converted: accuracy, MACs and latency of {len(rows)} networks")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{title}"><style>{_STYLE}</style>{"".join(parts)}</svg>\n'
    )


def _bars(left: int, values: Sequence[float], form: str) -> list[str]:
    """Draw a panel's bars from zero, each with its value behind it."""
    room = _PANEL - 48  # for the value
    longest = max(values) or 1.0
    parts = []
    for number, value in enumerate(values):
        length = room * value / longest
        colour = COLOURS[0] if number == 0 else COLOURS[2]
        top = _TOP + number * _ROW + (_ROW - _BAR) // 2
        parts.append(
            f'<rect x="{left}" y="{top}" width="{length:.1f}" height="{_BAR}" rx="2" fill="{colour}"/>'
        )
        parts.append(_text(left + length + 5, _middle(number), form.format(value), kind="value"))
    return parts


def _middle(number: int) -> int:
    return _TOP + number * _ROW + _ROW // 2 + 5


def _text(x: float, y: float, words: str, *, anchor: str = "start", kind: str = "name") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{html.escape(words)}</text>'
