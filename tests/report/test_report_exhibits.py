"""Every exhibit from records alone: states, sheets, points, one page; bad records cost one line each."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ghostnet import cli
from ghostnet.errors import InputError
from ghostnet.paper import table
from ghostnet.report import (
    CATALOGUE,
    exhibit_text,
    exhibits_page,
    read_results,
    records_of,
    sheets_of,
    state_of,
)
from ghostnet.report.points import figure6, figure7
from ghostnet.report.scatter import scatter

_ROOT = Path(__file__).parents[2]


def _record(exhibit: str, metrics: dict[str, Any], name: str = "x", **more: Any) -> dict[str, Any]:
    common = {"schema": 1, "command": "ghostnet x", "seconds": 2.0, "seed": 0, "recipe": {"name": name}}
    return {**common, "exhibit": exhibit, "metrics": metrics, "environment": {"cpu": "A"}, **more}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    shutil.copytree(_ROOT / "results", tmp_path / "results")
    return tmp_path / "results"


def test_catalogue_holds_every_exhibit_of_the_paper() -> None:
    wanted = [
        *(f"table{number}" for number in range(1, 9)),
        *(f"figure{number}" for number in (1, 4, 5, 6, 7)),
    ]
    assert sorted(CATALOGUE) == sorted([*wanted, "short", "short_sweep"])
    with pytest.raises(InputError, match="unknown exhibit 'tabel3'; did you mean 'table3'"):
        state_of("tabel3", [])
    with pytest.raises(InputError, match="unknown exhibit 'figure2'"):
        sheets_of("figure2", [])


def test_without_records_nothing_is_run_and_every_page_part_says_so() -> None:
    for key in CATALOGUE:
        state = state_of(key, [])
        assert (state.word, state.seconds, state.records) == ("not run", None, ())
        assert CATALOGUE[key].title in exhibit_text(key, [])
    page, problems = exhibits_page([], "nowhere")
    assert problems == []
    assert len(re.findall("<section", page)) == len(CATALOGUE) + 2
    for printed in ("93.7", "73.9", "24.3", "26.6", "1,280" if "1,280" in page else "1280"):
        assert printed in page, "the paper's numbers stand there without ours"


def test_committed_records_answer_exhibits() -> None:
    found = read_results(_ROOT / "results")
    words = {key: state_of(key, found).word for key in CATALOGUE}
    assert {key for key, word in words.items() if word == "done"} >= {"table1", "table2", "figure1"}
    assert words["figure6"] == words["table7"] == "partly"
    assert state_of("table1", found).detail == "21 of 21 layers agree"
    assert len(records_of("table2", found)) >= 2
    assert "resnet50" in records_of("table2", found)[0][0].name
    text = exhibit_text("table2", found)
    assert re.search(r"^red +4\.0 +3\.3 +3\.3 +3\.2$", text, re.MULTILINE)
    assert "Record: features/table2_resnet9_050.json" in text


def test_table2_of_real_networks_falls_to_d3_and_little_after() -> None:
    """The experiment of the paper on what we measured: not the fits, the records."""
    studies = [
        result["metrics"]["table2"] for _, result in records_of("table2", read_results(_ROOT / "results"))
    ]
    assert len(studies) >= 3
    for study in studies:
        best = study["best_partner"]
        assert best["3"] < 0.92 * best["1"]
        assert best["3"] - best["7"] < 0.5 * (best["1"] - best["3"])
        for pair in study["pairs"]:
            assert pair["mse"]["1"] > pair["mse"]["3"] > pair["mse"]["5"] > pair["mse"]["7"]


def test_a_ghost_networks_two_most_alike_pairs_are_maps_and_their_ghosts() -> None:
    records = dict(read_results(_ROOT / "results"))
    study = records[Path("features/table2_ghost_resnet56.json")]["metrics"]["table2"]
    half = study["channels"] // 2
    same = [{pair["source"] % half, pair["target"] % half} for pair in study["pairs"]]
    assert [len(pair) for pair in same] == [1, 1, 2]


def test_a_counted_table_shows_differences_and_reasons() -> None:
    rows = [
        {
            "row": "GhostNet 1.0x",
            "params": 5_500_000,
            "macs": 150_000_000,
            "status": "differs",
            "reason": "why",
        }
    ]
    found = [(Path("table7/counts.json"), _record("table7", {"rows": rows}))]
    sheet = sheets_of("table7", found)[0]
    row = next(row for row in sheet.rows if row[0] == "GhostNet 1.0x")
    assert row[1:7] == ("5.2", "5.50", "+0.30", "141", "150.0", "+9.00")
    assert row[7:9] == ("73.9", "not run")
    assert sheet.notes == ("GhostNet 1.0x: why",)
    assert state_of("table7", found).detail.startswith("1 networks counted, 0 agree")


def test_points_of_both_plots() -> None:
    rows = [{"row": "GhostNet 1.0x", "name": "ghostnet_100", "params": 1, "macs": 141_100_000}]
    timed = [
        {"name": "ghostnet_100.onnx", "runtime": "ncnn", "precision": "int8", "median_ms": 4.5},
        {"name": "mine", "median_ms": 3, "top1": 70.0},
        {"name": "no latency"},
        {"name": "two", "median_ms": 2.0, "top1": 71.0, "threads": 2},
    ]
    found = [
        (Path("table7/counts.json"), _record("table7", {"rows": rows})),
        (Path("deploy/a.json"), _record("deploy", {"rows": timed, "runtime": "openvino"})),
    ]
    sixth = figure6(found)
    assert len(sixth) == len(table(7)) + 1
    assert (sixth[-1].kind, sixth[-1].x, sixth[-1].top1, sixth[-1].family) == (
        "counted here",
        141.1,
        73.9,
        "GhostNet",
    )
    other = (
        Path("training/step.json"),
        _record("training", {"rows": [{"name": "no runtime", "median_ms": 1.0}]}),
    )
    assert figure7([*found, other]) == figure7(found)
    assert figure7(found)[-1].kind == "OpenVINO, 2 threads"
    seventh = figure7(found)[-3:-1]
    assert [(point.name, point.kind, point.x) for point in seventh] == [
        ("GhostNet 1.0x", "ncnn int8", 4.5),
        ("mine", "OpenVINO", 3.0),
    ]
    assert [(point.top1, point.top1_source) for point in seventh] == [(73.9, "the paper's"), (70.0, "ours")]
    assert "not on the paper's phone" in state_of("figure7", found).detail
    svg = scatter(seventh, x_label="latency", y_label="top-1", name="Fig. 7")
    places = {float(x) for x in re.findall(r'cx="([\d.]+)"', svg)}
    assert len(places) == 2
    assert all(56 <= x <= 664 for x in places)
    assert "No points" in scatter([], x_label="", y_label="", name="")


def test_page_is_whole_and_escapes_and_embeds_pictures(results: Path) -> None:
    record = json.loads((results / "features" / "figure5_resnet9_050.json").read_text())
    record["credit"] = "<script>alert(1)</script>"
    record["command"] = "ghostnet <b>"
    record["metrics"]["network"] = '"><script>'
    (results / "features" / "figure5_resnet9_050.json").write_text(json.dumps(record))
    page, problems = exhibits_page(read_results(results), results)
    assert problems == []
    assert page.count("<script") == 1
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,|#)', page)
    assert page.count('src="data:image/png') == len(list(results.glob("features/figure*.png")))
    assert 'name="viewport"' in page


def test_commands_are_set_as_code_and_shares_above_one_are_explained() -> None:
    found = read_results(_ROOT / "results")
    page, _ = exhibits_page(found, _ROOT / "results")
    assert "needs <code>ghostnet bench … --result results/figure7/…json</code>." in page
    assert "`" not in page
    text = exhibit_text("table2", found)
    papers = (
        "from d = 1 to 3 by: red 18 %, green 3 %, blue 7 %; from 3 to 7 by: red 3 %, green 2 %, blue 2 %."
    )
    assert papers in text
    parts = text.split("Ours: ")[1:]
    assert len(parts) >= 3
    for part in parts:
        shares = re.findall(r"share of variance +([\d.]+)", part)
        assert ("A share above 1" in part) == (max(map(float, shares)) > 1)
    assert sum("A share above 1" in part for part in parts) in range(1, len(parts))


def test_pictures_and_records_that_cannot_be_used(results: Path) -> None:
    (results / "features" / "figure5_resnet9_050.png").write_text("text")
    picture = next(results.glob("features/figure4*.png"))
    picture.unlink()
    broken = json.loads((results / "table1" / "counts.json").read_text())
    broken["metrics"] = {"rows": [{"agrees": True}]}
    (results / "table1" / "counts.json").write_text(json.dumps(broken))
    page, problems = exhibits_page(read_results(results), results)
    assert len(problems) == 3
    text = "\n".join(problems)
    assert "figure5_resnet9_050.png is no PNG" in text
    assert f"{picture.name} is not there" in text
    assert f"{results / 'table1' / 'counts.json'} cannot be shown (KeyError: " in text
    assert "Not shown:" in page
    assert state_of("table1", []).detail in page


@pytest.fixture
def repository(results: Path) -> Path:
    shutil.copytree(_ROOT / "docs", results.parent / "docs")
    shutil.copy(_ROOT / "README.md", results.parent / "README.md")
    return results.parent


def test_report_names_each_bad_record_and_reports_the_rest(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "results" / "demo" / "broken.json").write_text('{"schema": 1,')
    (repository / "results" / "table7" / "newer.json").write_text('{"schema": 2, "exhibit": "table7"}')
    (repository / "results" / "table7" / "poor.json").write_text('{"schema": 1, "exhibit": "table7"}')
    (repository / "results" / "table7" / "zip.json").mkdir()
    (repository / "results" / "table7" / "deep.json").write_text("[" * 100_000)
    timed = json.loads((repository / "results" / "figure7" / "table7_mnn.json").read_text())
    timed["metrics"]["rows"][0]["top1"] = 9000
    (repository / "results" / "figure7" / "odd.json").write_text(json.dumps(timed))
    assert cli.run(["report", "--root", str(repository)]) == 1
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert len(lines) == 6
    assert all(line.startswith("not reported: ") for line in lines)
    assert "broken.json is not JSON" in lines[0]
    assert "deep.json is not JSON (maximum recursion depth" in lines[1]
    assert "of schema 1 but of 2: a newer ghostnet wrote it" in lines[2]
    assert "poor.json lacks 'command'" in lines[3]
    assert "zip.json cannot be read: Is a directory" in lines[4]
    assert "odd.json cannot be shown (ValueError: a top-1 of 9000 % lies outside 0 and 100)" in lines[5]
    page = (repository / "runs" / "report.html").read_text(encoding="utf-8")
    assert "broken.json" in page
    assert "92.77" in page
    assert printed.out.startswith("regenerated: nothing\n"), (
        "the committed documents come from the other records"
    )


def _spoilt(value: Any, how: str) -> Any:
    """Return metrics whose lists and objects hold something else, or no metrics at all."""
    if how == "no object":
        return None
    wrong: dict[str, Any] = {"list": [{"x": None}], "text": "text"}
    return {key: wrong[how] if isinstance(entry, list | dict) else entry for key, entry in value.items()}


@pytest.mark.parametrize(
    "how", [*(pytest.param(how, marks=pytest.mark.slow) for how in ("list", "text")), "no object"]
)
def test_a_record_with_the_wrong_content_costs_one_line(
    repository: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    results = repository / "results"
    found = [
        path for path, _ in read_results(results) if path.parts[0] not in ("demo", "deploy", "data_loading")
    ]
    kept = {path.parts[0]: path for path in found}
    kept |= {path.stem.partition("_")[0]: path for path in found if path.parts[0] == "features"}
    kept |= {
        path.stem: path for path in found if path.stem.startswith("resnet9_050-onnx")
    }  # int8 beside float
    for path in {*found} - {*kept.values()}:
        (results / path).unlink()
    assert len(kept) > 20
    broke = 0
    for path in kept.values():
        text = (results / path).read_text(encoding="utf-8")
        record = json.loads(text)
        (results / path).write_text(json.dumps({**record, "metrics": _spoilt(record["metrics"], how)}))
        code = cli.run(["report", "--root", str(repository)])
        lines = capsys.readouterr().err.splitlines()
        (results / path).write_text(text, encoding="utf-8")
        bad = [line for line in lines if not line.endswith(" regenerated")]
        assert code == (1 if bad else 0), lines
        assert len(bad) <= 1, lines
        assert all(line.startswith("not reported: ") for line in bad), lines
        assert "int8" in path.parts or all(str(results / path) in line for line in bad), lines
        broke += len(bad)
    assert broke >= (len(kept) if how == "no object" else 5)


def test_reproduce_lists_the_rest_beside_a_record_with_the_wrong_content(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = results / "table8" / "counts.json"
    record = json.loads(place.read_text(encoding="utf-8"))
    place.write_text(json.dumps({**record, "metrics": {"rows": "text"}}), encoding="utf-8")
    assert cli.run(["reproduce", "--list", "--results", str(results)]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 2 * len(CATALOGUE)
    assert printed.err.startswith(f"not read: {place} cannot be shown (TypeError: ")
    assert len(printed.err.splitlines()) == 1
    assert cli.run(["reproduce", "table8", "table1", "--show", "--results", str(results)]) == 0
    printed = capsys.readouterr()
    assert "224x224x3" in printed.out
    assert f"{place} cannot be shown" in printed.err


def test_report_of_results_alone_touches_nothing_else(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["report", "--results", "results", "--page", "a/page.html", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"regenerated": [], "page": "a/page.html"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "results"]
    for arguments, message in (
        (["--results", "none"], "there is no folder none"),
        (["--check", "--page", "x.html"], "--check looks at a repository's documents"),
        ([], "there is no README.md; give the repository with --root, or results alone"),
        (["--results", "results", "--page", "notes.html"], "notes.html exists; pass --force"),
        (["--results", "results", "--force"], "--force is for a page elsewhere, with --page FILE"),
    ):
        (tmp_path / "notes.html").write_text("mine", encoding="utf-8")
        assert cli.run(["report", *arguments]) == 2
        assert message in capsys.readouterr().err
        assert (tmp_path / "notes.html").read_text(encoding="utf-8") == "mine"
    assert cli.run(["report", "--results", "results", "--page", "notes.html", "--force"]) == 0
    assert "GhostNet, reproduced" in (tmp_path / "notes.html").read_text(encoding="utf-8")
    assert results.is_dir()


def test_report_works_where_torch_cannot_be_imported(repository: Path) -> None:
    """An import hook stands for an environment without torch; numpy and everything that needs it is missing too."""
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "timm", "numpy", "scipy", "PIL", "matplotlib"}:
            raise ModuleNotFoundError(f"no {name} here")
sys.meta_path.insert(0, Missing())
from ghostnet import cli
sys.exit(cli.run(["report", "--root", sys.argv[1]]))
"""
    (repository / "docs" / "cli.md").unlink()
    done = subprocess.run(
        [sys.executable, "-c", code, str(repository)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("regenerated: docs/cli.md\n")
    assert (repository / "docs" / "cli.md").read_text() == (_ROOT / "docs" / "cli.md").read_text()
    assert (repository / "runs" / "report.html").stat().st_size > 100_000


def test_table8_joins_counts_and_trained_rows() -> None:
    named = {"backbone": "GhostNet 1.1x", "detector": "RetinaNet"}
    found = [
        (Path("table8/a-seed0.json"), _record("table8", {"rows": [{**named, "map": 26.1}]})),
        (Path("table8/counts.json"), _record("table8", {"rows": [{**named, "backbone_macs": 164_480_000}]})),
    ]
    sheet = sheets_of("table8", found)[0]
    row = next(row for row in sheet.rows if row[:2] == ("RetinaNet", "GhostNet 1.1x"))
    assert row[2:] == ("164", "164.5", "26.6", "26.1", "-0.5")
    assert "1 of 6" in state_of("table8", found).detail


def test_page_shows_how_well_the_scores_and_the_closed_form_do() -> None:
    layers = [{"layer": "conv1", "score": 0.125, "top1_lost": 1.5, "loss_rise": 0.25}]
    single = {
        "network": "n",
        "count": 2000,
        "layers": layers,
        "rank_correlation": {"top1_lost": 0.5, "loss_rise": None},
    }
    fits = [{"pair": [3, 4], "d": 5, "closed_form": 0.001, "sgd": 0.002, "ratio": 2.0}]
    learnt = {"network": "n", "layer": "conv1", "steps": 500, "rows": fits}
    found = [
        (Path("features/single_n.json"), _record("features", single, "single_n")),
        (Path("features/sgd_n.json"), _record("features", learnt, "sgd_n")),
    ]
    page, problems = exhibits_page(found, "nowhere")
    assert problems == []
    assert "0.50 with top-1 lost, – with the loss (1 layers)" in page
    assert "3 to 4, d = 5</td><td>1.000</td><td>2.000</td><td>2.000" in page
    assert state_of("figure7", found).word == "not run"


def test_page_shows_scores_at_the_ratio_that_they_were_made_for() -> None:
    layer = {
        "name": "conv1",
        "channels": 16,
        "map_size": [8, 8],
        "macs": 1e6,
        "ghost_error": 0.25,
        "alike": 0.5,
    }
    layers = [{**layer, "name": "conv2", "ghost_error": 0.125}, layer]
    metrics = {"network": "resnet56", "scores": {"layers": layers[::-1], "ratio": 3, "skipped": {}}}
    page, problems = exhibits_page([(Path("features/x.json"), _record("features", metrics))], "nowhere")
    assert problems == []
    cells = re.findall(r"<t[hd][^>]*>([^<]+)</t[hd]>", page[page.index("Which layers") :])
    assert cells[:6] == ["layer", "maps", "size", "MACs M", "lost at s=3", "alike %"]
    assert [cells[6:12], cells[12]] == [["conv2", "16", "8x8", "1.0", "0.125", "50"], "conv1"]


def test_committed_scores_order_layers_as_the_accuracy_lost_does() -> None:
    records = dict(read_results(_ROOT / "results"))
    metrics = records[Path("features/single_resnet9_050.json")]["metrics"]
    assert metrics["rank_correlation"]["top1_lost"] > 0.8


def test_committed_closed_forms_are_never_worse_than_500_steps_of_sgd() -> None:
    learnt = [
        result["metrics"]
        for path, result in read_results(_ROOT / "results")
        if path.name.startswith("sgd_") and result["exhibit"] == "features"
    ]
    assert {metrics["network"] for metrics in learnt} >= {"resnet9_050"}
    for metrics in learnt:
        assert metrics["steps"] == 500
        assert len(metrics["rows"]) == 12
        assert all(row["closed_form"] <= row["sgd"] * (1 + 1e-9) for row in metrics["rows"])
