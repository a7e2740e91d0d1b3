"""Scatter plots as inline SVG, one element a point that carries its name, family and kind for the page's script.

Without the script they still show every point with its name (as a tooltip) and the front of the best ones.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from ghostnet.report.chart import COLOURS
from ghostnet.report.points import PAPER, Point

_WIDTH, _HEIGHT = 680, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 14, 46
_RADIUS = 5.5
_SHADES = (*COLOURS, "#c05a00", "#008b8b", "#a0527f", "#7a7a00", "#3b5b92", "#9c2f2f")


def family_colours(points: Sequence[Point]) -> dict[str, str]:
    """Return a colour for each family, in the order of their names.

    Example:
        >>> list(family_colours([Point("GhostNet 1.0x", "GhostNet", "paper", 141, 73.9, "")]))
        ['GhostNet']
    """
    families = sorted({point.family for point in points})
    return {family: _SHADES[number % len(_SHADES)] for number, family in enumerate(families)}


def scatter(points: Sequence[Point], *, x_label: str, y_label: str, name: str) -> str:
    """Draw points with a logarithmic x axis; lines join a family's points of one kind.

    Args:
        points: those without an accuracy are left out.
        x_label: under the axis, unit included.
        y_label: beside the axis, unit included.
        name: of the plot, read by screen readers.

    Returns:
        One `<svg>` element, or a paragraph if there is nothing to draw.
    """
    drawn = [point for point in points if point.top1 is not None and point.x > 0]
    if not drawn:
        return "<p>No points to draw.</p>"
    x_ticks = _logarithmic([point.x for point in drawn])
    y_ticks = _linear([point.top1 for point in drawn if point.top1 is not None])
    colours = family_colours(points)
    parts = [_axes(x_ticks, y_ticks, x_label, y_label)]
    parts += _lines(drawn, x_ticks, y_ticks, colours)
    parts += [_dot(point, x_ticks, y_ticks, colours[point.family]) for point in drawn]
    label = html.escape(f"{name}: {len(drawn)} points")
    return f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _logarithmic(values: Sequence[float]) -> list[float]:
    """Return 1, 2, 5 times powers of ten that span the values, at least two."""
    steps = [factor * 10.0**power for power in range(-6, 9) for factor in (1, 2, 5)]
    low, high = min(values) * 0.95, max(values) * 1.05
    first = max(number for number, step in enumerate(steps) if step <= low)
    last = min(number for number, step in enumerate(steps) if step >= high)
    return steps[first : last + 1]


def _linear(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    step = next(step for step in (0.5, 1, 2, 5, 10, 20, 50) if (high - low + step) / step <= 9)
    first, last = math.floor((low - 0.1 * step) / step), math.ceil((high + 0.1 * step) / step)
    return [number * step for number in range(first, last + 1)]


def _x(value: float, ticks: Sequence[float]) -> float:
    share = math.log(value / ticks[0]) / math.log(ticks[-1] / ticks[0])
    return _LEFT + share * (_WIDTH - _RIGHT - _LEFT)


def _y(value: float, ticks: Sequence[float]) -> float:
    share = (value - ticks[0]) / (ticks[-1] - ticks[0])
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)


def _axes(x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str) -> str:
    floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    middle = (_TOP + floor) / 2
    parts = [
        f'<text x="{(_LEFT + right) / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">{html.escape(x_label)}</text>',
        f'<text transform="translate(14 {middle:.0f}) rotate(-90)" text-anchor="middle">{html.escape(y_label)}</text>',
    ]
    for tick in x_ticks:
        place = _x(tick, x_ticks)
        parts.append(f'<line class="grid" x1="{place:.1f}" y1="{_TOP}" x2="{place:.1f}" y2="{floor}"/>')
        parts.append(f'<text x="{place:.1f}" y="{floor + 18}" text-anchor="middle">{tick:g}</text>')
    for tick in y_ticks:
        place = _y(tick, y_ticks)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{place:.1f}" x2="{right}" y2="{place:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{place + 4:.1f}" text-anchor="end">{tick:g}</text>')
    return "".join(parts)


def _lines(
    points: Sequence[Point], x_ticks: Sequence[float], y_ticks: Sequence[float], colours: dict[str, str]
) -> list[str]:
    groups: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point.family, point.kind), []).append(point)
    parts = []
    for (family, kind), members in groups.items():
        if len(members) > 1:
            ordered = sorted(members, key=lambda point: point.x)
            path = " ".join(
                f"{_x(point.x, x_ticks):.1f},{_y(point.top1 or 0, y_ticks):.1f}" for point in ordered
            )
            dashes = ' stroke-dasharray="4 4"' if kind.startswith(PAPER) else ""
            parts.append(
                f'<polyline class="mark" data-family="{html.escape(family)}" data-kind="{html.escape(kind)}" '
                f'points="{path}" fill="none" stroke="{colours[family]}" stroke-opacity=".55"{dashes}/>'
            )
    return parts


def _dot(point: Point, x_ticks: Sequence[float], y_ticks: Sequence[float], colour: str) -> str:
    x, y = _x(point.x, x_ticks), _y(point.top1 or 0, y_ticks)
    source = f" ({point.top1_source})" if point.top1_source else ""
    words = f"{point.name}: {point.top1:g} %{source} at {point.x:.4g}, {point.kind}"
    hollow = point.kind.startswith(PAPER)
    paint = f'fill="var(--page)" stroke="{colour}" stroke-width="2.2"' if hollow else f'fill="{colour}"'
    return (
        f'<g class="mark dot" tabindex="0" data-family="{html.escape(point.family)}" '
        f'data-kind="{html.escape(point.kind)}" data-name="{html.escape(words)}"><title>{html.escape(words)}</title>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS}" {paint}/></g>'
    )
