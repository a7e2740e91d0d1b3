"""int8 exports, exported files in the place of networks, and conversion by plan, from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import ghostnet
from ghostnet import cli

COLOURS = {"blue": (40, 60, 200), "green": (50, 190, 60), "red": (210, 40, 50)}


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert cli.run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def _line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.run(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("ghostnet: ")
    return lines[-1]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images") / "photos"
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(8):
            pixels = np.clip(random.normal(colour, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "net.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)  # how much fine-tuning brings back depends on the weights that are drawn
        model = ghostnet.create_model("resnet20", num_classes=3)
    ghostnet.save(model, path, info={"classes": sorted(COLOURS)})
    return path


@pytest.fixture(scope="module")
def exported(network: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    out = tmp_path_factory.mktemp("int8") / "net.onnx"
    command = ["export", str(network), "-o", str(out), "--precision", "int8", "--calibration", str(photos)]
    assert cli.run([*command, "--calibration-images", "20", "--max-drop", "100"]) == 0
    return out


def test_an_int8_export_says_what_it_cost(exported: Path) -> None:
    manifest = json.loads(exported.with_name("net.onnx.json").read_text())
    assert manifest["precision"] == "int8"
    assert manifest["quantisation"]["images"] == 20
    assert manifest["quantisation"]["top1"] is not None  # class folders are labels
    assert manifest["classes"] == sorted(COLOURS)


def test_int8_without_images(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "net.onnx"
    command = ["export", str(network), "-o", str(out), "--precision", "int8", "--calibration", "synthetic"]
    assert "not on synthetic ones" in _line(capsys, *command, "--fine-tune-epochs", "1")
    assert cli.run([*command, "--calibration-images", "20"]) == 0
    manifest = json.loads(out.with_name("net.onnx.json").read_text())
    assert (manifest["precision"], manifest["quantisation"]["images"]) == ("int8", 20)
    assert manifest["quantisation"]["top1"] is None  # nobody knows what made images show


def test_an_exported_file_is_evaluated_like_a_network(
    exported: Path, network: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "int8" / "net.json"
    found = _json(capsys, "eval", str(exported), "--data", str(photos), "--result", str(result))
    dense = _json(capsys, "eval", str(network), "--data", str(photos))
    assert found["count"] == dense["count"] == 24
    assert found["loss"] == pytest.approx(dense["loss"], rel=0.1)
    metrics = json.loads(result.read_text())["metrics"]
    assert (metrics["runtime"], metrics["precision"]) == ("onnx", "int8")
    assert metrics["bytes"] == exported.stat().st_size
    assert metrics["quantisation"]["images"] == 20
    assert cli.run(["predict", str(exported), str(photos / "red" / "0.png")]) == 0
    assert any(name in capsys.readouterr().out for name in COLOURS)


@pytest.mark.parametrize("suffix", [pytest.param(".onnx", marks=pytest.mark.slow), ".xml"])
def test_fine_tuning_brings_coarse_weights_back_to_the_float_answers(
    network: Path, photos: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip({".onnx": "onnxruntime", ".xml": "openvino"}[suffix])
    target = {".onnx": "onnx", ".xml": "openvino"}[suffix]
    start = ["export", str(network), "--target", target, "--precision", "int8", "--calibration", str(photos)]
    start += ["--calibration-images", "20", "--max-drop", "100", "--weight-bits", "4", "--fine-tune-epochs"]
    found = {
        epochs: _json(capsys, *start, epochs, "-o", str(tmp_path / f"net{epochs}{suffix}"))
        for epochs in ("0", "8")
    }
    assert found["8"]["relative_error"] < 0.8 * found["0"]["relative_error"]
    assert not list(tmp_path.glob("*.checkpoint"))
    manifest = json.loads((tmp_path / f"net8{suffix}.json").read_text())
    assert (manifest["precision"], manifest["quantisation"]["weight_bits"]) == ("int8", 4)
    assert manifest["classes"] == sorted(COLOURS)
    evaluated = _json(capsys, "eval", str(tmp_path / f"net8{suffix}"), "--data", str(photos))
    assert evaluated["count"] == 24


def test_c_takes_no_images_and_is_judged_on_them(
    network: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    start = ["export", str(network), "-o", str(tmp_path / "net.c"), "--target", "c", "--precision", "int8"]
    assert "--max-drop is for --calibration" in _line(capsys, *start, "--max-drop", "2")
    assert "weight_bits (=7) must be 8 for c" in _line(capsys, *start, "--weight-bits", "7")
    assert "is for onnx and openvino, not for c" in _line(capsys, *start, "--fine-tune-epochs", "1")
    assert list(tmp_path.iterdir()) == []
    plain = _json(capsys, *start)
    assert 1e-4 < plain["relative_error"] < 0.1
    calibration = ["--calibration", str(photos), "--calibration-images", "20", "--max-drop", "100"]
    judged = _json(capsys, *start, *calibration, "--force")
    assert judged["bytes"] == pytest.approx(plain["bytes"], rel=0.01)
    assert judged["bytes"] < 0.35 * judged["float_bytes"]
    assert _json(capsys, "eval", str(tmp_path / "net.c"), "--data", str(photos))["count"] == 24


def test_unusable_int8_requests_are_one_line(
    network: Path, exported: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["export", str(network), "-o", str(tmp_path / "x.onnx")]
    int8 = [*start, "--precision", "int8"]
    assert "give --calibration FOLDER" in _line(capsys, *int8)
    assert "--calibration is for --precision int8" in _line(capsys, *start, "--calibration", "cifar10")
    assert "bf16 is chosen when a file runs" in _line(capsys, *start, "--precision", "bf16")
    assert "unknown export precision 'int4'" in _line(capsys, *start, "--precision", "int4")
    assert "there is no folder ./nowhere" in _line(capsys, *int8, "--calibration", "./nowhere")
    assert "did you mean 'cifar10'" in _line(capsys, *int8, "--calibration", "cifar")
    few = [*int8, "--calibration", str(photos / "red")]
    assert "8 calibration images are too few" in _line(capsys, *few)
    assert "--calibration-images (=3) must be at least 16" in _line(capsys, *few, "--calibration-images", "3")
    tuned = [*int8, "--calibration", str(photos), "--fine-tune-epochs"]
    assert "--fine-tune-epochs (=-1.0) must be a finite number" in _line(capsys, *tuned, "-1")
    assert "--fine-tune-epochs is for --precision int8" in _line(capsys, *start, "--fine-tune-epochs", "1")
    images = ["--calibration", str(photos)]
    assert "--weight-bits (=4) must be 7 or 8 without" in _line(capsys, *int8, *images, "--weight-bits", "4")
    assert "--weight-bits is for --precision int8" in _line(capsys, *start, "--weight-bits", "7")
    assert "weight_bits (=9) must be an integer from 2 to 8" in _line(
        capsys, *tuned, "1", "--weight-bits", "9"
    )
    assert "is for onnx and openvino, not for litert" in _line(capsys, *tuned, "1", "--target", "litert")
    assert "--plain rewrites nothing" in _line(capsys, *tuned, "1", "--plain")
    param = [
        "export",
        str(network),
        "-o",
        str(tmp_path / "x.param"),
        "--target",
        "ncnn",
        "--precision",
        "int8",
    ]
    assert "ncnn has no int8 here" in _line(capsys, *param, "--calibration", "cifar10")
    assert "holds its weights already" in _line(capsys, "eval", str(exported), "--weights", "cifar10")
    assert "there is no file" in _line(capsys, "eval", str(tmp_path / "gone.onnx"))
    assert list(tmp_path.iterdir()) == []


def _planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Run a conversion by plan: its code is 1 where nothing gains and nothing is written."""
    code = cli.run([*arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == (0 if found["out"] else 1)
    return found


def test_convert_by_plan_writes_a_network_or_says_that_none_is_worth_it(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    out, result = tmp_path / "ghost.safetensors", tmp_path / "plan" / "net.json"
    found = _planned(
        capsys,
        *("convert", str(network), "-o", str(out), "--plan", "onnx", "--plan-result", str(result)),
        *("--layers", "layer3.1.conv?", "--init", "random"),
    )
    rows = found["plan"]["rows"]
    assert [row["name"] for row in rows] == ["layer3.1.conv1", "layer3.1.conv2"]
    assert all(row["dense_ms"] > 0 and row["ghost_ms"] > 0 for row in rows)
    assert json.loads(result.read_text())["metrics"]["layers"] == found["plan"]["layers"]
    assert found["plan"]["measured_ratio"] <= 1
    if found["plan"]["layers"]:
        ghost = ghostnet.load(out)
        assert all(
            type(ghost.get_submodule(name)).__name__ == "GhostConv2d" for name in found["plan"]["layers"]
        )
        assert isinstance(ghost.get_submodule("layer2.0.conv2"), nn.Conv2d)
    else:
        assert found["out"] is None
        assert not out.exists()


@pytest.mark.slow
def test_a_budget_with_images_measures_costs_and_gives_ratios(
    network: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    out, costs = tmp_path / "ghost.safetensors", tmp_path / "costs.json"
    start = ("convert", str(network), "-o", str(out), "--plan", "onnx", "--budget", "0.999", "--force")
    start += ("--plan-files", str(tmp_path / "files"))  # what was exported for the one is there for the other
    images = ("--calibration", str(photos), "--images", "8", "--layers", "layer3.1.conv1")
    found = _planned(capsys, *start, *images, "--costs", str(costs))
    rows = found["plan"]["rows"]
    assert [set(row["costs"]) for row in rows] == [{"2", "3", "4"}]
    assert [set(row["ghost_times"]) for row in rows] == [{"2", "3", "4"}]
    assert costs.exists()
    found = _planned(capsys, *start, *images, "--ratio", "3")
    assert [set(row["costs"]) for row in found["plan"]["rows"]] == [{"3"}]
    assert set(found["plan"]["ratios"].values()) <= {3}
    assert "--costs keeps what --macs, or --plan with --budget" in _line(
        capsys, *start[:6], "--costs", str(costs), "--force"
    )


@pytest.mark.slow
def test_pruning_by_plan_keeps_whole_blocks_of_channels(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    out, result = tmp_path / "pruned.safetensors", tmp_path / "plan" / "net.json"
    start = ("convert", str(network), "-o", str(out), "--method", "l1", "--plan", "onnx")
    found = _json(capsys, *start, "--budget", "0.85", "--plan-result", str(result))
    assert found["plan"]["met"]
    assert found["plan"]["measured_ratio"] <= 0.85
    assert found["conversion"]["settings"]["multiple"] == 8
    pruned = ghostnet.load(out)
    assert {pruned.get_submodule(f"layer3.{block}.conv1").out_channels % 8 for block in (0, 1, 2)} == {0}
    record = json.loads(result.read_text())
    assert (record["exhibit"], record["recipe"]["method"], record["recipe"]["multiple"]) == ("plan", "l1", 8)
    assert record["metrics"]["share"] == found["plan"]["share"]


def test_unusable_plans_are_one_line(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["convert", str(network), "-o", str(tmp_path / "x.safetensors")]
    assert "unknown export target 'onx'; did you mean 'onnx'" in _line(capsys, *start, "--plan", "onx")
    assert "unknown precision 'int7'" in _line(capsys, *start, "--plan", "onnx:int7")
    assert "--budget (=1.5) must be above 0 and at most 1" in _line(
        capsys, *start, "--plan", "onnx", "--budget", "1.5"
    )
    assert "are for --plan RUNTIME" in _line(capsys, *start, "--budget", "0.5")
    pruning = ("--plan", "onnx", "--method", "l1")
    assert "give it as --budget, such as 0.7" in _line(capsys, *start, *pruning)
    assert "leave out one of them" in _line(capsys, *start, *pruning, "--budget", "0.7", "--macs", "0.5")
    repaired = ("--plan", "onnx", "--method", "channel", "--budget", "0.7", "--calibration", "synthetic")
    assert "measures for method ghost" in _line(
        capsys, *start, *repaired, "--costs", str(tmp_path / "c.json")
    )
    assert "ONNX Runtime runs in fp32 here, not in bf16" in _line(capsys, *start, "--plan", "onnx:bf16")
    assert list(tmp_path.iterdir()) == []
