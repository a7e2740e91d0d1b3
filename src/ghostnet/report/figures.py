"""Fig. 6 and Fig. 7 as SVG files: every network with its name, families joined, the Pareto front drawn as stairs.

A file needs nothing but itself: it follows the reader's light or dark setting and has larger letters where it is shown
small. Fig. 7 has a panel for each runtime: the record with most networks in it, because latencies of two runs do not
compare. The page draws the same points to be pointed at (`scatter`).
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping, Sequence

from ghostnet.errors import InputError
from ghostnet.report.catalogue import Records
from ghostnet.report.points import PAPER, Point, drawable, figure6, figure7
from ghostnet.report.scatter import RADIUS, Frame, axes, family_colours, frame, marks, stairs

_WIDTH, _LEFT, _RIGHT = 760, 100, 728
_TITLE, _UNDER = 50, 84  # heights: the title above a panel's axes, ticks and label below them
_PANEL, _FLAT, _FEW = 430, 170, 6  # height of the axes; a panel of few points needs less
_LINE = 64  # letters of a note that fit a phone
_LETTER, _ASCENT, _DESCENT = 0.56, 0.75, 0.2  # width, height and depth of a letter, as shares of its size
_SMALL, _LARGE = 14, 25  # letters where the picture is wide, and on a phone
_STYLE = f"""
:root{{--page:#fff;--ink:#1c1e21;--line:#8885}}
svg{{color:var(--ink)}}
text{{font:{_SMALL}px system-ui,sans-serif;fill:currentColor}}
.title{{font-weight:600}}.note,.small{{font-size:13px}}.grid{{stroke:var(--line)}}.large{{display:none}}
@media(prefers-color-scheme:dark){{:root{{--page:#16181b;--ink:#e6e6e6}}.dot,.mark,.swatch{{filter:brightness(1.5)}}}}
@media(max-width:520px){{text{{font-size:{_LARGE}px}}.small{{display:none}}.large{{display:inline}}.note{{font-size:20px}}}}
"""
FIGURES = ("figure6", "figure7")
Box = tuple[float, float, float, float]  # left, top, right, bottom


def figure_file(key: str, results: Records) -> str:
    """Draw a plot of the paper as one SVG document.

    Args:
        key: "figure6" or "figure7".
        results: from `read_results`.

    Raises:
        InputError: another key.

    Example:
        >>> figure_file("figure6", []).count('class="mark dot"')  # the paper's networks
        19
    """
    if key == "figure6":
        panels = [("Fig. 6: top-1 against MACs", figure6(results))]
        label = "multiply-accumulates in millions"
        notes = ["Hollow: as printed. Filled: counted here, at the paper's top-1."]
    elif key == "figure7":
        panels = [
            (f"Fig. 7: top-1 against latency, {kind}", points) for kind, points in _by_kind(figure7(results))
        ]
        label = "latency in ms, one image a call"
        notes = [_machine(panels, results), *_phone(figure7([]))]
    else:
        raise InputError(f"{key!r} is no plot; {' and '.join(FIGURES)} are")
    notes = [
        note for note in [*notes, "Grey stairs: the Pareto front, networks that no other one beats."] if note
    ]
    return _document(panels, label, notes)


def _by_kind(points: Sequence[Point]) -> list[tuple[str, list[Point]]]:
    """Return for each runtime the points of the record that has most of it; the runtime with most points first.

    Runtimes with less than half as many points as the first are left out: two or three networks show no front.
    """
    runs: dict[str, dict[str, list[Point]]] = {}
    for point in drawable(points):
        if not point.kind.startswith(PAPER):
            runs.setdefault(point.kind, {}).setdefault(point.record, []).append(point)
    found = [(kind, max(records.values(), key=len)) for kind, records in runs.items()]
    most = max((len(points) for _, points in found), default=0)
    found = [pair for pair in found if 2 * len(pair[1]) >= most]
    return sorted(found, key=lambda pair: (-len(pair[1]), pair[0]))


def _machine(panels: Sequence[tuple[str, Sequence[Point]]], results: Records) -> str:
    wanted = {points[0].record for _, points in panels}
    places = [result.get("environment") or {} for path, result in results if path.as_posix() in wanted]
    machines = sorted({f"{place.get('cpu', 'unknown processor')}" for place in places})
    if not machines:
        return ""
    threads = "" if any("threads" in kind for kind, _ in panels) else ", one thread"
    own = any(point.top1_source == "ours" for _, points in panels for point in points)
    return f"Measured here on {', '.join(machines)}{threads}; top-1 as in Table 7{', or measured' if own else ''}."


def _phone(points: Sequence[Point]) -> list[str]:
    return [f"On the paper's phone: {point.name} {point.top1:.1f} % at {point.x:g} ms." for point in points]


def _document(panels: Sequence[tuple[str, Sequence[Point]]], label: str, notes: Sequence[str]) -> str:
    drawn = [(title, found) for title, points in panels if (found := drawable(points))]
    colours = family_colours([point for _, points in drawn for point in points])
    parts: list[str] = []
    top = 0.0
    for title, points in drawn:
        floor = top + _TITLE + (_PANEL if len(points) > _FEW else _FLAT)
        where = frame(points, _LEFT, _RIGHT, top + _TITLE, floor)
        parts.append(f'<text class="title" x="12" y="{top + 30:.0f}">{html.escape(title)}</text>')
        parts.append(axes(where, label, "top-1 in %", _LARGE))
        parts.append(marks(points, where, colours))
        parts += _labels(points, where)
        top = floor + _UNDER
    legend, top = _legend(colours, top + 24)
    parts.append(legend)
    for line in (line for note in notes for line in textwrap.wrap(note, _LINE)):
        parts.append(f'<text class="note" x="12" y="{top:.0f}">{html.escape(line)}</text>')
        top += 30
    name = html.escape("; ".join(title for title, _ in drawn) or "nothing measured yet")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top:.0f}" role="img" '
        f'aria-label="{name}"><style>{_STYLE}</style>'
        f'<rect width="{_WIDTH}" height="{top:.0f}" rx="6" fill="var(--page)"/>{"".join(parts)}</svg>\n'
    )


def _legend(colours: Mapping[str, str], top: float) -> tuple[str, float]:
    """Draw a swatch and a name for each family, up to three in a row; return it and the place below."""
    widest = 34 + _LETTER * _LARGE * max((len(family) for family in colours), default=0)
    columns = max(1, min(3, int((_WIDTH - 18) // widest)))
    parts = []
    for number, (family, colour) in enumerate(colours.items()):
        x, y = 18 + number % columns * (_WIDTH - 16) // columns, top + number // columns * 32
        parts.append(f'<circle class="swatch" cx="{x}" cy="{y - 6:.0f}" r="7" fill="{colour}"/>')
        parts.append(f'<text x="{x + 16}" y="{y:.0f}">{html.escape(family)}</text>')
    return "".join(parts), top + -(-len(colours) // columns) * 32 + 8


def _labels(points: Sequence[Point], where: Frame) -> list[str]:
    """Name the points: all of them in small letters, GhostNet's in those of a phone; the last kind stands for both."""
    named = {point.name: point for point in points}
    ours = [point for point in named.values() if point.family == "GhostNet" and "(" not in point.name]
    return [
        *_placed([*named.values()], points, where, ("small", 13)),
        *_placed(ours, points, where, ("large", _LARGE)),
    ]


def _placed(
    named: Sequence[Point], points: Sequence[Point], where: Frame, letters: tuple[str, int]
) -> list[str]:
    """Put each name where it covers no point and no other name; one that finds no place is left to its tooltip."""
    kind, size = letters
    taken = [(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in map(where.place, points)]
    steps = [(x, y - 2, end, y + 2) for x, end, y in stairs(points, where)]
    parts = []
    for point in sorted(named, key=lambda point: -point.x):  # names stand to the right where there is room
        places = _places(point, where, size)
        free = [place for place in places if not _covers(place[0], taken)]
        found = next((place for place in free if not _covers(place[0], steps)), free[0] if free else None)
        if found is None:
            continue
        box, anchor, base = found
        taken.append(box)
        x = box[0] if anchor == "start" else box[2]
        parts.append(
            f'<text class="{kind}" x="{x:.1f}" y="{base:.1f}" text-anchor="{anchor}">{html.escape(point.name)}</text>'
        )
    return parts


def _places(point: Point, where: Frame, size: int) -> list[tuple[Box, str, float]]:
    """Return the places round a point for its name, inside the axes: box, anchor and base line, the best first."""
    x, y = where.place(point)
    width, gap = _LETTER * size * len(point.name), RADIUS + 4
    above, below = y - gap - _DESCENT * size, y + gap + _ASCENT * size
    places = []
    for anchor, left, base in (
        ("start", x + gap, y + 0.35 * size),
        ("end", x - gap - width, y + 0.35 * size),
        ("start", x + 2, above),
        ("start", x + 2, below),
        ("end", x - width - 2, above),
        ("end", x - width - 2, below),
    ):
        box = (left, base - _ASCENT * size, left + width, base + _DESCENT * size)
        if where.left < box[0] and box[2] < where.right and where.top < box[1] and box[3] < where.floor:
            places.append((box, anchor, base))
    return places


def _covers(box: Box, others: Sequence[Box]) -> bool:
    left, top, right, bottom = box
    return any(
        left < other[2] and other[0] < right and top < other[3] and other[1] < bottom for other in others
    )
