"""Exported files of every runtime stand where a network can be named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from torch import nn

import ghostnet
from ghostnet import InputError, cli
from ghostnet.deploy import export, load
from ghostnet.deploy.targets import TARGETS
from ghostnet.deploy.targets.target import runs_here


def skip_elsewhere(name: str) -> None:
    if not runs_here(TARGETS[name]):
        pytest.skip(f"{TARGETS[name].runtime} does not run on this system")


@pytest.mark.parametrize("name", TARGETS)
def test_a_file_of_any_runtime_is_timed(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = TARGETS[name]
    skip_elsewhere(name)
    for module in (*target.write_modules, target.open_module):
        pytest.importorskip(module)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    path = tmp_path / f"net{target.suffixes[0]}"
    export(network, name, path, input_size=(3, 8, 8))
    assert cli.run(["bench", str(path), "--seconds", "0.05", "--cold-starts", "0", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert (row["runtime"], row["median_ms"] > 0) == (name, True)


@pytest.mark.parametrize("name", TARGETS)
def test_a_file_that_is_none_of_a_runtime_is_called_so(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_elsewhere(name)
    pytest.importorskip(TARGETS[name].open_module)
    path = tmp_path / f"junk{TARGETS[name].suffixes[0]}"
    path.write_text("junk")
    for verb in (["bench", str(path)], ["eval", str(path)]):
        assert cli.run(verb) == 2
        said = capsys.readouterr().err
        assert "safetensors" not in said
        assert "junk" in said


@pytest.mark.parametrize("name", ["NET.ONNX", "net.model", "the net.Onnx"])
def test_an_exported_file_may_be_called_anything(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    path, photo = tmp_path / name, tmp_path / "photo.PNG"
    export(network, "onnx", path, input_size=(3, 8, 8))
    Image.new("RGB", (8, 8), "red").save(photo)
    assert cli.run(["predict", str(path), str(photo), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)[0]["top"]) == 4
    assert cli.run(["bench", str(path), "--seconds", "0.01", "--cold-starts", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["runtime"] == "onnx"


def test_an_ending_in_capitals_without_a_manifest_tells_the_runtime(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    export(network, "onnx", tmp_path / "net.onnx", input_size=(3, 8, 8))
    (tmp_path / "net.onnx").rename(tmp_path / "OTHER.ONNX")
    assert load(tmp_path / "OTHER.ONNX").target == "onnx"
    with pytest.raises(InputError, match=r"must end in .xml for OpenVINO, .ONNX is ONNX Runtime's"):
        export(network, "openvino", tmp_path / "b.ONNX", input_size=(3, 8, 8))


@pytest.mark.parametrize(
    "verb", [["profile"], ["convert", "-o", "a.safetensors"], ["export", "-o", "a.xml"], ["features", "."]]
)
def test_a_verb_that_looks_into_layers_refuses_an_exported_file(
    verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    export(network, "onnx", "net.onnx", input_size=(3, 8, 8))
    Image.new("RGB", (8, 8), "red").save("photo.png")
    assert cli.run([verb[0], "net.onnx", *verb[1:]]) == 2
    captured = capsys.readouterr()
    assert "net.onnx is an exported file" in captured.err
    assert captured.out == ""


def test_a_record_called_like_a_network_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("resnet20.json").write_text("{}")
    assert cli.run(["profile", "resnet20"]) == 0
    assert "params" in capsys.readouterr().out


def test_a_network_is_not_overwritten_by_what_is_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.safetensors"
    ghostnet.save(ghostnet.create_model("resnet20"), path)
    before = path.read_bytes()
    Path("link.onnx").hardlink_to(path)
    for line in (
        ["export", "net.safetensors", "-o", str(path)],
        ["export", "resnet20", "--weights", "net.safetensors", "-o", "link.onnx"],
        ["convert", "net.safetensors", "-o", str(path), "--init", "random"],
        ["convert", "resnet20", "--weights", "net.safetensors", "-o", str(path), "--init", "random"],
        ["eval", "net.safetensors", "--data", "cifar10", "--result", "net.safetensors"],
        ["bench", "net.safetensors", "--result", "net.safetensors"],
        ["detect", "export", "net.safetensors", "-o", "link.onnx"],
        ["detect", "predict", "net.safetensors", ".", "--coco", "net.safetensors"],
        ["detect", "eval", "net.safetensors", "--data", ".", "--out", "net.safetensors"],
    ):
        Image.new("RGB", (8, 8), "red").save("photo.png")
        assert cli.run([*line, "--force"]) == 2, line
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert "is read here and would be lost; name another output" in said[0]
        assert path.read_bytes() == before
    for line in (["convert", "resnet20", "--init", "random", "-o", "."], ["export", "resnet20", "-o", ""]):
        assert cli.run(line) == 2
        assert capsys.readouterr().err == "ghostnet: . is a folder; name a file\n"


def test_a_manifest_that_was_left_makes_no_exported_file_of_a_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.safetensors"
    ghostnet.save(ghostnet.create_model("resnet20"), path)
    Path(f"{path}.json").write_text("{}")
    assert cli.run(["profile", str(path)]) == 0
    assert "params" in capsys.readouterr().out


def test_a_file_for_images_that_are_no_squares_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    ghostnet.save(ghostnet.create_model("resnet20"), "net.safetensors")
    Image.new("RGB", (96, 64), "red").save("photo.png")
    line = ["export", "net.safetensors", "-o", "net.onnx", "--input-size", "3,32,48"]
    assert cli.run(line) == 0
    facts = json.loads(Path("net.onnx.json").read_text())["preprocessing"]
    assert "image_size" not in facts
    assert "mean" in facts
    capsys.readouterr()
    for size in ([], ["--image-size", "32"]):
        assert cli.run(["predict", "net.onnx", "photo.png", *size]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert "takes images of 32x48 pixels (height, width)" in said
    for place in ("synthetic", "."):
        assert cli.run([*line, "--force", "--precision", "int8", "--calibration", place]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert "--calibration prepares images as squares, and the input is 32x48 pixels" in said
