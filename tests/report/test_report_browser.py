"""The page of all exhibits, looked at in a real headless browser: tables and plots are there, its script works.

No driver is needed: a copy of the page gets a script that does what a reader does and writes down what it saw, and the
browser prints the document. Without Chromium or Chrome on this machine there is nothing to look with.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ghostnet.report import CATALOGUE, exhibits_page, read_results

_ROOT = Path(__file__).parents[2]
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = os.environ.get("GHOSTNET_BROWSER") or next(
    (path for name in _NAMES if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium or Chrome here; name one in GHOSTNET_BROWSER to look at the page"
)
_READER = """
<script>
window.addEventListener('load', () => {
  const seen = {errors: window.faults, width: innerWidth, scroll: document.documentElement.scrollWidth};
  seen.sections = [...document.querySelectorAll('section')].map(part => part.id);
  seen.tables = document.querySelectorAll('table').length;
  seen.images = [...document.images].map(image => { image.loading = 'eager'; return image.naturalWidth; });
  const plot = document.querySelector('#figure6 .interactive');
  const dots = [...plot.querySelectorAll('.dot')];
  const shown = () => dots.filter(dot => getComputedStyle(dot).display !== 'none').length;
  seen.dots = dots.length; seen.shown = shown();
  const one = dots.find(dot => dot.dataset.family === 'GhostNet');
  one.dispatchEvent(new MouseEvent('mouseenter'));
  seen.told = plot.querySelector('.told').textContent;
  const click = (name, value) => [...plot.querySelectorAll('input')]
    .find(box => box.name === name && box.value === value).click();
  const stairs = () => plot.querySelector('.front[data-kind="paper"]').getAttribute('points').split(' ');
  seen.stairs = stairs();
  click('family', 'GhostNet'); seen.without_family = shown(); seen.other_stairs = stairs();
  seen.hidden = dots.filter(dot => dot.classList.contains('off')).map(dot => dot.dataset.family);
  click('family', 'GhostNet'); seen.same_stairs = stairs();
  click('kind', 'paper'); seen.without_paper = shown();
  const seventh = document.querySelector('#figure7 .interactive');
  seen.runtimes = [...seventh.querySelectorAll('input[name=kind]')].map(box => box.value);
  seen.cut = [...document.querySelectorAll('.wide')].filter(part => part.scrollWidth > part.clientWidth)
    .map(part => part.closest('section').id);
  seen.names = [...document.querySelectorAll('#short td:first-child')].map(cell => cell.offsetWidth)[0];
  seen.plot_width = plot.querySelector('svg').getBoundingClientRect().width;
  const out = document.createElement('pre'); out.id = 'seen'; out.textContent = JSON.stringify(seen);
  document.body.append(out);
});
</script>
"""
_FAULTS = "<script>window.faults = []; window.addEventListener('error', e => window.faults.push(e.message));</script>"


def _browse(folder: Path, page: Path, *options: str) -> str:
    command = [
        str(BROWSER),
        *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
        f"--user-data-dir={folder / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND",  # offline
        *options,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed results, and a benchmark's: what Fig. 7 reads."""
    folder = tmp_path_factory.mktemp("page") / "results"
    shutil.copytree(_ROOT / "results", folder)
    (folder / "deploy").mkdir(exist_ok=True)
    rows = [
        {"name": "ghostnet_100", "runtime": "onnxruntime", "median_ms": 7.5},
        {"name": "mobilenetv3_large_100.onnx", "runtime": "openvino", "median_ms": 6.25},
        {"name": "my_network", "runtime": "onnxruntime", "median_ms": 3.0, "top1": 61.5},
        {"name": "unknown_network", "runtime": "ncnn", "median_ms": 2.0},
    ]
    record = {
        "schema": 1,
        "exhibit": "deploy",
        "command": "c",
        "seconds": 1,
        "seed": 0,
        "metrics": {"rows": rows},
    }
    (folder / "deploy" / "latency.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def page(results: Path) -> Path:
    text, problems = exhibits_page(read_results(results), results)
    assert problems == []
    path = results.parent / "report.html"
    path.write_text(text.replace("</head>", f"{_FAULTS}</head>").replace("</body>", f"{_READER}</body>"))
    return path


def _seen(folder: Path, page: Path, *options: str) -> Any:
    printed = _browse(folder, page, *options, "--dump-dom")
    found = re.search(r'<pre id="seen">(.*?)</pre>', printed, re.DOTALL)
    assert found, printed[-2000:]
    return json.loads(found[1].replace("&amp;", "&").replace("&gt;", ">").replace("&lt;", "<"))


def _numbers(path: list[str]) -> list[tuple[float, ...]]:
    return [tuple(float(number) for number in place.split(",")) for place in path]


def test_a_reader_finds_every_exhibit_and_the_plots_answer(page: Path, results: Path, tmp_path: Path) -> None:
    seen = _seen(tmp_path, page, "--window-size=1200,900")
    assert seen["errors"] == []
    assert seen["sections"] == [*CATALOGUE, "others", "environment"]
    assert seen["tables"] >= 14
    assert seen["cut"] == [], "no table is wider than a desk's page"
    assert seen["names"] > 130, "names of networks are not squeezed by the paths of records"
    pictures = len(list(results.glob("features/figure*.png")))
    assert len(seen["images"]) == pictures > 0
    assert seen["dots"] == seen["shown"] == 19 * 2
    assert seen["told"].startswith("GhostNet 0.5x: 66.2 %")
    assert seen["without_family"] == (19 - 3) * 2
    assert set(seen["hidden"]) == {"GhostNet"}
    drawn = re.search(
        r'data-kind="paper" data-right="[\d.]+" points="([^"]*)"', page.read_text(encoding="utf-8")
    )
    assert drawn is not None
    assert _numbers(seen["stairs"]) == _numbers(drawn[1].split()), "the script's front is the drawn one"
    assert _numbers(seen["same_stairs"]) == _numbers(seen["stairs"])
    best, without = (min(y for _, y in _numbers(seen[key])) for key in ("stairs", "other_stairs"))
    assert best < without, "GhostNet 1.3x tops the front"
    assert seen["without_paper"] == 19
    assert {"onnxruntime", "OpenVINO", "paper: TFLite on a phone"} <= set(seen["runtimes"])
    assert "ncnn" not in seen["runtimes"]  # no accuracy is known: it stands in the table alone


def test_it_fits_a_phone(page: Path, tmp_path: Path) -> None:
    """A window of headless Chromium is at least 500 pixels wide, so that a phone is a frame in one."""
    whole = page.read_text(encoding="utf-8").replace(
        "document.body.append(out);", "parent.postMessage(out.textContent, '*');"
    )
    (tmp_path / "inner.html").write_text(whole, encoding="utf-8")
    outer = tmp_path / "phone.html"
    outer.write_text(
        '<pre id="seen"></pre><script>addEventListener("message", e => {'
        'document.querySelector("#seen").textContent = e.data;});</script>'
        '<iframe src="inner.html" style="width:390px;height:800px;border:0"></iframe>',
        encoding="utf-8",
    )
    seen = _seen(tmp_path, outer, "--virtual-time-budget=5000")
    assert seen["width"] == 390
    assert seen["scroll"] <= 390
    assert seen["plot_width"] > 0.8 * 390
    assert "table2" not in seen["cut"], "a number cut off at the edge reads as another number"


def _shot(folder: Path, page: Path, section: str) -> np.ndarray:
    """Take a picture of the page where a section begins."""
    shot = folder / f"{section}.png"
    only = page.with_name(f"{section}.html")
    style = f"<style>section:not(#{section}){{display:none}}</style>"
    only.write_text(page.read_text(encoding="utf-8").replace("</head>", f"{style}</head>"), encoding="utf-8")
    _browse(folder, only, "--window-size=900,1400", f"--screenshot={shot}")
    with Image.open(shot) as opened:
        return np.asarray(opened.convert("RGB")).astype(np.int16)


def _near(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(pixels - np.array(colour)).sum(2) < 12).sum())


def test_screenshots_show_tables_pictures_and_plots(page: Path, tmp_path: Path) -> None:
    table = _shot(tmp_path, page, "table7")
    assert table.shape == (1400, 900, 3)
    assert (table.min(2) < 128).any(1)[250:1200].mean() > 0.4, "lines of text all the way down"
    pairs, ghosts = (_shot(tmp_path, page, section) for section in ("figure1", "figure4"))
    for colour in ((214, 39, 40), (44, 160, 44)):  # frames
        assert _near(pairs, colour) > 500
        assert _near(ghosts, colour) > 2000
    plot = _shot(tmp_path, page, "figure6")
    families = ((10, 110, 189), (209, 73, 91), (46, 139, 87), (184, 134, 11), (106, 76, 147))
    assert all(_near(plot, colour) > 30 for colour in families), "dots and swatches of the first families"


@pytest.mark.parametrize(("width", "dark"), [(760, False), (760, True), (375, False)])
def test_a_plot_file_follows_width_and_darkness(tmp_path: Path, width: int, dark: bool) -> None:
    shutil.copy(_ROOT / "docs" / "figure6.svg", tmp_path / "figure6.svg")
    page, shot = tmp_path / "page.html", tmp_path / "shot.png"
    page.write_text(f'<body style="margin:0"><img src="figure6.svg" style="width:{width}px;display:block">')
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    _browse(tmp_path, page, *scheme, "--window-size=760,900", f"--screenshot={shot}")
    with Image.open(shot) as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(np.int16)[:700, :width]
    height = int(700 * width / 760)
    corner, ink = (pixels[20, width - 20], pixels[:height].mean(2))
    assert (corner.max() < 60) == dark
    assert ((ink > 200) if dark else (ink < 100)).sum() > 1500, "letters"
    ghost = (69, 209, 130) if dark else (46, 139, 87)
    assert _near(pixels, ghost) > 60 * (width / 760) ** 2
