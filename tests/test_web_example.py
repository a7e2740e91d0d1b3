"""The page of examples/web: its JavaScript prepares images as `ghostnet predict` does, and says what is missing.

onnxruntime-web is not needed here; `scripts/check_in_browser.py` installs it and runs whole networks.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ghostnet import data

WEB = Path(__file__).parents[1] / "examples" / "web"
NODE = shutil.which("node")
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = os.environ.get("GHOSTNET_BROWSER") or next(
    (path for name in _NAMES if (path := shutil.which(name))), None
)
needs_node = pytest.mark.skipif(NODE is None, reason="no node here")
_PREPARE = """
import { readFileSync, writeFileSync } from "node:fs";
const [module, job] = process.argv.slice(2);
const { cropped, normalised } = await import(module);
const { width, height, wanted, pixels, crop, input } = JSON.parse(job);
try {
  const seen = cropped({ data: readFileSync(pixels), width, height }, wanted);
  writeFileSync(crop, seen);
  writeFileSync(input, normalised(seen, wanted));
} catch (error) {
  console.log(error.message);
}
"""
_LIKELIEST = """
const { Network } = await import(process.argv[2]);
const network = new Network(null, "net", 0, { classes: ["cat", "dog", "fox"] }, null);
const bare = new Network(null, "net", 0, { classes: null }, null);
console.log(JSON.stringify([network.likeliest([901, 903, 1000], 2), bare.likeliest([0, 1], 2)]));
"""


def _node(folder: Path, program: str, *arguments: str) -> str:
    (folder / "program.mjs").write_text(program)
    command = [str(NODE), str(folder / "program.mjs"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def _prepared(
    folder: Path, pixels: np.ndarray, wanted: data.Preprocessing | dict[str, Any]
) -> tuple[Any, Any, str]:
    """Return what the page makes of RGB pixels (H, W, 3): the crop, the network's input, and its complaint."""
    rgba = np.concatenate([pixels, np.full((*pixels.shape[:2], 1), 255, np.uint8)], axis=2)
    (folder / "pixels").write_bytes(rgba.tobytes())
    job = {name: str(folder / name) for name in ("pixels", "crop", "input")}
    stated = wanted if isinstance(wanted, dict) else wanted.to_dict()
    job_text = json.dumps({**job, "height": pixels.shape[0], "width": pixels.shape[1], "wanted": stated})
    said = _node(folder, _PREPARE, (WEB / "preprocessing.js").as_uri(), job_text)
    if said:
        return None, None, said.strip()
    size = stated["image_size"]
    crop = np.frombuffer((folder / "crop").read_bytes(), np.uint8).reshape(size, size, 3)
    return crop, np.frombuffer((folder / "input").read_bytes(), np.float32).reshape(3, size, size), ""


@needs_node
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("shape", "size", "fraction"),
    [
        ((301, 200), 64, 0.875),
        ((97, 141), 32, 1.0),
        ((20, 33), 45, 0.9),
        ((32, 32), 32, 1.0),
        ((64, 50), 1, 1.0),
    ],
)
def test_the_page_prepares_images_as_predict_does(
    tmp_path: Path, shape: tuple[int, int], size: int, fraction: float, interpolation: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    wanted = data.Preprocessing(size, fraction, interpolation)
    crop, given, said = _prepared(tmp_path, pixels, wanted)
    assert said == ""
    expected = data.evaluation_transform(wanted)(torch.from_numpy(pixels).permute(2, 0, 1))
    differences = np.abs(crop.astype(int) - expected.permute(1, 2, 0).numpy().astype(int))
    assert differences.max() <= 1, "of 255: rounding"
    assert (differences > 0).mean() < 0.1
    own = wanted.normalise(torch.from_numpy(crop.copy()).permute(2, 0, 1)[None])[0].numpy()
    np.testing.assert_allclose(given, own, rtol=0, atol=2e-6)


@needs_node
def test_what_the_page_cannot_prepare_is_said(tmp_path: Path) -> None:
    strip = np.zeros((2, 300, 3), np.uint8)
    assert _prepared(tmp_path, strip, data.Preprocessing(8))[2] == (
        "the image is 300x2 pixels, a strip that resizing would blow up; crop it"
    )
    unknown = data.Preprocessing(8).to_dict() | {"interpolation": "lanczos"}
    said = _prepared(tmp_path, strip, unknown)[2]
    assert said == "the manifest asks for lanczos; this page knows bilinear, bicubic"


@needs_node
def test_probabilities_are_those_of_the_scores(tmp_path: Path) -> None:
    named, bare = json.loads(_node(tmp_path, _LIKELIEST, (WEB / "network.js").as_uri()))
    assert [entry["name"] for entry in named] == ["fox", "dog"]
    assert [entry["probability"] for entry in named] == pytest.approx([1, 0])
    assert [entry["name"] for entry in bare] == ["class 1", "class 0"]
    assert [entry["probability"] for entry in bare] == pytest.approx([0.7310586, 0.2689414])


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The page without node_modules, whatever lies in the checkout."""
    shutil.copytree(WEB, tmp_path / "web", ignore=shutil.ignore_patterns("node_modules", "*.onnx*"))
    handler = functools.partial(_Silent, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome here; name one in GHOSTNET_BROWSER")
def test_the_page_says_what_is_missing(served: str, tmp_path: Path) -> None:
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom", served]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "onnxruntime-web is not here; run `npm install` in the folder of this page</p>" in page
    assert '<p id="network">no network</p>' in page
