"""Scatter plots as inline SVG, one element a point that carries its name, family and kind for the page's script.

Without the script they still show every point with its name (as a tooltip), and the Pareto front of each kind.
`figures` draws the same panels into files of their own, with labels.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ghostnet.report.chart import COLOURS
from ghostnet.report.points import PAPER, Point, drawable, figure6, pareto_front

RADIUS = 5.5
_STEPS = (  # of a logarithmic axis within a power of ten, for axes whose ends differ by at most a factor
    (2.5, (1, 1.2, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8)),
    (12, (1, 2, 3, 5)),
    (math.inf, (1, 2, 5)),
)
_SHADES = (*COLOURS, "#c05a00", "#008b8b", "#a0527f", "#7a7a00", "#3b5b92", "#9c2f2f")


@dataclass(frozen=True)
class Frame:
    """Where a panel's axes lie, in units of the SVG, and how values become places in it.

    Attributes:
        left, right, top, floor: of the axes.
        x_ticks, y_ticks: the first and the last are the axes' ends; x is logarithmic.
    """

    left: float
    right: float
    top: float
    floor: float
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]

    def place(self, point: Point) -> tuple[float, float]:
        """Return a point's place."""
        return self.x(point.x), self.y(point.top1 or 0.0)

    def x(self, value: float) -> float:
        """Return the place of a value along the logarithmic axis."""
        share = math.log(value / self.x_ticks[0]) / math.log(self.x_ticks[-1] / self.x_ticks[0])
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        """Return the place of a value along the upright axis."""
        share = (value - self.y_ticks[0]) / (self.y_ticks[-1] - self.y_ticks[0])
        return self.floor - share * (self.floor - self.top)


def frame(points: Sequence[Point], left: float, right: float, top: float, floor: float) -> Frame:
    """Return axes that hold points, at least one and each with a place."""
    x_ticks = _logarithmic([point.x for point in points])
    y_ticks = _linear([point.top1 for point in points if point.top1 is not None])
    return Frame(left, right, top, floor, x_ticks, y_ticks)


def family_colours(points: Sequence[Point]) -> dict[str, str]:
    """Return a colour for each family, in the order of their names; Table 7's keep theirs from plot to plot.

    Example:
        >>> list(family_colours([Point("GhostNet 1.0x", "GhostNet", "paper", 141, 73.9, "")]))
        ['GhostNet']
    """
    printed = {point.family for point in figure6([])}
    families = {point.family for point in points}
    order = [*sorted(printed), *sorted(families - printed)]
    return {
        family: _SHADES[number % len(_SHADES)] for number, family in enumerate(order) if family in families
    }


def scatter(points: Sequence[Point], *, x_label: str, y_label: str, name: str) -> str:
    """Draw points with a logarithmic x axis; lines join a family's points of one run, and stairs show the front.

    Args:
        points: those that have no place are left out.
        x_label: under the axis, unit included.
        y_label: beside the axis, unit included.
        name: of the plot, read by screen readers.

    Returns:
        One `<svg>` element, or a paragraph if there is nothing to draw.
    """
    drawn = drawable(points)
    if not drawn:
        return "<p>No points to draw.</p>"
    axes_frame = frame(drawn, 60, 660, 14, 330)
    parts = [axes(axes_frame, x_label, y_label), marks(drawn, axes_frame, family_colours(points))]
    label = html.escape(f"{name}: {len(drawn)} points")
    return f'<svg class="plot" viewBox="0 0 680 380" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def axes(where: Frame, x_label: str, y_label: str, size: int = 13) -> str:
    """Draw grid, ticks and what the axes mean.

    Args:
        where: the frame.
        x_label: under the axis.
        y_label: beside the axis.
        size: of the largest letters that stand there.
    """
    middle_x, middle_y = (where.left + where.right) / 2, (where.top + where.floor) / 2
    below = where.floor + 1.4 * size
    left = where.left - 2.9 * size
    parts = [
        f'<text x="{middle_x:.0f}" y="{below + 1.5 * size:.0f}" text-anchor="middle">{html.escape(x_label)}</text>',
        f'<text transform="translate({left:.0f} {middle_y:.0f}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(y_label)}</text>",
    ]
    for tick in where.x_ticks:
        place = where.x(tick)
        parts.append(
            f'<line class="grid" x1="{place:.1f}" y1="{where.top}" x2="{place:.1f}" y2="{where.floor}"/>'
        )
        parts.append(f'<text x="{place:.1f}" y="{below:.0f}" text-anchor="middle">{tick:g}</text>')
    for tick in where.y_ticks:
        place = where.y(tick)
        parts.append(
            f'<line class="grid" x1="{where.left}" y1="{place:.1f}" x2="{where.right}" y2="{place:.1f}"/>'
        )
        parts.append(
            f'<text x="{where.left - 8}" y="{place + 0.3 * size:.1f}" text-anchor="end">{tick:g}</text>'
        )
    return "".join(parts)


def marks(points: Sequence[Point], where: Frame, colours: Mapping[str, str]) -> str:
    """Draw the fronts, the families' lines and the points."""
    parts = _fronts(points, where) + _lines(points, where, colours)
    return "".join(parts + [_dot(point, where, colours[point.family]) for point in points])


def _logarithmic(values: Sequence[float]) -> list[float]:
    """Return round steps that span the values, the finer the less they span."""
    low, high = min(values) * 0.95, max(values) * 1.05
    factors: Sequence[float] = next(steps for most, steps in _STEPS if high <= most * low)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = [factor * 10.0**power for power in powers for factor in factors]
    first = max(number for number, step in enumerate(steps) if step <= low)
    last = min(number for number, step in enumerate(steps) if step >= high)
    return steps[first : last + 1]


def _linear(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    step = next(step for step in (0.5, 1, 2, 5, 10, 20, 50) if (high - low + step) / step <= 11)
    first, last = math.floor((low - 0.1 * step) / step), math.ceil((high + 0.5 * step) / step)
    return [number * step for number in range(first, last + 1)]


def _path(points: Sequence[Point], where: Frame) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in map(where.place, points))


def _fronts(points: Sequence[Point], where: Frame) -> list[str]:
    """Draw stairs for each kind: the best accuracy that its networks reach at most at a cost."""
    kinds: dict[str, list[Point]] = {}
    for point in points:
        kinds.setdefault(point.kind, []).append(point)
    return [
        f'<polyline class="mark front" data-kind="{html.escape(kind)}" data-right="{where.right}" '
        f'points="{_climb(members, where)}" fill="none" stroke="currentColor" '
        'stroke-opacity=".15" stroke-width="5" stroke-linejoin="round"/>'
        for kind, members in kinds.items()
    ]


def _climb(points: Sequence[Point], where: Frame) -> str:
    return " ".join(f"{x:.1f},{y:.1f} {end:.1f},{y:.1f}" for x, end, y in stairs(points, where))


def stairs(points: Sequence[Point], where: Frame) -> list[tuple[float, float, float]]:
    """Return the steps of the points' front: where each begins, where it ends, and its height."""
    front = pareto_front(points)
    ends = [*(where.x(point.x) for point in front[1:]), where.right][: len(front)]
    return [(where.x(point.x), end, where.place(point)[1]) for point, end in zip(front, ends, strict=True)]


def _lines(points: Sequence[Point], where: Frame, colours: Mapping[str, str]) -> list[str]:
    """Join a family's points of one kind; latencies of two runs do not compare, so each record has its own line."""
    groups: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point.family, point.kind, point.record), []).append(point)
    parts = []
    for (family, kind, _), members in groups.items():
        if len(members) > 1:
            path = _path(sorted(members, key=lambda point: point.x), where)
            dashes = ' stroke-dasharray="4 4"' if kind.startswith(PAPER) else ""
            parts.append(
                f'<polyline class="mark" data-family="{html.escape(family)}" data-kind="{html.escape(kind)}" '
                f'points="{path}" fill="none" stroke="{colours[family]}" stroke-opacity=".55"{dashes}/>'
            )
    return parts


def _dot(point: Point, where: Frame, colour: str) -> str:
    x, y = where.place(point)
    source = f" ({point.top1_source})" if point.top1_source else ""
    words = f"{point.name}: {point.top1:g} %{source} at {point.x:.4g}, {point.kind}"
    hollow = point.kind.startswith(PAPER)
    paint = f'fill="var(--page)" stroke="{colour}" stroke-width="2.2"' if hollow else f'fill="{colour}"'
    return (
        f'<g class="mark dot" tabindex="0" data-family="{html.escape(point.family)}" '
        f'data-kind="{html.escape(point.kind)}" data-name="{html.escape(words)}"><title>{html.escape(words)}</title>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}" {paint}/></g>'
    )
