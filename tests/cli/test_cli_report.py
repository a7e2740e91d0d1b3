"""Generated documents are fresh, `ghostnet report --check` notices when not, and the README's code runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from ghostnet import cli
from ghostnet.cli.app import VERBS
from ghostnet.cli.reference import command_reference

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(_ROOT / "docs", tmp_path / "docs")
    shutil.copy(_ROOT / "README.md", tmp_path / "README.md")
    shutil.copytree(_ROOT / "results", tmp_path / "results")
    return tmp_path


def test_reference_documents_every_verb_and_is_fresh() -> None:
    text = (_ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert re.findall(r"^## ghostnet (\w+)$", text, re.MULTILINE) == list(VERBS)
    assert text == command_reference(), "docs/cli.md is stale; run `ghostnet report`"


def test_the_repository_is_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", "--check", "--root", str(_ROOT)]) == 0, capsys.readouterr().err


def test_check_fails_on_a_typed_number_and_report_repairs_it(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = copy / "README.md"
    fresh = readme.read_text(encoding="utf-8")
    readme.write_text(fresh.replace("<!-- results:end -->", "99.9\n<!-- results:end -->"), encoding="utf-8")
    (copy / "docs" / "cli.md").unlink()
    assert cli.run(["report", "--check", "--root", str(copy)]) == 1
    assert "99.9" in readme.read_text(encoding="utf-8")
    assert capsys.readouterr().out == "stale: README.md, docs/cli.md\n"
    assert cli.run(["report", "--root", str(copy)]) == 0
    assert readme.read_text(encoding="utf-8") == fresh
    assert cli.run(["report", "--check", "--root", str(copy)]) == 0


def test_readme_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (_ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks[0], "README.md", "exec"), {})
    assert (tmp_path / "ghost.onnx").stat().st_size > 100_000


def test_readme_commands_exist() -> None:
    text = (_ROOT / "README.md").read_text(encoding="utf-8")
    verbs = re.findall(r"^ghostnet (\w+)", text, re.MULTILINE)
    assert len(verbs) >= 5
    assert set(verbs) <= set(VERBS)
    targets = re.findall(r"^make (\w+)", text, re.MULTILINE)
    makefile = (_ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets
    assert all(f"\n{target}:" in makefile for target in targets)


def test_documents_link_to_files_that_exist() -> None:
    documents = [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]
    links = [
        (document, link)
        for document in documents
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8"))
    ]
    assert len(links) >= 3
    assert [link for document, link in links if not (document.parent / link).exists()] == []
