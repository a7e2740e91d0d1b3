"""The points of Fig. 6 (top-1 against MACs) and Fig. 7 (top-1 against latency): the paper's, and ours from records.

No network of Table 7 was trained here, so ours are our counts and latencies at the paper's top-1, and a point says so;
a record's row that has a `top1` of its own is placed at that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ghostnet.paper import figure7_points, table
from ghostnet.report.catalogue import RUNTIMES, Records, records_of, timed_rows

PAPER = "paper"


@dataclass(frozen=True)
class Point:
    """One network in a plot.

    Attributes:
        name: as the table names it.
        family: what filters and colours go by ("MobileNetV2").
        kind: "paper", "counted here", or the runtime of a latency.
        x: MACs in millions, or milliseconds.
        top1: in percent, or None: then it stands in the table alone.
        top1_source: whose accuracy that is.
        record: the latency's, or "".
    """

    name: str
    family: str
    kind: str
    x: float
    top1: float | None
    top1_source: str
    record: str = ""


def family_of(name: str) -> str:
    """Return a network's family.

    Example:
        >>> [family_of(name) for name in ("GhostNet 1.0x", "MnasNet-A1", "FE-Net 1.0x", "MobileNetV3 Large 0.75x")]
        ['GhostNet', 'MnasNet', 'FE-Net', 'MobileNetV3']
    """
    return re.sub(r"-[A-Z]\d?$", "", name.split(" ")[0])


def figure6(results: Records) -> list[Point]:
    """Return top-1 against MACs in millions: Table 7 as printed, and at our counts."""
    points = [
        Point(
            str(row["model"]),
            family_of(str(row["model"])),
            PAPER,
            _number(row["macs_m"]),
            _number(row["top1"]),
            "",
        )
        for row in table(7)
    ]
    printed = {str(row["model"]): _number(row["top1"]) for row in table(7)}
    for row in _counted(results):
        if row.get("macs") is not None:
            name = str(row["row"])
            points.append(
                Point(
                    name, family_of(name), "counted here", row["macs"] / 1e6, printed.get(name), "the paper's"
                )
            )
    return points


def figure7(results: Records) -> list[Point]:
    """Return top-1 against latency in ms: the two points of the paper's text, and every latency in the records."""
    points = [
        Point(
            str(row["model"]),
            family_of(str(row["model"])),
            "paper: TFLite on a phone",
            _number(row["latency_ms"]),
            _number(row["top1"]),
            "",
        )
        for row in figure7_points()
    ]
    labels = {str(row["name"]): str(row["row"]) for row in _counted(results)}
    printed = {str(row["model"]): _number(row["top1"]) for row in table(7)}
    for path, result in records_of("figure7", results):
        for row in timed_rows(result):
            label, whose = _label(str(row["name"]), labels)
            own = row.get("top1")
            top1 = _percentage(own) if own is not None else printed.get(label)
            source = "ours" if own is not None else "the paper's" if top1 is not None else "not known"
            runtime = RUNTIMES.get(str(row["runtime"]), str(row["runtime"]))
            kind = " ".join(str(part) for part in (runtime, row.get("precision", "")) if part)
            if row.get("threads", 1) != 1:
                kind += f", {row['threads']} threads"
            family, x = family_of(label), float(row["median_ms"])
            points.append(Point(label + whose, family, kind, x, top1, source, path.as_posix()))
    return points


def _percentage(value: Any) -> float:
    """Return an accuracy that a record holds; an axis reaches from 0 to 100 at most."""
    percent = float(value)
    if percent < 0 or percent > 100:
        raise ValueError(f"a top-1 of {percent:g} % lies outside 0 and 100")
    return percent


def _label(name: str, labels: Mapping[str, str]) -> tuple[str, str]:
    """Return Table 7's name of a timed network or file, else its own, and behind it whose build of it was timed."""
    file = re.fullmatch(r"(?:.*/)?([^/]+)\.(?:onnx|safetensors|tflite|xml|param|mnn|c|mlpackage|pte)", name)
    bare = file[1] if file else name
    library, colon, rest = bare.rpartition(":")
    network = rest.partition("@")[0]
    if colon and network in labels:
        return labels[network], f" ({rest.replace(network, library, 1).replace('@', ', ')})"
    return labels.get(bare, bare), ""


def drawable(points: Sequence[Point]) -> list[Point]:
    """Return the points that have a place: an accuracy, and a cost above 0 for the logarithmic axis.

    Example:
        >>> points = [Point("a", "A", "onnx", x, top1, "") for x, top1 in ((3, 70.0), (3, None), (0, 70.0))]
        >>> len(drawable(points))
        1
    """
    return [
        point
        for point in points
        if point.top1 is not None and math.isfinite(point.top1) and math.isfinite(point.x) and point.x > 0
    ]


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other one beats: cheaper ones are all less accurate; the cheapest first.

    Example:
        >>> rows = (("a", 1, 60), ("b", 2, 59), ("c", 3, 70))
        >>> three = [Point(name, "A", "paper", x, top1, "") for name, x, top1 in rows]
        >>> [point.name for point in pareto_front(three)]
        ['a', 'c']
    """
    front: list[Point] = []
    placed = [point for point in points if point.top1 is not None]
    for point in sorted(placed, key=lambda point: (point.x, -(point.top1 or 0.0))):
        if not front or (point.top1 or 0.0) > (front[-1].top1 or 0.0):
            front.append(point)
    return front


def _counted(results: Records) -> list[Mapping[str, Any]]:
    records = records_of("table7", results)
    return list(records[-1][1]["metrics"]["rows"]) if records else []


def _number(value: Any) -> float:
    return float(value)
