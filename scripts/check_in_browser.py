"""Run exported ONNX files in a browser: onnxruntime-web's WASM backend under headless Chromium, one thread.

For maintainers, where npm and Chromium or Chrome are; a few minutes, some 150 MB in the folder:

    python scripts/check_in_browser.py runs/web --result results/web/chromium.json

The page of examples/web is copied into the folder, onnxruntime-web is installed beside it by npm, and a server of this
machine hands both to the browser, which reaches nothing else. The outputs are compared with those of ONNX Runtime here
and with PyTorch; the networks are timed in turn, the whole in several fresh browsers that load them in different
orders. At last the page itself classifies an image, and this machine does as `ghostnet predict` would. A network whose
output differs by more than 1e-4 of its largest value, or a page with another answer, ends the script with code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib.metadata
import io
import json
import os
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import ghostnet
from ghostnet import data
from ghostnet.convert import ghostify
from ghostnet.deploy import export, load, randomise_statistics_
from ghostnet.deploy.compare import relative_error
from ghostnet.deploy.repeated import load_orders
from ghostnet.errors import InputError
from ghostnet.recipes.result import write_record

PAGE = Path(__file__).parents[1] / "examples" / "web"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TOLERANCE = 1e-4
PROBABILITY_TOLERANCE = 0.02  # pixels may differ by one step of 255 after resizing
IMAGES = 2
# None: a plain export; (): the set of the target "onnx", which is for ONNX Runtime's own kernels. Those of WASM gain
# nothing from channels in blocks of 16, so browsers have a set of their own (measured by this script).
REWRITES: dict[str, tuple[str, ...] | None] = {
    "none": None,
    "onnx": (),
    "browser": ("squeeze_excite", "fold_batch_norm", "head", "split"),
}
SECONDS_FOR_BROWSER = 240
PROGRAM = """<!doctype html><meta charset="utf-8"><script type="module">
const tell = (answer) => fetch("answer", {method: "POST", body: JSON.stringify(answer)});
addEventListener("unhandledrejection", (event) => tell({error: String(event.reason)}));
addEventListener("error", (event) => tell({error: event.message}));
const bytes = async (place) => (await fetch(place)).arrayBuffer();

async function networks(job) {
  const { Network, fetchNetwork, loadRuntime } = await import("./network.js");
  const ort = await loadRuntime();
  const area = job.shape.reduce((a, b) => a * b);
  const images = new Float32Array(await bytes(job.images));
  const found = [];
  for (const file of job.files) found.push(await Network.open(ort, await fetchNetwork(file)));
  const outputs = found.map(() => []), times = found.map(() => []);
  for (let start = 0; start < images.length; start += area) {
    for (const [number, network] of found.entries()) {
      outputs[number].push(Array.from(await network.scores(images.slice(start, start + area))));
    }
  }
  const one = images.slice(0, area);
  for (const network of found) for (let call = 0; call < 5; call++) await network.scores(one);
  for (let spent = 0; spent < 1e3 * job.seconds * found.length || times[0].length < 20;) {
    for (const [number, network] of found.entries()) {
      const start = performance.now();
      await network.scores(one);
      times[number].push(performance.now() - start);
      spent += times[number].at(-1);
    }
  }
  const about = {version: ort.env.versions.web, threads: ort.env.wasm.numThreads, isolated: crossOriginIsolated};
  return {...about, outputs, times};
}

async function page(job) {
  const frame = document.createElement("iframe");
  frame.src = `index.html?network=${job.network}`;
  document.body.append(frame);
  await new Promise((done) => frame.addEventListener("load", done));
  const inside = frame.contentDocument, carrier = new DataTransfer();
  carrier.items.add(new File([await bytes(job.image)], job.image));
  inside.getElementById("file").files = carrier.files;
  inside.getElementById("file").dispatchEvent(new Event("change"));
  const text = (name) => inside.getElementById(name).textContent;
  while (!text("latency").includes("an image") && !text("problem")) await new Promise((done) => setTimeout(done, 50));
  const answers = [...inside.querySelectorAll("#answers li")].map((item) => ({
    name: item.querySelector("span").textContent, probability: item.querySelector("meter").value}));
  return {answers, latency: text("latency"), problem: text("problem")};
}

const job = JSON.parse(decodeURIComponent(location.hash.slice(1)));
tell(await (job.network ? page(job) : networks(job)));
</script><body></body>
"""


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A network and how it is exported.

    Attributes:
        network: its name.
        model: itself.
        rewrites: a key of `REWRITES`.
    """

    network: str
    model: nn.Module
    rewrites: str

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.network}-{self.rewrites}.onnx".replace(" ", "_")

    def export(self, folder: Path, size: tuple[int, ...]) -> None:
        """Write its file."""
        how = REWRITES[self.rewrites]
        options = {"optimized": how is not None, "passes": how or None}
        export(self.model, "onnx", folder / self.file, input_size=size, force=True, **options)  # type: ignore[arg-type]


def contestants() -> Iterator[tuple[tuple[int, int, int], list[Contestant]]]:
    """Give groups with their input size; ratios are to a group's first.

    GhostNet 0.5x has random weights; the other is trained, dense and converted.
    """
    torch.manual_seed(0)
    small = randomise_statistics_(ghostnet.create_model("ghostnet_050").eval(), (3, 224, 224))
    yield (3, 224, 224), [Contestant("ghostnet_050", small, rewrites) for rewrites in REWRITES]
    dense = ghostnet.load("resnet9_050").eval()
    ghost = ghostify(dense, ratio=2)[0].eval()
    converted = [Contestant("ghost of resnet9_050", ghost, rewrites) for rewrites in REWRITES]
    yield (3, 32, 32), [Contestant("resnet9_050", dense, "none"), *converted]


class _Handler(SimpleHTTPRequestHandler):
    answers: queue.Queue[dict[str, Any]]

    def end_headers(self) -> None:
        """Isolate the page: its clock is finer then."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def do_POST(self) -> None:
        """Take an answer."""
        self.answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


class Browser:
    """Fresh headless browsers that look at a folder, one at a time.

    Args:
        program: Chromium or Chrome.
        site: the folder; `PROGRAM` is put into it.
    """

    def __init__(self, program: str, site: Path) -> None:
        self.program, self.site = program, site
        (site / "check.html").write_text(PROGRAM, encoding="utf-8")
        try:
            done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise InputError(f"{program} does not start; name Chromium or Chrome with --browser") from error
        self.version = done.stdout.strip().split(" built")[0].partition(" snap")[0].strip()

    def answer(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `PROGRAM` answers to a job."""
        answers: queue.Queue[dict[str, Any]] = queue.Queue()
        handler = type("Handler", (_Handler,), {"answers": answers})
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(
                ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(self.site)))
            )
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            profile = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            address = (
                f"http://127.0.0.1:{server.server_port}/check.html#{urllib.parse.quote(json.dumps(job))}"
            )
            command = [self.program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
            command += [
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                f"--user-data-dir={profile}",
            ]
            silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen([*command, "--remote-debugging-port=0", address], **silent)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            try:
                found = answers.get(timeout=SECONDS_FOR_BROWSER)
            except queue.Empty as error:
                raise RuntimeError(f"no answer from {self.program} in {SECONDS_FOR_BROWSER} s") from error
        if "error" in found:
            raise RuntimeError(f"the browser says: {found['error']}")
        return found


def installed_site(folder: Path) -> Path:
    """Copy the page into a folder and let npm install what its package.json names; once."""
    site = folder / "site"
    shutil.copytree(PAGE, site, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules", "*.onnx*"))
    if (site / "node_modules" / "onnxruntime-web").is_dir():
        return site
    if shutil.which("npm") is None:
        raise InputError("npm is not installed; install Node.js")
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]
    done = subprocess.run(command, cwd=site, capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        raise InputError(f"npm failed: {(lines or ['no message'])[0].removeprefix('npm error ')}")
    return site


def compared(
    browser: Browser, size: tuple[int, int, int], group: Sequence[Contestant], how: argparse.Namespace
) -> list[dict[str, Any]]:
    """Export a group, run it here and in browsers, and return a row for each contestant."""
    for contestant in group:
        contestant.export(browser.site, size)
    images = np.random.default_rng(0).standard_normal((IMAGES, *size), dtype=np.float32)
    images.tofile(browser.site / "images.bin")
    answers = []
    for order in load_orders(len(group), how.processes):
        files = [group[index].file for index in order]
        found = browser.answer(
            {"files": files, "images": "images.bin", "shape": size, "seconds": how.seconds}
        )
        for key in ("outputs", "times"):
            by_index = dict(zip(order, found[key], strict=True))
            found[key] = [by_index[index] for index in range(len(group))]
        answers.append(found)
    medians = [[statistics.median(times) for times in found["times"]] for found in answers]
    rows = []
    for index, contestant in enumerate(group):
        here = torch.from_numpy(load(browser.site / contestant.file, threads=1).predict(images))
        with torch.no_grad():
            eager = contestant.model(torch.from_numpy(images))
        outputs = [torch.tensor(found["outputs"][index]) for found in answers]
        ratios = [process[index] / process[0] for process in medians]
        rows.append(
            {
                "network": contestant.network,
                "rewrites": contestant.rewrites,
                "input_size": list(size),
                "against_here": max(relative_error(here, output) for output in outputs),
                "against_pytorch": max(relative_error(eager, output) for output in outputs),
                "median_ms": statistics.median(process[index] for process in medians),
                "ratio": statistics.median(ratios),
                "ratios": ratios,
                "rounds": sum(len(found["times"][index]) for found in answers),
                "bytes": (browser.site / contestant.file).stat().st_size,
                **{key: answers[0][key] for key in ("version", "threads", "isolated")},
            }
        )
    return rows


def picture() -> bytes:
    """Return a PNG file of a made-up scene, 160x120: a sky, a ground, and something dark in between."""
    down, across = np.mgrid[0:120, 0:160]
    scene = np.where((down < 80)[..., None], (130, 180, 235), (95, 120, 60)).astype(np.float64)
    scene += 12 * np.sin(across / 7)[..., None] + 8 * np.cos(down / 5)[..., None]
    scene[((across - 80) / 42) ** 2 + ((down - 72) / 16) ** 2 < 1] = (60, 40, 45)
    stream = io.BytesIO()
    Image.fromarray(scene.clip(0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def page_compared(browser: Browser) -> dict[str, Any]:
    """Let the page classify a picture, and say how far it is from `ghostnet predict`'s way."""
    model = ghostnet.load("resnet9_050").eval()
    path = browser.site / "page.onnx"
    info = dict(model.ghostnet_info)  # type: ignore[arg-type]
    wanted = data.Preprocessing.from_info(info, data.Preprocessing(32, 1.0))
    export(model, "onnx", path, input_size=(3, 32, 32), preprocessing=wanted.to_dict(), force=True)
    content = picture()
    (browser.site / "picture.png").write_bytes(content)
    pixels = data.evaluation_transform(wanted)(data.decode_image(content))
    scores = load(path).predict(np.ascontiguousarray(wanted.normalise(pixels[None]).numpy()))[0]
    expected = torch.softmax(torch.from_numpy(scores), 0)
    classes = load(path).manifest.classes  # type: ignore[union-attr]
    names = classes or [f"class {index}" for index in range(len(scores))]
    found = browser.answer({"network": path.name, "image": "picture.png"})
    if found["problem"]:
        raise RuntimeError(f"the page says: {found['problem']}")
    return {
        "network": "resnet9_050",
        "latency": found["latency"],
        "top1": found["answers"][0]["name"],
        "expected_top1": names[int(expected.argmax())],
        "probability_difference": max(
            abs(answer["probability"] - float(expected[names.index(answer["name"])]))
            for answer in found["answers"]
        ),
    }


def usual_browser() -> str:
    """Return the browser of this machine."""
    found = os.environ.get("GHOSTNET_BROWSER") or next(
        (path for name in BROWSERS if (path := shutil.which(name))), None
    )
    if found is None:
        raise InputError("there is no Chromium or Chrome here; install one, or name it with --browser")
    return found


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="keeps onnxruntime-web and the exported files")
    parser.add_argument("--browser", help="Chromium or Chrome; default: the one of this machine")
    parser.add_argument("--processes", type=int, default=5, help="fresh browsers for each group of networks")
    parser.add_argument(
        "--seconds", type=float, default=1.5, help="least time for each network in each of them"
    )
    parser.add_argument("--result", type=Path, help="also write a record")
    found = parser.parse_args(given)
    if found.processes < 1 or found.seconds <= 0:
        parser.error("--processes must be an integer >= 1 and --seconds above 0")
    return found


def main() -> None:
    """Compare all networks and the page, print a line for each, and write the record."""
    how = arguments()
    started = time.monotonic()
    rows: list[dict[str, Any]] = []
    try:
        program = how.browser or usual_browser()
        how.folder.mkdir(parents=True, exist_ok=True)
        browser = Browser(program, installed_site(how.folder.resolve()))
        for size, group in contestants():
            for row in compared(browser, size, group, how):
                rows.append(row)
                print(
                    "{network}: {against_here:.1e} to this machine, {against_pytorch:.1e} to PyTorch,".format(
                        **row
                    )
                )
                spread = f"({min(row['ratios']):.2f}-{max(row['ratios']):.2f})"
                print("  {median_ms:.2f} ms, time over the first {ratio:.2f}".format(**row), spread)
        page = page_compared(browser)
        print(
            "the page: {top1}, expected {expected_top1}, {probability_difference:.1e} apart; {latency}".format(
                **page
            )
        )
    except InputError as error:
        sys.exit(f"error: {error}")
    worst = max(max(row["against_here"], row["against_pytorch"]) for row in rows)
    metrics = {"rows": rows, "page": page, "browser": browser.version, "processes": how.processes}
    metrics |= {
        "tolerance": TOLERANCE,
        "images": IMAGES,
        "onnxruntime": importlib.metadata.version("onnxruntime"),
    }
    if how.result:
        write_record(
            how.result,
            metrics,
            seconds=time.monotonic() - started,
            recipe={"name": "check_in_browser"},
            more={"command": " ".join(["python scripts/check_in_browser.py", *sys.argv[1:]])},
        )
    same = page["top1"] == page["expected_top1"] and page["probability_difference"] <= PROBABILITY_TOLERANCE
    sys.exit(0 if worst <= TOLERANCE and same else 1)


if __name__ == "__main__":
    main()
