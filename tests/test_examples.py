"""Every script in examples/ runs, on small data."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import json
import math
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import ghostnet
from ghostnet import data

ROOT = Path(__file__).parents[1]
COLOURS = {"blue": (40, 60, 200), "green": (50, 190, 60), "red": (210, 40, 50)}


def _example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _small_network(folder: Path, monkeypatch: pytest.MonkeyPatch, *, images: int) -> Path:
    """Save an untrained network, and let CIFAR-10 be a few random images."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(images) % 10
    monkeypatch.setattr(data, "load_cifar10", lambda _root: data.Cifar10(pixels, labels, pixels, labels))
    network = folder / "network.safetensors"
    torch.manual_seed(0)
    ghostnet.save(ghostnet.create_model("resnet20", width_mult=0.25), network)
    return network


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images") / "photos"
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.clip(random.normal(colour, 40, (20, 20, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def test_every_example_is_tested() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    names = [path.stem for path in (ROOT / "examples").glob("*.py")]
    assert len(names) >= 5
    assert all(f'_example("{name}")' in here for name in names)


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_every_script_finds_what_it_needs_of_this_package(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(path.parent)
    assert importlib.import_module(path.stem).__doc__


def test_photographs(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = _example("photographs")
    table = tmp_path / "images.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("file", "class_index"), ("0.png", 7), ("1.png", 388)])
    example.main(["folders", str(table), str(images / "red"), str(tmp_path / "out")])
    assert sorted(
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")
    ) == [
        "0007/0.png",
        "0388/1.png",
    ]
    network = ghostnet.load("resnet9_050")
    ghostnet.save(network, tmp_path / "network.safetensors")
    given = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        made = network(given).numpy()
    np.savez(tmp_path / "reference.npz", input_0=given.numpy(), output_0=made)
    record = tmp_path / "record.json"
    example.main(
        [
            "reference",
            *(str(tmp_path / name) for name in ("network.safetensors", "reference.npz")),
            str(record),
        ]
    )
    found = json.loads(capsys.readouterr().out)
    assert found["largest_difference"] <= 1e-5 * found["largest_output"]
    assert json.loads(record.read_text())["metrics"] == found
    with pytest.raises(SystemExit, match="do not fit the network"):
        example.fill_in_order_(nn.Conv2d(3, 4, 1), [torch.zeros(2)])


def test_own_network(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    example = _example("own_network")
    seen = _watch_evaluation(monkeypatch)
    example.main([str(images), "--epochs", "4", "--size", "12", "--out", str(tmp_path)])
    assert [len(names) for names in seen] == [12] * 3, "the fifth of each class that is held out"
    lines = capsys.readouterr().out.splitlines()
    assert sum("of the variance lost" in line for line in lines) == 5
    found = {line.rsplit(maxsplit=1)[0].strip(): float(line.rsplit(maxsplit=1)[1]) for line in lines[5:]}
    assert list(found) == ["dense", "as converted", "fine-tuned", "MACs left"]
    assert found["dense"] > 60
    assert found["fine-tuned"] > 60
    assert 0.5 < found["MACs left"] < 0.95
    again = ghostnet.load(tmp_path / "ghost.safetensors", model=example.OwnNetwork(3))
    assert again(torch.zeros(1, 3, 12, 12)).shape == (1, 3)
    assert (tmp_path / "ghost.onnx").is_file()


@pytest.mark.slow
def test_own_network_takes_images_in_train_and_val(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = _example("own_network")
    for part, numbers in (("train", range(18)), ("val", (18, 19))):
        for name in COLOURS:
            (tmp_path / "parts" / part / name).mkdir(parents=True)
            for number in numbers:
                shutil.copy(images / name / f"{number}.png", tmp_path / "parts" / part / name)
    seen = _watch_evaluation(monkeypatch)
    monkeypatch.setattr(ghostnet.deploy, "export", lambda *_args, **_more: None)
    example.run(str(tmp_path / "parts"), 1, 12, tmp_path / "out")
    assert [sorted({Path(name).name for name in names}) for names in seen] == [["18.png", "19.png"]] * 3


def _watch_evaluation(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return a list that gets the names of the images of each evaluation."""
    seen: list[list[str]] = []
    evaluate = ghostnet.evaluate

    def watched(model: nn.Module, batches: data.ImageBatches) -> Any:
        seen.append([batches.source.name(index) for index in range(len(batches.source))])
        return evaluate(model, batches)

    monkeypatch.setattr(ghostnet, "evaluate", watched)
    return seen


def test_filters_against_sgd(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = _example("filters_against_sgd")
    monkeypatch.setattr(example, "LEARNING_RATES", (0.1,))
    record = tmp_path / "record.json"
    example.main(["resnet9_050", str(images / "red" / "0.png"), "features.5", str(record)])
    rows = json.loads(record.read_text())["metrics"]["rows"]
    assert [row["d"] for row in rows] == [1, 3, 5, 7] * 3
    assert all(math.isfinite(row["sgd"]) and row["sgd"] >= row["closed_form"] * (1 - 1e-5) for row in rows)
    assert min(row["ratio"] for row in rows if row["d"] == 1) < 1.01, "SGD does learn one number"
    assert "worst ratio" in capsys.readouterr().out


@pytest.mark.slow
def test_which_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = _example("which_layers")
    network = _small_network(tmp_path, monkeypatch, images=64)
    example.main([str(network), "32", str(tmp_path / "record.json")])
    metrics: dict[str, Any] = json.loads((tmp_path / "record.json").read_text())["metrics"]
    scores = [row["score"] for row in metrics["layers"]]
    assert len(scores) == 19
    assert scores == sorted(scores)
    assert all(row["macs_saved"] > 0 for row in metrics["layers"])
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])) == {"top1_lost", "loss_rise"}


def test_without_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = _example("without_labels")
    network = _small_network(tmp_path, monkeypatch, images=160)
    example.main([str(network), "150", "1", str(tmp_path / "record.json")])
    record: dict[str, Any] = json.loads((tmp_path / "record.json").read_text())
    metrics = record["metrics"]
    assert set(metrics["stages"]) == {"dense", "as converted"}
    assert metrics["count"] == 160
    assert metrics["macs"] < 0.7 * ghostnet.profile(ghostnet.load(network), (3, 32, 32)).macs
    assert record["command"].endswith("network.safetensors 150 1 record.json")
    assert "taught without labels" in capsys.readouterr().out


@pytest.mark.slow
def test_how_many_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = _example("how_many_images")
    monkeypatch.setattr(example, "SYNTHETIC", 4)
    network = _small_network(tmp_path, monkeypatch, images=64)
    example.main([str(network), "2", "0,synthetic,2,32", str(tmp_path / "record.json")])
    record: dict[str, Any] = json.loads((tmp_path / "record.json").read_text())
    assert [row["images"] for row in record["metrics"]["converted"]] == [0, 4, 2, 32]
    assert len({row["loss"] for row in record["metrics"]["converted"]}) == 4
    assert record["metrics"]["dense"]["count"] == 64
    assert record["command"].endswith("network.safetensors 2 0,synthetic,2,32 record.json")
    assert capsys.readouterr().out.splitlines()[0].lstrip().startswith("dense ")
