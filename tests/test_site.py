"""The documentation: its examples run, its commands exist, every public name and command is on it, no link is dead."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest
import torch

import ghostnet
from ghostnet.cli.app import VERBS
from ghostnet.cli.reference import command_reference

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
WRITTEN = [page for page in PAGES if page.stem not in ("cli", "cifar10", "paper_against_computed", "results")]
MKDOCS = (
    importlib.util.find_spec("mkdocs") is not None and importlib.util.find_spec("mkdocstrings") is not None
)
needs_mkdocs = pytest.mark.skipif(not MKDOCS, reason="mkdocs is not installed: pip install 'ghostnet[docs]'")


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


EXAMPLES = [(page.stem, number) for page in PAGES for number in range(len(_blocks(page, "python")))]
SLOW = {
    ("index", 0),
    ("convert", 0),
    ("convert", 3),
    ("deploy", 2),
    ("deploy", 3),
    ("deploy", 4),
}  # they fit whole networks, or plan one


def test_the_guides_have_examples() -> None:
    assert {page for page, _ in EXAMPLES} >= {"index", "convert", "deploy", "train", "features"}
    assert {number for page, number in EXAMPLES if page == "convert"} == {0, 1, 2, 3, 4}
    assert set(EXAMPLES) >= SLOW


@pytest.mark.parametrize(
    ("page", "number"),
    [pytest.param(*example, marks=pytest.mark.slow if example in SLOW else ()) for example in EXAMPLES],
)
def test_python_on_a_page_runs(
    page: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    block = _blocks(ROOT / "docs" / f"{page}.md", "python")[number]
    exec(compile(block, f"{page}.md, block {number}", "exec"), {"__name__": "example"})


def test_commands_on_the_pages_exist_with_their_options() -> None:
    found = re.findall(r"^## ghostnet ([\w ]+)\n(.*?)(?=^## |\Z)", command_reference(), re.S | re.M)
    sections = dict(found)
    assert [name for name in sections if " " not in name] == list(VERBS)
    seen = 0
    for page in WRITTEN:
        for line in "".join(_blocks(page, "sh")).splitlines():
            words = shlex.split(line, comments=True)
            if "ghostnet" not in words:
                assert not words or words[0] in ("make", "pip", "npm", "python", "cc"), line
                continue
            verb, *rest = words[words.index("ghostnet") + 1 :]
            assert verb in VERBS, f"{page.name}: {line}"
            if rest and f"{verb} {rest[0]}" in sections:  # ghostnet detect train
                verb = f"{verb} {rest.pop(0)}"
            for option in (word for word in rest if re.fullmatch(r"--?[a-z][\w-]*", word)):
                assert re.search(rf"(^|[ ,]){option}\b", sections[verb], re.M), (
                    f"{page.name}: {verb} has no {option}"
                )
            seen += 1
    assert seen > 30


def _written(page: Path) -> list[str]:
    """Return the files that a page's examples write, as often as they do."""
    python = "".join(_blocks(page, "python"))
    found = re.findall(r"\.save\(\w+, \"([^\"]+)\"", python)
    for names, ending in re.findall(
        r"for name, model in (.*):\n.*export\(model, \"\w+\", f\"\{name\}(\.\w+)\"", python
    ):
        found += [name + ending for name in re.findall(r"\"(\w+)\"", names)]
    for line in "".join(_blocks(page, "sh")).splitlines():
        words = shlex.split(line, comments=True)
        found += [words[index + 1] for index, word in enumerate(words) if word == "-o"]
        if words[:2] == ["ghostnet", "train"] and "--list" not in words:
            folder = words[words.index("--out") + 1] if "--out" in words else "runs"
            seed = next((word for word in words if word.startswith("seed=")), "")
            found.append(f"{folder}/{'fine_tune' if words[2].startswith('-') else words[2]}{seed}")
    return found


def test_a_page_followed_from_top_to_bottom_writes_no_file_twice() -> None:
    pages = [ROOT / "README.md", *WRITTEN]
    files = {page.stem: _written(page) for page in pages}
    assert {"dense.onnx", "ghost.onnx", "net.onnx"} <= set(files["deploy"])
    assert {"unfitted.safetensors", "ghost.safetensors", "taught/fine_tune"} <= set(files["README"])
    assert {page: sorted(names) for page, names in files.items() if len(set(names)) < len(names)} == {}


def _site_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "scripts" / "site_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _public() -> list[str]:
    """Every public name: what `ghostnet` names, and what each of its rooms names."""
    rooms = [name for name in ghostnet.__all__ if inspect.ismodule(getattr(ghostnet, name))]
    names = [f"ghostnet.{name}" for name in ghostnet.__all__]
    for room in rooms:
        module = importlib.import_module(f"ghostnet.{room}")
        names += [f"ghostnet.{room}.{name}" for name in module.__all__]
    names += [f"ghostnet.measure.features.{name}" for name in ghostnet.measure.features.__all__]
    return names


def _value(name: str) -> object:
    place, _, last = name.rpartition(".")
    return getattr(importlib.import_module(place), last)


def test_every_public_name_has_a_docstring() -> None:
    names = _public()
    assert len(names) > 150
    bare = [
        name
        for name in names
        if (
            inspect.isfunction(_value(name))
            or inspect.isclass(_value(name))
            or inspect.ismodule(_value(name))
        )
        and not inspect.getdoc(_value(name))
    ]
    assert bare == []


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("a", "link", "img", "script"):
            self.links += [value for key in ("href", "src") if (value := values.get(key))]
        self.ids |= {value for key in ("id", "name") if (value := values.get(key))}


def dead_links(site: Path) -> list[str]:
    """Return the links of a built site that lead nowhere, each with its page; addresses elsewhere are not tried."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    dead = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its links start at the server's root
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            missing = not target.is_file()
            if missing or (
                parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids
            ):
                dead.append(f"{path.relative_to(site)}: {link}")
    return dead


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there">1</a><a href="b.html#gone">2</a><a href="c.html">3</a>'
    )
    (tmp_path / "b.html").write_text('<h1 id="there">b</h1><a href="https://example.org/x">elsewhere</a>')
    assert dead_links(tmp_path) == ["a.html: b.html#gone", "a.html: c.html"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    source = os.pathsep.join([str(Path(ghostnet.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": source}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@needs_mkdocs
def test_a_warning_stops_the_build_as_the_makefile_runs_it(tmp_path: Path) -> None:
    """`--quiet` keeps warnings from `--strict`, and a dead link would pass."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[dead](nowhere.md)\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: x\n")
    line = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "mkdocs build" in line)
    options = line.partition("mkdocs ")[2].partition("#")[0].split()
    command = [sys.executable, "-m", "mkdocs", *options]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr


@needs_mkdocs
def test_every_public_name_is_in_the_api_reference(site: Path) -> None:
    documented = set()
    for path in (site / "api").glob("*.html"):
        documented |= _Page(path.read_text(encoding="utf-8")).ids
    pages = {path.stem for path in (site / "api").glob("*.html")}
    missing = [name for name in _public() if name not in documented and name not in pages]
    assert missing == []


@needs_mkdocs
def test_every_command_has_a_page(site: Path) -> None:
    for verb in VERBS:
        text = (site / "commands" / f"{verb}.html").read_text(encoding="utf-8")
        assert f"Usage: ghostnet {verb}" in text
    assert "Examples" in (site / "api" / "ghostnet.nn.html").read_text(encoding="utf-8")
    detect = [f"detect-{name}" for name in ("train", "eval", "predict", "export", "bench")]
    assert sorted(_site_pages().command_pages()) == sorted(
        f"commands/{name}.md" for name in ["ghostnet", *VERBS, *detect]
    )


@needs_mkdocs
def test_no_link_of_the_site_is_dead_and_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    assert len(list(site.rglob("*.html"))) > 35
    assert dead_links(site) == []
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img)[^>]*src="(?:https?:)?//', text), path
        assert not re.findall(r'<link[^>]*rel="stylesheet"[^>]*href="(?:https?:)?//', text), path
