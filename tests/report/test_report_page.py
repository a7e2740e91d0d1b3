"""The demo's page: whole, self-contained, escaped."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ghostnet.errors import InputError
from ghostnet.report import demo_page, demo_picture, line_chart, render_demo_page

_VOID = {"meta", "img", "link", "br", "hr"}


def _png() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _result(**changes: Any) -> dict[str, Any]:
    names = ("dense", "ghost as converted", "ghost fine-tuned", "random init fine-tuned")
    row = {
        "top1": 91.25,
        "top5": 99.5,
        "params": 1000,
        "macs": 123456,
        "latency_ms": 0.5,
        "latency_ratio": 0.6,
    }
    result = {
        "schema": 1,
        "exhibit": "demo",
        "command": "ghostnet demo",
        "commit": "abc",
        "environment": {"cpu": "A processor", "gpu": None},
        "seconds": 12.0,
        "seed": 0,
        "model": "vgg16",
        "rows": [{"name": name, **row} for name in names],
        "theoretical_speedup": 1.9,
        "measured_speedup": 1.6,
        "curves": {
            "dense init": [{"step": 1, "loss": 2.0}, {"step": 9, "loss": 0.5, "top1": 90}],
            "random init": [],
        },
        "stages_seconds": {"convert": 3.0},
        "feature_maps": {"dense": "dense.png", "ghost": "ghost.png"},
    }
    return {**result, **changes}


class _Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.seen.append(tag)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_whole_and_self_contained(tmp_path: Path) -> None:
    for name in ("dense.png", "ghost.png"):
        (tmp_path / name).write_bytes(_png())
    (tmp_path / "demo.json").write_text(json.dumps(_result()))
    page = demo_page(tmp_path / "demo.json")
    text = page.read_text(encoding="utf-8")
    parser = _Balance()
    parser.feed(text)
    assert page == tmp_path / "demo.html"
    assert parser.open == []
    assert (parser.seen.count("tr"), parser.seen.count("img"), parser.seen.count("svg")) == (5, 2, 2)
    assert all(value.startswith("data:") for value in re.findall(r'(?:src|href)="([^"]*)"', text))
    assert "http" not in text
    assert 'name="viewport"' in text
    for shown in (
        "91.25",
        "123,456",
        "1.90 x in MACs",
        "1.60 x measured",
        "ghost as converted",
        "A processor",
    ):
        assert shown in text


def test_page_escapes_everything(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    result = _result(
        model=evil, command=evil, environment={evil: evil}, curves={evil: [{"step": 0, "loss": 1}]}
    )
    result["rows"][0]["name"] = evil
    result["feature_maps"] = {evil: evil}
    assert "<script" not in render_demo_page(result, tmp_path)


def test_page_says_what_is_missing(tmp_path: Path) -> None:
    text = render_demo_page(_result(curves={}), tmp_path)
    assert "dense.png is not there" in text
    assert "No curves were recorded" in text
    assert "No feature maps were recorded" in render_demo_page(_result(feature_maps={}), tmp_path)


def test_page_refuses_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "dense.png").write_text("text")
    with pytest.raises(InputError, match=r"dense\.png is not a PNG"):
        render_demo_page(_result(), tmp_path)


def test_page_refuses_a_result_without_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lacks 'rows'"):
        render_demo_page({"model": "vgg16"}, tmp_path)


def test_chart_places_points_between_its_axes() -> None:
    svg = line_chart({"a": [(0, 0.0), (10, 1.0)]}, x_label="step", y_label="loss")
    points = [[float(x) for x in pair.split(",")] for pair in re.findall(r'points="([^"]*)"', svg)[0].split()]
    assert points == [[56.0, 256.0], [616.0, 12.0]]


def test_chart_survives_constant_and_broken_values() -> None:
    svg = line_chart({"a": [(5, 2.0), (6, float("nan"))]}, x_label="step", y_label="loss")
    assert svg.count("polyline") == 1
    assert "nan" not in svg
    assert line_chart({}, x_label="step", y_label="loss") == "<p>No points to draw.</p>"


def test_report_needs_no_torch() -> None:
    code = "import sys, ghostnet.report; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_picture_shows_every_network_and_longer_bars_for_larger_values() -> None:
    result = _result()
    result["rows"][1]["latency_ms"] = 0.25
    result["rows"][2]["name"] = "<ghost>"
    root = ElementTree.fromstring(demo_picture(result))
    words = [element.text for element in root.findall(".//{*}text")]
    assert {"dense", "<ghost>", "0.500", "0.250", "91.25", "top-1 in %"} <= set(words)
    widths = [float(element.get("width", 0)) for element in root.findall(".//{*}rect")][1:]
    assert len(widths) == 3 * 4
    assert widths[9] == pytest.approx(widths[8] / 2, abs=0.1)
