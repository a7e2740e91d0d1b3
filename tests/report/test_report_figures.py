"""Fig. 6 and 7 as files: every network is there, names do not collide, the front is the front, nothing is fetched."""

from __future__ import annotations

import html
import itertools
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from ghostnet import cli
from ghostnet.errors import InputError
from ghostnet.paper import table
from ghostnet.report import FIGURES, figure_file, read_results
from ghostnet.report.points import Point, figure6, figure7, pareto_front
from ghostnet.report.scatter import frame, scatter, stairs

_ROOT = Path(__file__).parents[2]
_SVG = "{http://www.w3.org/2000/svg}"


def _points(*rows: tuple[str, float, float | None]) -> list[Point]:
    return [Point(name, "A", "kind", x, top1, "") for name, x, top1 in rows]


def test_the_front_of_table_7_is_what_no_other_network_beats() -> None:
    points = [point for point in figure6([]) if point.kind == "paper"]
    front = pareto_front(points)
    for point in points:
        better = [
            other
            for other in points
            if other is not point
            and other.x <= point.x
            and (other.top1 or 0) >= (point.top1 or 0)
            and (other.x, other.top1) != (point.x, point.top1)
        ]
        assert (point in front) == (not better), point.name
    assert {"GhostNet 0.5x", "GhostNet 1.0x", "GhostNet 1.3x"} <= {point.name for point in front}


def test_stairs_climb_where_the_front_does() -> None:
    points = _points(("a", 1, 60), ("worse", 2, 59), ("b", 3, 70), ("equal", 4, 70), ("unknown", 2, None))
    assert [point.name for point in pareto_front(points)] == ["a", "b"]
    where = frame(points[:3], 0, 100, 0, 100)
    (start, first_end, low), (second, end, high) = stairs(points, where)
    assert (start, first_end, second, end) == (where.x(1), where.x(3), where.x(3), 100)
    assert (low, high) == (where.y(60), where.y(70))
    assert high < low, "upwards on a screen"
    assert stairs([], where) == []


def _boxes(svg: ElementTree.Element, kind: str, size: int) -> dict[str, tuple[float, float, float, float]]:
    boxes = {}
    for text in svg.iter(f"{_SVG}text"):
        if text.get("class") == kind:
            words = text.text or ""
            width, x, y = 0.5 * size * len(words), float(text.get("x", 0)), float(text.get("y", 0))
            left = x - width if text.get("text-anchor") == "end" else x
            boxes[f"{words} {y}"] = (left, y - 0.7 * size, left + width, y)
    return boxes


@pytest.mark.parametrize("key", FIGURES)
def test_a_file_names_its_networks_and_no_two_names_collide(key: str) -> None:
    text = figure_file(key, read_results(_ROOT / "results"))
    svg = ElementTree.fromstring(text)
    width, height = (float(number) for number in svg.get("viewBox", "").split()[2:])
    assert not re.search(r"(?:href|src|url\()", text), "a file that needs nothing but itself"
    for kind, size in (("small", 13), ("large", 25)):
        boxes = _boxes(svg, kind, size)
        assert all(box[0] >= 0 and box[2] <= width and box[3] <= height for box in boxes.values())
        assert any(name.startswith("GhostNet 1.0x") for name in boxes)
        for (first, one), (second, other) in itertools.combinations(boxes.items(), 2):
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            assert apart, f"{first} lies on {second}"
    named = {name.rsplit(" ", 1)[0] for name in _boxes(svg, "small", 13)}
    large = {name.rsplit(" ", 1)[0] for name in _boxes(svg, "large", 25)}
    if key == "figure6":
        assert large == {"GhostNet 0.5x", "GhostNet 1.0x", "GhostNet 1.3x"}, "legible on a phone"
        assert named == {str(row["model"]) for row in table(7)}
        assert text.count('class="mark dot"') == 2 * len(table(7))
    else:
        assert "On the paper's phone: GhostNet 75.0 % at 40 ms." in html.unescape(text)


def test_figure7_has_a_panel_a_runtime_from_one_record_each() -> None:
    def record(name: str, runtime: str, *networks: str) -> tuple[Path, dict[str, Any]]:
        rows = [{"name": network, "median_ms": 2.0 + number} for number, network in enumerate(networks)]
        metrics = {"rows": [{**row, "top1": 70.0 + row["median_ms"]} for row in rows], "runtime": runtime}
        return Path(f"deploy/{name}.json"), {
            "exhibit": "deploy",
            "metrics": metrics,
            "environment": {"cpu": name},
        }

    found = [record("few", "onnx", "a", "b"), record("many", "onnx", "c", "d", "e")]
    found += [record("x", "ncnn", "f", "g"), record("one", "mnn", "h")]  # one is too few beside three
    text = figure_file("figure7", found)
    titles = re.findall(r'class="title"[^>]*>([^<]+)<', text)
    assert titles == [
        "Fig. 7: top-1 against latency, ONNX Runtime",
        "Fig. 7: top-1 against latency, ncnn",
    ]
    assert sorted(re.findall(r'class="small"[^>]*>([^<]+)<', text)) == ["c", "d", "e", "f", "g"]
    assert "Measured here on many, x, one thread" in text
    assert "Measured here" not in figure_file("figure7", [])


def _timed(*rows: dict[str, Any], cpu: str = "A") -> tuple[Path, dict[str, Any]]:
    place = Path(f"deploy/{rows[0]['name']}.json")
    metrics = {"rows": [{"runtime": "onnx", "top1": 70.0, **row} for row in rows]}
    return place, {"exhibit": "deploy", "metrics": metrics, "environment": {"cpu": cpu}}


def test_what_has_no_place_on_the_axes_is_left_out() -> None:
    odd: list[dict[str, Any]] = [
        {"name": "free", "median_ms": 0.0},
        {"name": "unknown", "median_ms": 3.0, "top1": float("nan")},
        {"name": "never", "median_ms": float("inf")},
    ]
    alone = figure_file("figure7", [_timed(*odd)])
    assert 'class="mark dot"' not in alone
    assert 'aria-label="nothing measured yet"' in alone
    rows = [{"name": "quick", "median_ms": 2e-8}, {"name": "slow", "median_ms": 4e11}]
    text = figure_file("figure7", [_timed(*rows, *odd)])
    assert text.count('class="mark dot"') == 2
    ElementTree.fromstring(text)
    assert "No points" in scatter(figure7([_timed(*odd)])[2:], x_label="", y_label="", name="")


def test_notes_say_threads_and_whose_accuracy_it_is() -> None:
    one = {"name": "ghostnet_100", "median_ms": 2.0, "top1": None}
    counted = (
        Path("table7/counts.json"),
        {
            "exhibit": "table7",
            "metrics": {"rows": [{"row": "GhostNet 1.0x", "name": "ghostnet_100"}]},
        },
    )
    assert "Measured here on A, one thread; top-1 as in Table 7." in figure_file(
        "figure7", [counted, _timed(one)]
    )
    two = {**one, "threads": 2, "top1": 71.0}
    text = figure_file("figure7", [counted, _timed(two)])
    assert "ONNX Runtime, 2 threads" in text
    assert "Measured here on A; top-1 as in Table 7, or measured." in text


def test_lines_join_points_of_one_run_and_long_families_have_room() -> None:
    records = [
        _timed(*({"name": name, "median_ms": 2.0 + number} for number, name in enumerate(names)))
        for names in (("Net a", "Net b"), ("Net c", "Net d"), ("Net e",))
    ]
    svg = scatter(figure7(records)[2:], x_label="", y_label="", name="")
    assert svg.count('<polyline class="mark" data-family="Net"') == 2
    names = ("A_network_with_quite_a_name", "Another_network_with_a_name", "Third")
    text = figure_file("figure7", [_timed(*({"name": name, "median_ms": 2.0} for name in names))])
    places = re.findall(r'class="swatch" cx="(\d+)" cy="(\d+)"', text)
    assert len({y for _, y in places}) == 3, "one under the other"


def test_everything_from_records_is_escaped() -> None:
    text = figure_file("figure7", [_timed({"name": '<b>&"x', "median_ms": 2.0}, cpu="<i>")])
    ElementTree.fromstring(text)
    assert "<b>" not in text
    assert "<i>" not in text


def test_names_of_peers_and_of_files_are_those_of_table_7() -> None:
    counted = {"rows": [{"row": "GhostNet 1.0x", "name": "ghostnet_100"}]}
    names = (
        *(
            "timm:ghostnet_100@plain",
            "runs/table7/ghostnet_100.onnx",
            "ghostnet_100.mnn",
            "ghostnet_100.mlpackage",
            "ghostnet_100.pte",
        ),
        *("timm:other@plain", "a.b"),
    )
    rows = [{"name": name, "runtime": "onnx", "median_ms": 3.0} for name in names]
    found = [
        (Path("table7/counts.json"), {"exhibit": "table7", "metrics": counted}),
        (Path("deploy/a.json"), {"exhibit": "deploy", "metrics": {"rows": rows}}),
    ]
    assert [(point.name, point.top1) for point in figure7(found)[2:]] == [
        ("GhostNet 1.0x (timm, plain)", 73.9),
        ("GhostNet 1.0x", 73.9),
        ("GhostNet 1.0x", 73.9),
        ("GhostNet 1.0x", 73.9),
        ("GhostNet 1.0x", 73.9),
        ("timm:other@plain", None),
        ("a.b", None),
    ]


def test_another_key_is_refused() -> None:
    with pytest.raises(InputError, match="'figure5' is no plot; figure6 and figure7 are"):
        figure_file("figure5", [])


def test_an_edited_plot_is_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("docs", "results"):
        shutil.copytree(_ROOT / name, tmp_path / name)
    shutil.copy(_ROOT / "README.md", tmp_path)
    plot = tmp_path / "docs" / "figure6.svg"
    fresh = plot.read_bytes()
    plot.write_bytes(fresh.replace(b"GhostNet 1.3x", b"GhostNet 1.4x"))
    assert cli.run(["report", "--check", "--root", str(tmp_path)]) == 1
    assert capsys.readouterr().out == "stale: docs/figure6.svg\n"
    assert cli.run(["report", "--root", str(tmp_path)]) == 0
    assert plot.read_bytes() == fresh
