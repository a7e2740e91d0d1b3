"""The verbs on a network of one's own code, from a checkpoint to an exported file, and on one of a library."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ghostnet
from ghostnet import cli
from ghostnet.models import create_outside

_CODE = """
import torch
from torch import nn

print("loading the code")


class Net(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        )
        self.head = nn.Linear(32, num_classes)

    def forward(self, images):
        return self.head(self.body(images).mean((2, 3)))


def maps():
    return Net().body
"""
_COLOURS = {"blue": (40, 60, 200), "green": (50, 190, 60), "red": (210, 40, 50)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with nets_of_a_user.py, twelve photographs of three classes, and a checkpoint trained on them."""
    root = tmp_path_factory.mktemp("own")
    (root / "nets_of_a_user.py").write_text(_CODE)
    random = np.random.default_rng(0)
    for name, colour in _COLOURS.items():
        (root / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.clip(random.normal(colour, 30, (36, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "photos" / name / f"{number}.png")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(root)
        start = ["--data", "photos", "--model", "nets_of_a_user.py:Net", "--out", "trained"]
        assert (
            cli.run(["train", *start, "image_size=32", "epochs=8", "batch_size=8", "learning_rate=0.1"]) == 0
        )
        trained = create_outside("nets_of_a_user.py:Net", "trained/fine_tune-seed0.safetensors")
        torch.save({"state_dict": trained.state_dict()}, root / "mine.pth")
    yield root
    sys.modules.pop("nets_of_a_user", None)
    sys.path[:] = [place for place in sys.path if place != str(root)]


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert cli.run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert cli.run(list(arguments)) == 2
    return capsys.readouterr().err


def _convert(out: str, *more: str) -> list[str]:
    asked = ["convert", "nets_of_a_user.py:Net", "--weights", "mine.pth", "-o", out]
    return [*asked, "--calibration", "photos", "--input-size", "3,32,32", "--normalisation", "cifar10", *more]


@pytest.fixture(scope="module")
def ghost(folder: Path) -> str:
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        assert cli.run(_convert("ghost.safetensors")) == 0
    return "nets_of_a_user.py:Net=ghost.safetensors"


def test_a_checkpoint_is_converted_and_every_verb_takes_the_result(
    ghost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dense = _json(
        capsys, "eval", "nets_of_a_user.py:Net=trained/fine_tune-seed0.safetensors", "--data", "photos"
    )
    assert dense["top1"] > 90
    assert _json(capsys, "eval", ghost, "--data", "photos", "--result", "r/e.json")["top1"] > 60
    assert json.loads(Path("r/e.json").read_text())["recipe"]["name"] == ghost
    assert (
        _json(capsys, "profile", ghost)["macs"]
        < 0.7 * _json(capsys, "profile", "nets_of_a_user.py:Net")["macs"]
    )
    assert _json(capsys, "export", ghost, "-o", "ghost.onnx")["relative_error"] < 1e-5
    assert json.loads(Path("ghost.onnx.json").read_text())["metadata"]["network"] == ghost
    rows = _json(
        capsys, "bench", "nets_of_a_user.py:Net@plain", ghost, "ghost.onnx", "--input-size", "3,32,32",
        *("--seconds", "0.2", "--cold-starts", "0", "--weights", "nets_of_a_user.py:Net=mine.pth"),
    )  # fmt: skip
    assert [row["name"] for row in rows["rows"]] == ["nets_of_a_user.py:Net@plain", ghost, "ghost.onnx"]
    found = _json(capsys, "predict", ghost, "photos/red/0.png")
    assert len(found[0]["top"]) == 3
    assert _json(capsys, "features", ghost, "photos/red", "--scores")["scores"]["layers"]


def test_its_file_names_what_builds_it(ghost: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = _refused(capsys, "export", "ghost.safetensors", "-o", "alone.onnx")
    assert said.endswith(f"or name what builds it: '{ghost}'\n")
    assert not Path("alone.onnx").exists()
    info = create_outside(ghost).ghostnet_info
    assert (info["built_by"], info["converted_from"]) == ("nets_of_a_user.py:Net", "nets_of_a_user.py:Net")
    assert info["image_size"] == 32


def test_it_is_fine_tuned_taught_and_keeps_its_classifier(
    ghost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [
        "train",
        "--data",
        "photos",
        "--weights",
        ghost,
        "epochs=1",
        "batch_size=8",
        "learning_rate=1e-6",
    ]
    teacher = ["--teacher", "nets_of_a_user.py:Net=mine.pth"]
    labelled = _json(capsys, *common, *teacher, "--out", "tuned")
    assert labelled["metrics"]["top1"] > 60  # a classifier drawn anew knows a third
    assert (labelled["recipe"]["model"], labelled["recipe"]["weights"]) == (
        "nets_of_a_user.py:Net",
        "ghost.safetensors",
    )
    assert labelled["recipe"]["teacher_weights"] == "mine.pth"
    again = create_outside("nets_of_a_user.py:Net", "tuned/fine_tune-seed0.safetensors")
    assert again.ghostnet_info["classes"] == sorted(_COLOURS)
    assert again.ghostnet_info["built_by"] == "nets_of_a_user.py:Net"
    assert _json(capsys, *common, *teacher, "--unlabelled", "--out", "taught")["metrics"]["top1"] > 60


def test_a_recipe_converts_and_trains_it_and_goes_on_when_interrupted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ghostnet.recipes import train as room

    options = ["--data", "photos", "--model", "nets_of_a_user.py:Net=mine.pth", "--out", "half"]
    options += ["image_size=32", "epochs=1", "batch_size=8", "convert_ratio=2", "teacher=dense"]
    with monkeypatch.context() as patched:

        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(room, "fit", interrupted)
        assert cli.run(["train", *options]) != 0
    assert Path("half/fine_tune-seed0.converted.safetensors").is_file()
    found = _json(capsys, "train", *options)
    assert list(found["metrics"]["stages"]) == ["dense", "as converted"]
    assert found["metrics"]["conversion"]["macs_after"] < 0.7 * found["metrics"]["conversion"]["macs_before"]


def test_other_classes_are_for_the_code_to_build(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = here / "two"
    two.mkdir()
    for name in ("blue", "red"):
        (two / name).symlink_to(here / "photos" / name)
    common = ["train", "--data", "two", "--out", "two_runs", "image_size=32", "epochs=1", "batch_size=8"]
    said = _refused(capsys, *common, "--model", "nets_of_a_user.py:Net", "--weights", "mine.pth")
    assert "nets_of_a_user.py:Net tells 3 classes apart and two has 2; let it be built for 2" in said
    found = _json(capsys, *common, "--model", "nets_of_a_user.py:Net(num_classes=2)=mine.pth")
    assert found["metrics"]["count"] == 4
    trained = create_outside("nets_of_a_user.py:Net(num_classes=2)=two_runs/fine_tune-seed0.safetensors")
    assert trained.head.out_features == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("eval nets_of_a_user.py:Net=mine.pth --weights mine.pth --data photos", "names its weights already"),
        ("eval nets_of_a_user.py:Net=none.pth --data photos", "there is no checkpoint none.pth"),
        ("eval nets_of_a_user.py:Nat=mine.pth --data photos", "unknown name in nets_of_a_user.py 'Nat'"),
        ("eval torchvision:resnet18 --data photos", "torchvision:resnet18 is built with random weights here"),
        (
            "convert nets_of_a_user.py:Net=old.safetensors -o old.safetensors --force",
            "is read here and would be lost",
        ),
        ("train --data photos --model nets_of_a_user.py:maps image_size=32", "is no classifier"),
        (
            "train --data photos --model nets_of_a_user.py:Net model_args={width=3}",
            "`model_args` is for networks of",
        ),
        (
            "train --data photos --model nets_of_a_user.py:Net=mine.pth --weights mine.pth",
            "names its weights already",
        ),
        (
            "train --data photos --weights old.safetensors",
            "name what builds it: 'FILE.py:NAME=old.safetensors'",
        ),
        (
            "bench nets_of_a_user.py:Net --weights nets_of_a_user.py:Nat=mine.pth",
            "unknown network in --weights",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ghostnet.save(create_outside("nets_of_a_user.py:Net"), "old.safetensors")
    before = Path("old.safetensors").read_bytes()
    said = _refused(capsys, *line.split())
    assert message in said
    assert said.splitlines()[-1].startswith("ghostnet: ")
    assert Path("old.safetensors").read_bytes() == before


def test_code_without_a_file_is_taken_with_the_weights_it_gives(
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    assert cli.run(["eval", "nets_of_a_user.py:Net", "--data", "photos", "--image-size", "32"]) == 0
    assert "nets_of_a_user.py:Net has the weights that its code gives it" in capsys.readouterr().err


def test_weights_of_timed_networks_whose_names_hold_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    name = "nets_of_a_user.py:Net(num_classes=3)"
    options = ["--input-size", "3,32,32", "--seconds", "0.2", "--cold-starts", "0"]
    assert _json(capsys, "bench", name, "--weights", f"{name}=mine.pth", *options)["rows"]
    said = _refused(capsys, "bench", name, "--weights", f"{name}=none.pth", *options)
    assert "there is no checkpoint none.pth" in said


def test_a_library_s_classifier_of_as_many_classes_stays(capsys: pytest.CaptureFixture[str]) -> None:
    name = "timm:mobilenetv3_small_050"
    trained = create_outside(name)
    trained.reset_classifier(3)
    torch.save(trained.state_dict(), "library.pth")
    common = ["train", "--data", "photos", "--model", name, "--weights", "library.pth", "image_size=32"]
    _json(capsys, *common, "epochs=1", "batch_size=15", "learning_rate=1e-12", "--out", "kept")
    kept = ghostnet.load("kept/fine_tune-seed0.safetensors")
    torch.testing.assert_close(kept.classifier.weight, trained.classifier.weight, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["timm:mobilenetv3_small_050", "torchvision:squeezenet1_1", "timm:resnet10t.c3_in1k"]
)
def test_networks_of_libraries_are_trained_on_classes_of_ones_own(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"library_{name.replace(':', '_')}"
    found = _json(
        capsys,
        "train",
        "--data",
        "photos",
        "--model",
        name,
        "--out",
        out,
        "image_size=64",
        "epochs=1",
        "batch_size=12",
    )
    assert found["metrics"]["count"] == 6
    trained = ghostnet.load(f"{out}/fine_tune-seed0.safetensors")
    assert trained(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    if name.startswith("timm"):
        assert tuple(found["recipe"]["mean"]) == tuple(trained.pretrained_cfg["mean"])
