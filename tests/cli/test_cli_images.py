"""The verbs on images of one's own: train, eval and predict on a folder and on shards, bad images included."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

import ghostnet
from ghostnet import InputError, cli, train
from ghostnet.cli.calibration import folder_images
from ghostnet.cli.features import read_images
from ghostnet.cli.images import class_names, count_classes, labelled_for, preprocessing_for
from ghostnet.data import Preprocessing
from ghostnet.train.objective import Classification

COLOURS = {"blue": (40, 60, 200), "green": (50, 190, 60), "red": (210, 40, 50)}


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert cli.run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images") / "photos"
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.clip(random.normal(colour, 30, (36, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.jpg", quality=95)
    return root


@pytest.fixture(scope="module")
def network(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("runs")
    options = ["epochs=6", "batch_size=8", "--data", str(photos), "--model", "resnet20", "--out", str(out)]
    assert cli.run(["train", *options]) == 0
    return str(out / "fine_tune-seed0.safetensors")


def test_training_from_nothing_says_so(
    network: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (start, said) in enumerate(
        ((["--model", "resnet20"], True), (["--weights", network], False))
    ):
        out = ["--out", str(tmp_path / str(number))]
        assert cli.run(["train", "--data", str(photos), *start, "epochs=1", "batch_size=8", *out]) == 0
        assert ("resnet20 starts from random weights; --weights names" in capsys.readouterr().err) == said


def test_folder_and_shards_evaluate_alike(
    network: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, record = str(tmp_path / "shards"), tmp_path / "photos" / "record.json"
    written = _json(capsys, "data", "shards", str(photos), shards, "--images-per-shard", "10")
    assert (written["images"], written["classes"], written["shards"]) == (36, 3, 4)
    folder = _json(capsys, "eval", network, "--data", str(photos), "--result", str(record))
    sharded = _json(capsys, "eval", network, "--data", shards, "--workers", "1")
    assert folder["count"] == 36
    for key in ("top1", "top5", "count"):
        assert folder[key] == sharded[key]
    assert folder["loss"] == pytest.approx(sharded["loss"], abs=1e-5)
    kept = json.loads(record.read_text())
    assert kept["metrics"]["top1"] == folder["top1"]
    assert (kept["exhibit"], kept["recipe"]["image_size"]) == ("photos", 32)
    assert cli.run(["eval", network, "--data", shards, "--result", str(record)]) == 2
    assert "pass --force" in capsys.readouterr().err


def test_predict_names_classes_with_probabilities(
    network: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = _json(capsys, "predict", network, str(photos), "--top-k", "9")
    assert [row["image"] for row in rows] == [str(path) for path in sorted(photos.rglob("*.jpg"))]
    right = [row["top"][0]["class"] == Path(row["image"]).parent.name for row in rows]
    assert sum(right) > 24
    for row in rows:
        values = [entry["probability"] for entry in row["top"]]
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-4)
        assert {entry["class"] for entry in row["top"]} == set(COLOURS)
    image = str(photos / "red" / "3.jpg")
    assert cli.run(["predict", network, image, "--top-k", "1"]) == 0
    assert "%" in capsys.readouterr().out


def test_an_image_that_cannot_be_opened_is_skipped_and_named(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    locked, plain = photos / "red" / "1.jpg", Path.read_bytes

    def read_bytes(path: Path) -> bytes:  # no permission keeps root, as which tests may run, from reading
        if path == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    model, wanted, paths = (
        ghostnet.create_model("resnet20"),
        Preprocessing(32, 1.0),
        [photos / "red/0.jpg", locked],
    )
    line = f"skipped {locked}: Permission denied\n"
    found = train.predict(model, paths, wanted)
    assert [prediction.error for prediction in found] == ["", "Permission denied"]
    assert capsys.readouterr().err == line
    with pytest.raises(InputError, match=r"1.jpg cannot be read as an image: Permission denied"):
        train.predict(model, paths, wanted, strict=True)
    assert len(read_images(paths, wanted)[0]) == 1
    assert capsys.readouterr().err == line
    assert len(folder_images(model, str(photos / "red"), 99, wanted)[0]) == 11
    assert capsys.readouterr().err == line


def test_bad_images_are_named(
    network: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = photos / "red" / "0.jpg", tmp_path / "cut.jpg"
    bad.write_bytes(good.read_bytes()[:300])
    assert cli.run(["predict", network, str(good), str(bad), "--json"]) == 0
    captured = capsys.readouterr()
    assert f"skipped {bad}" in captured.err
    rows = json.loads(captured.out)
    assert "truncated" in rows[1]["error"].lower()
    assert rows[0]["top"]
    for arguments in ([str(good), str(bad), "--strict"], [str(bad)]):
        assert cli.run(["predict", network, *arguments]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert f"{bad} cannot be read as an image" in lines[-1]
        assert len(lines) == 1 or "--strict" in arguments
    folder = tmp_path / "val" / "red"
    folder.mkdir(parents=True)
    (folder / "cut.jpg").write_bytes(bad.read_bytes())
    (folder / "good.jpg").write_bytes(good.read_bytes())
    assert cli.run(["eval", network, "--data", str(tmp_path)]) == 0
    assert "1 images, 1 skipped" in capsys.readouterr().out
    assert cli.run(["eval", network, "--data", str(tmp_path), "--strict"]) == 2


def test_classes_that_the_network_does_not_know(
    network: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rad").symlink_to(photos / "red")
    assert cli.run(["eval", network, "--data", str(tmp_path)]) == 2
    assert "was not trained on 'rad'; did you mean 'red'" in capsys.readouterr().err


def test_an_empty_folder_is_told(network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["predict", network, str(tmp_path)]) == 2
    assert "holds no images" in capsys.readouterr().err


def test_thousand_classes_have_imagenets_names() -> None:
    names = class_names(nn.Identity(), 1000)
    assert (len(names), names[0], names[388]) == (1000, "tench", "giant panda")
    assert class_names(nn.Identity(), 2) == ["class 0", "class 1"]


def test_preprocessing_comes_from_options_then_the_file_then_the_size() -> None:
    model = nn.Identity()
    assert preprocessing_for(model).to_dict()["mean"] == [0.485, 0.456, 0.406]
    assert preprocessing_for(model, image_size=96, normalisation="half").to_dict() == {
        "image_size": 96,
        "crop_fraction": 0.875,
        "interpolation": "bilinear",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    small = ghostnet.create_model("resnet20")
    assert (preprocessing_for(small).size, preprocessing_for(small).crop_fraction) == (32, 1.0)
    small.ghostnet_info = {"image_size": 40, "interpolation": "bicubic", "mean": [0.1] * 3, "std": [1.0] * 3}
    found = preprocessing_for(small)
    assert (found.size, found.interpolation, found.mean) == (40, "bicubic", (0.1, 0.1, 0.1))


def test_networks_of_timm_say_how_they_want_their_images() -> None:
    timm = pytest.importorskip("timm")
    found = preprocessing_for(timm.create_model("tf_efficientnet_lite0", pretrained=False))
    assert (found.mean, found.interpolation, found.crop_fraction) == ((0.5,) * 3, "bicubic", 0.875)


def test_class_names_that_are_numbers_are_names(tmp_path: Path) -> None:
    network = nn.Identity()
    network.ghostnet_info = {"classes": ["10", "20", "50"]}  # type: ignore[assignment]
    for name in ("10", "100", "20"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    with pytest.raises(ghostnet.InputError, match=r"was not trained on '100'"):
        labelled_for(network, str(tmp_path), 3)
    (tmp_path / "100").rename(tmp_path / "50")
    assert list(labelled_for(network, str(tmp_path), 3).labels) == [0, 1, 2]
    network.ghostnet_info = {"classes": ["0", "1", "2"]}  # type: ignore[assignment]  # numbers all the same
    for name, other in (("10", "00"), ("20", "01"), ("50", "02")):
        (tmp_path / name).rename(tmp_path / other)
    assert list(labelled_for(network, str(tmp_path), 3).labels) == [0, 1, 2]


def test_networks_for_grey_images_know_their_channels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey = str(tmp_path / "grey.safetensors")
    ghostnet.save(ghostnet.create_model("ghostnet_050", in_chans=1, num_classes=4), grey)
    assert _json(capsys, "profile", grey)["params"] == 1_311_272
    picture = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(picture)
    for verb in ("predict", "features"):
        assert cli.run([verb, grey, str(picture)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "takes images of 1 channels, and files are read as RGB" in line


@pytest.mark.slow
def test_a_network_for_grey_images_is_exported_for_its_channels(tmp_path: Path) -> None:
    grey = str(tmp_path / "grey.safetensors")
    ghostnet.save(ghostnet.create_model("ghostnet_050", in_chans=1, num_classes=4), grey)
    assert cli.run(["export", grey, "-o", str(tmp_path / "grey.onnx"), "--plain"]) == 0


def test_images_too_small_for_the_network_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(tmp_path / "picture.png")
    Image.new("RGB", (8, 8)).save(picture)
    assert cli.run(["predict", "resnet9_050", picture, "--image-size", "4"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the network does not run on images of 4x4 pixels" in line
    transformer = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    assert count_classes(transformer, 224) == 3
    with pytest.raises(InputError, match=r"not run on images of 100x100 pixels: Input height \(100\)"):
        count_classes(transformer, 100)  # an AssertionError of timm's
    assert cli.run(["features", "resnet9_050", picture, "--credit", "me"]) == 2
    assert "--credit is for pictures of a record" in capsys.readouterr().err


class _NoClassifier(nn.Module):
    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.answer = nn.Conv2d(3, 4, 1), answer

    def forward(self, images: Tensor) -> Any:
        return self.answer(self.layer(images))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda maps: {"out": maps}, "a dict"),
        (lambda maps: maps, r"a tensor of shape \(1, 4, 8, 8\)"),
        (lambda maps: [maps.mean((2, 3))], "a list"),
    ],
)
def test_what_is_no_classifier_is_one_line_everywhere(
    answer: Callable[[Tensor], Any],
    said: str,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    network = _NoClassifier(answer).eval()
    images, labels = torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.long)
    for attempt in (
        lambda: train.evaluate(network, [(images, labels)]),
        lambda: Classification(train.TrainSettings(bf16=False))(network, images, labels),
        lambda: count_classes(network, 8),
    ):
        with pytest.raises(InputError, match=f"this needs a classifier, .* answers with {said}"):
            attempt()
    monkeypatch.setattr("ghostnet.cli.predict.open_runnable", lambda *_: network)
    assert cli.run(["predict", "x", str(photos), "--image-size", "8"]) == 2
    assert "this needs a classifier" in capsys.readouterr().err
