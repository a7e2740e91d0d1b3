"""Tables, results and the README's generated section."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ghostnet.errors import InputError
from ghostnet.report import demo_table, read_result, read_results, replace_section, runs_section, text_table
from ghostnet.report.tables import BEGIN, END

_DEMO = {
    "schema": 1,
    "exhibit": "demo",
    "command": "ghostnet demo",
    "commit": "abc",
    "environment": {"cpu": "A processor", "cores": 2, "onnxruntime": "1.2"},
    "seconds": 1.0,
    "seed": 3,
    "model": "vgg16",
    "rows": [
        {"name": "dense", "top1": 93.0, "top5": 99.0, "params": 1234567, "macs": 10, "latency_ms": 2.0},
        {"name": "random | init", "top1": 80.5, "top5": 99.0, "params": 1, "macs": 5, "latency_ms": None},
    ],
    "theoretical_speedup": 2.0,
    "measured_speedup": 1.5,
}


def _run(seed: int, top1: float) -> dict[str, object]:
    metrics = {"top1": top1, "params": 1000, "macs": 2000}
    return {
        "schema": 1,
        "exhibit": "dense",
        "seed": seed,
        "seconds": 60,
        "recipe": {"name": "vgg16"},
        "metrics": metrics,
    }


def test_text_table_aligns_numbers_to_the_right() -> None:
    assert text_table(("name", "n"), [("a", "10")]).splitlines() == ["name   n", "--------", "a     10"]


def test_demo_table_shows_a_gap_and_both_speedups() -> None:
    lines = demo_table(_DEMO).splitlines()
    assert "1,234,567" in lines[2]
    assert lines[3].split()[-2:] == ["–", "–"]
    assert lines[-1] == "Speed-up: 2.00 x in MACs, 1.50 x measured (ONNX Runtime, one thread, batch 1)"


def test_runs_section_groups_seeds_and_links_records() -> None:
    results = [(Path(f"dense/vgg16-seed{seed}.json"), _run(seed, 90.0 + seed)) for seed in range(3)]
    section = runs_section([*results, (Path("demo/demo.json"), _DEMO)])
    assert "| vgg16 | – | – | 91.00 ± 1.00 | 3 | 1,000 | 2,000 | 60 |" in section
    assert "[2](results/dense/vgg16-seed2.json)" in section
    assert "random \\| init" in section


def test_runs_of_other_lengths_are_rows_of_their_own() -> None:
    results = []
    for epochs in (12, 22):
        run = {**_run(0, 80.0 + epochs), "recipe": {"name": "vgg16", "epochs": epochs}}
        results.append((Path(f"dense/vgg16_{epochs}-seed0.json"), run))
    section = runs_section(results)
    assert "| vgg16, 12 epochs | – | – | 92.00 | 1 |" in section
    assert "| vgg16, 22 epochs | – | – | 102.00 | 1 |" in section


def test_runs_section_shows_every_stage_of_a_conversion() -> None:
    run = _run(0, 89.5)
    run["metrics"]["stages"] = {"dense": {"top1": 91.73}, "as converted": {"top1": 79.97}}
    section = runs_section([(Path("conversion/vgg16-seed0.json"), run)])
    assert "| vgg16 | 91.73 | 79.97 | 89.50 | 1 |" in section


def test_runs_section_says_what_was_not_run() -> None:
    assert runs_section([]) == "The demo: not run."


def test_replace_section_keeps_the_rest() -> None:
    text = f"before\n{BEGIN}old{END}\nafter\n"
    assert replace_section(text, "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"


@pytest.mark.parametrize("text", ["", BEGIN, END + BEGIN, BEGIN + END + END, BEGIN + BEGIN + END])
def test_replace_section_needs_both_markers_once(text: str) -> None:
    with pytest.raises(InputError, match="once each, in this order"):
        replace_section(text, "new")


def test_read_results_finds_each_exhibit(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "demo.json").write_text(json.dumps(_DEMO))
    assert read_results(tmp_path) == [(Path("demo/demo.json"), _DEMO)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no result file"),
        ("{", "is not JSON"),
        ("[]", "not a result of schema 1"),
        ('{"schema": 2, "exhibit": "demo"}', "not a result of schema 1"),
        ('{"schema": 1, "exhibit": "demo"}', "lacks 'rows'"),
        (json.dumps({**_DEMO, "rows": [{"name": "dense"}]}), "lacks 'top1' in row 0"),
    ],
)
def test_read_result_names_what_is_wrong(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "demo.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_result(path)
