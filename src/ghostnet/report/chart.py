"""Line charts as inline SVG, drawn without a plotting library so that a page needs nothing but itself.

Left out: logarithmic axes and markers.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 24, 12, 44
COLOURS = ("#0a6ebd", "#d1495b", "#2e8b57", "#b8860b", "#6a4c93", "#555555")

Points = Sequence[tuple[float, float]]


def line_chart(series: Mapping[str, Points], *, x_label: str, y_label: str) -> str:
    """Draw named lines over one pair of axes.

    Args:
        series: points `(x, y)` by name; points that are not finite are left out.
        x_label: under the axis, unit included.
        y_label: read by screen readers and above the axis, unit included.

    Returns:
        One `<svg>` element with a `viewBox`, or a paragraph if there is nothing to draw.

    Example:
        >>> line_chart({"loss": [(0, 2.3), (10, 0.4)]}, x_label="step", y_label="loss").startswith("<svg")
        True
    """
    drawn = {name: _finite(points) for name, points in series.items()}
    values = [point for points in drawn.values() for point in points]
    if not values:
        return "<p>No points to draw.</p>"
    x_ticks, y_ticks = _ticks([x for x, _ in values]), _ticks([y for _, y in values])
    parts = [_axes(x_ticks, y_ticks, x_label, y_label)]
    for number, (name, points) in enumerate(drawn.items()):
        parts.append(_line(points, (x_ticks, y_ticks), COLOURS[number % len(COLOURS)]))
        parts.append(_legend(name, number))
    title = html.escape(f"{y_label} over {x_label}: {', '.join(drawn)}")
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">{"".join(parts)}</svg>'


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _ticks(values: Sequence[float]) -> list[float]:
    """Return four to eight round numbers (steps of 1, 2 or 5 times a power of ten) that span the values."""
    low, high = min(values), max(values)
    if high == low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [index * step for index in range(first, last + 1)]


def _place(value: float, ticks: Sequence[float], start: float, end: float) -> float:
    return start + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (end - start)


def _x(value: float, ticks: Sequence[float]) -> float:
    return _place(value, ticks, _LEFT, _WIDTH - _RIGHT)


def _y(value: float, ticks: Sequence[float]) -> float:
    return _place(value, ticks, _HEIGHT - _BOTTOM, _TOP)


def _axes(x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str) -> str:
    floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [
        f'<text x="{(_LEFT + right) / 2:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">'
        f"{html.escape(x_label)}</text>"
    ]
    middle = (_TOP + floor) / 2
    parts.append(
        f'<text transform="translate(14 {middle:.0f}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(y_label)}</text>"
    )
    for tick in x_ticks:
        parts.append(
            f'<text x="{_x(tick, x_ticks):.1f}" y="{floor + 18}" text-anchor="middle">{tick:g}</text>'
        )
    for tick in y_ticks:
        height = _y(tick, y_ticks)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{height:.1f}" x2="{right}" y2="{height:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{tick:g}</text>')
    return "".join(parts)


def _line(points: Points, ticks: tuple[Sequence[float], Sequence[float]], colour: str) -> str:
    path = " ".join(f"{_x(x, ticks[0]):.1f},{_y(y, ticks[1]):.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _legend(name: str, number: int) -> str:
    height, right = _TOP + 14 + 18 * number, _WIDTH - _RIGHT
    colour = COLOURS[number % len(COLOURS)]
    label = html.escape(name)
    return f'<text x="{right - 6}" y="{height}" text-anchor="end" style="fill:{colour}">{label}</text>'
