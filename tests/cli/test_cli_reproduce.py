"""`ghostnet reproduce` for every exhibit: the list, counts, Table 2 and figures, and one line for bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ghostnet
from ghostnet import cli
from ghostnet.cli.exhibit_runs import RUNS, table1_rows, table6_rows
from ghostnet.recipes import plan
from ghostnet.report import CATALOGUE


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((64, 64)).save("photo.png")
    return tmp_path


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert cli.run(["reproduce", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_exhibit_has_a_way_to_run_or_says_what_it_takes(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = _json(capsys, "--list")
    assert [row["exhibit"] for row in rows] == list(CATALOGUE)
    assert {row["state"] for row in rows} == {"not run"}
    assert all(row["needs"] for row in rows)
    assert cli.run(["reproduce", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 * len(CATALOGUE)
    assert set(CATALOGUE) == set(RUNS) | {"table3", "table4", "table5", "short", "short_sweep"}
    assert not (here / "results").exists()


@pytest.mark.usefixtures("here")
def test_answers_of_several_kinds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["reproduce", "table5", "--list", "--count"]) == 2
    assert "--list and --count are different answers; ask for one" in capsys.readouterr().err


def test_known_step_times_give_the_hours_left(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = plan.make_plan([("vgg16", "")], "results")
    cache = {f"{name}{plan._on_this_machine()}": 3600.0 for name in ("vgg16", "vgg16_long")}
    Path("times.json").write_text(json.dumps({**cache, "vgg16 on another machine, 1 threads": 1.0}))
    assert plan.known_step_seconds("times.json") == {"vgg16": 3600.0, "vgg16_long": 3600.0}
    assert plan.known_step_seconds("none.json") == {}
    assert runs[0].steps > 1000
    (row, _) = _json(capsys, "table3", "table4", "--list")
    assert row["time"] == "`reproduce table3 --list` times it"
    timed = here / "runs" / "reproduce" / "step_seconds.json"
    timed.parent.mkdir(parents=True)
    timed.write_text(Path("times.json").read_text())
    (row, _) = _json(capsys, "table3", "table4", "--list", "--only", "vgg16")
    assert row["time"] == f"{runs[0].steps:,}.0 h left"


def test_counted_exhibits(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, "table1", "figure6", "--results", "made")
    assert found["table1"]["state"] == "done"
    assert found["figure6"]["records"] == ["table7/counts.json"]
    path = here / "made" / "table1" / "counts.json"
    before = path.read_text()
    assert json.loads(before)["exhibit"] == "table1"
    assert cli.run(["reproduce", "table1", "--results", "made"]) == 0
    assert "G-bneck" in capsys.readouterr().out
    assert path.read_text() == before, "what is done is not run again"
    rows = {row["exhibit"]: row for row in _json(capsys, "--list", "--results", "made")}
    assert rows["table1"]["state"] == "done"
    assert rows["table1"]["time"].startswith("took ")
    assert rows["table7"]["state"] == "partly"


def test_table1_is_the_network_that_runs() -> None:
    rows = table1_rows()
    assert len(rows) == 21
    assert all(row["agrees"] for row in rows)
    assert (rows[4]["input"], rows[4]["expansion"], rows[4]["out_channels"]) == ("56x56x24", 72, 40)
    assert (rows[4]["se"], rows[4]["stride"]) == (1, 2)


def test_table6_states_the_discrepancy() -> None:
    rows = {row["row"]: row for row in table6_rows()}
    assert {name: row["status"] for name, row in rows.items()} == {
        "ResNet-50": "agrees",
        "Ghost-ResNet-50 (s=2)": "differs",
        "Ghost-ResNet-50 (s=4)": "differs",
    }
    assert round(rows["Ghost-ResNet-50 (s=2)"]["params"] / 1e6, 2) == 13.95
    assert round(rows["Ghost-ResNet-50 (s=4)"]["macs"] / 1e9, 2) == 1.18
    assert "no definition" in rows["Ghost-ResNet-50 (s=4)"]["reason"]


def test_table2_and_figures_on_any_network(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ghost, _ = ghostnet.ghostify(ghostnet.load("resnet9_050"), init="random")
    ghostnet.save(ghost, "ghost.safetensors")
    common = ("--images", "photo.png", "--credit", "me, CC0")
    found = _json(capsys, "table2", "figure1", "figure5", "--network", "resnet9_050", *common)
    assert {key: value["state"] for key, value in found.items()} == dict.fromkeys(found, "partly")
    assert found["table2"]["records"] == ["features/table2_resnet9_050.json"]
    drawn = _json(capsys, "figure4", "--network", "ghost.safetensors", "--layer", "features.3", *common)
    assert drawn["detail"] == "on ghost.safetensors"
    record = json.loads((here / "results" / "features" / "figure4_ghost.json").read_text())
    assert (record["metrics"]["intrinsic"], record["metrics"]["ghosts"]) == (32, 32)
    assert record["pictures"] == ["figure4_ghost.png"]
    assert record["credit"] == "me, CC0"
    for key, network in (("figure1", "resnet9_050"), ("figure4", "ghost"), ("figure5", "resnet9_050")):
        with Image.open(here / "results" / "features" / f"{key}_{network}.png") as picture:
            assert picture.size[0] > 400
    assert cli.run(["reproduce", "table2"]) == 0, "a record is there: nothing is needed"
    assert "map " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name an exhibit"),
        (("figure8",), "unknown exhibit 'figure8'; did you mean"),
        (("table2",), "table2 needs a trained network and images"),
        (("figure1", "--network", "resnet9_050"), "figure1 needs images to look at"),
        (("figure4", "--network", "resnet9_050", "--images", "photo.png"), "is no Ghost convolution's"),
        (("table2", "--network", "resnet9_050", "--images", "none.png"), "there is no image none.png"),
        (("table2", "--limit", "0"), "--limit (=0) must be"),
        (("table2", "--network", "nothing.npz", "--images", "photo.png"), "there is no file nothing.npz"),
        (("table3", "--only", "resnet"), "unknown row 'resnet'"),
        (("--list", "--jobs", "0"), "`jobs` (=0) must be an integer >= 1"),
        (("short", "--list", "--jobs", "0"), "`jobs` (=0) must be an integer >= 1"),
        (("short", "--show", "--jobs", "-1"), "`jobs` (=-1) must be an integer >= 1"),
        (("--list", "--seeds", "0"), "`seeds` (=0) must be an integer >= 1"),
        (("short", "--list", "--together", "--jobs", "2"), "`together` trains seeds in one process"),
    ],
)
def test_bad_input(
    here: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["reproduce", *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert here
