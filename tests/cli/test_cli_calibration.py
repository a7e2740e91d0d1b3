"""`ghostnet convert --calibration FOLDER`: the user's own images, with and without class folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import ghostnet
from ghostnet import cli, data
from ghostnet.cli.calibration import calibration_batches, first_images, synthetic_batches
from ghostnet.cli.images import preprocessing_for
from ghostnet.cli.redundant import redundant_layers
from ghostnet.convert import synthetic_images

_MEAN, _STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
_SHORT = ("--layers", "layer1.2.*")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "dense.safetensors"
    torch.manual_seed(0)
    info = {"mean": _MEAN, "std": _STD, "classes": ["blue", "red"]}
    ghostnet.save(ghostnet.create_model("resnet20", num_classes=2), path, info=info)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs in class folders, of another size than the network's, and one that is none."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name in ("blue", "red"):
        (root / name).mkdir()
        for number in range(3):
            pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def _line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.run(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert cli.run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_folder_is_what_the_library_is_given_by_hand(
    network: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ghost.safetensors"
    _json(capsys, "convert", str(network), "-o", str(out), "--calibration", str(photos), *_SHORT)
    transform = data.evaluation_transform(data.Preprocessing(32, 1.0))
    files = sorted(photos.rglob("*.png"))
    pixels = torch.stack(
        [transform(data.decode_image(path.read_bytes(), path.name)) for path in files]
    ).float()
    images = (pixels / 255 - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_STD)[:, None, None]
    wanted, _ = ghostnet.ghostify(ghostnet.load(network), layers=["layer1.2.*"], calibration=images)
    read = calibration_batches(
        ghostnet.load(network), str(photos), 6, data.Preprocessing(32, 1.0, mean=_MEAN, std=_STD)
    )
    torch.testing.assert_close(first_images(read, 6), images)
    plain = tmp_path / "plain.safetensors"
    _json(capsys, "convert", str(network), "-o", str(plain), *_SHORT)
    assert _apart(ghostnet.load(out), wanted) < 0.2 * _apart(ghostnet.load(plain), wanted)


def _apart(one: nn.Module, other: nn.Module) -> float:
    """Return the largest difference between two networks' weights."""
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    return max(float((first[name].float() - second[name].float()).abs().max()) for name in first)


def test_a_converted_network_wants_its_images_as_the_dense_one_does(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dense, out = tmp_path / "dense.safetensors", tmp_path / "ghost.safetensors"
    wanted = data.Preprocessing(40, 0.8, "bicubic", _MEAN, _STD).to_dict()
    ghostnet.save(
        ghostnet.create_model("resnet20", num_classes=2), dense, info={**wanted, "classes": ["a", "b"]}
    )
    _json(capsys, "convert", str(dense), "-o", str(out), *_SHORT, "--calibration", str(photos))
    info = ghostnet.load(out).ghostnet_info
    assert {key: info[key] for key in (*wanted, "classes")} == {**wanted, "classes": ["a", "b"]}
    assert preprocessing_for(ghostnet.load(out)) == preprocessing_for(ghostnet.load(dense))


def test_what_the_user_says_of_the_images_is_kept_for_the_next_verb(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dense, out = tmp_path / "dense.safetensors", tmp_path / "ghost.safetensors"
    ghostnet.save(ghostnet.create_model("resnet20", num_classes=2), dense)
    start = ("convert", str(dense), "-o", str(out), *_SHORT, "--calibration", str(photos))
    _json(capsys, *start, "--normalisation", "half", "--input-size", "3,40,40")
    wanted = preprocessing_for(ghostnet.load(out))
    assert (wanted.size, wanted.mean, wanted.std) == (40, (0.5,) * 3, (0.5,) * 3)
    exported = _json(capsys, "export", str(out), "-o", str(tmp_path / "ghost.onnx"))
    assert exported["path"]
    manifest = json.loads((tmp_path / "ghost.onnx.json").read_text())
    assert manifest["input"]["shape"][1:] == [3, 40, 40]
    assert manifest["preprocessing"]["mean"] == [0.5] * 3


def test_each_layer_gets_a_ratio_by_the_images_of_a_folder(
    network: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, costs = tmp_path / "ghost.safetensors", tmp_path / "costs.json"
    start = ("convert", str(network), "-o", str(out), "--calibration", str(photos / "red"))
    report = _json(capsys, *start, "--layers", "layer1.0.*", "--macs", "0.95", "--costs", str(costs))
    assert report["macs_after"] <= 0.95 * report["macs_before"]
    assert len(json.loads(costs.read_text())["costs"]) == 2 * 3
    model = ghostnet.load(network)
    batches = calibration_batches(model, str(photos / "red"), 2, data.Preprocessing(32, 1.0))
    assert redundant_layers(model, batches, 0.1, (2, 3))


def test_labels_come_from_class_folders(
    network: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pruned.safetensors"
    start = ("convert", str(network), "-o", str(out), "--method", "taylor", "--macs", "0.8")
    flat = _line(capsys, *start, "--calibration", str(photos / "red"))
    assert f"method 'taylor' needs labels: {photos / 'red'} must have a subfolder for each class" in flat
    assert not out.exists()
    report = _json(capsys, *start, "--calibration", str(photos))
    assert report["macs_after"] < report["macs_before"]


@pytest.mark.parametrize("parts", [("train", "val"), ("Training", "Testing")])
def test_training_images_are_taken_spread_and_in_batches(
    parts: tuple[str, str], network: Path, photos: Path, tmp_path: Path
) -> None:
    for part, name in zip(parts, ("red", "blue"), strict=True):
        (tmp_path / part / name).mkdir(parents=True)
        for path in (photos / name).iterdir():
            (tmp_path / part / name / path.name).write_bytes(path.read_bytes())
    model, wanted = ghostnet.load(network), data.Preprocessing(32, 1.0, mean=_MEAN, std=_STD)
    (images, labels), *rest = calibration_batches(model, str(tmp_path), 2, wanted)
    assert rest == []
    assert images.shape == (2, 3, 32, 32)
    assert labels.tolist() == [1, 1], (
        "red in the network's order of classes, though it is the folder's only one"
    )
    (all_of_them, _), *_ = calibration_batches(model, str(tmp_path), 2048, wanted)
    torch.testing.assert_close(images, all_of_them[[0, 1]])
    large = data.Preprocessing(720, 1.0)
    batches = calibration_batches(model, str(photos / "red"), 3, large)
    assert [len(batch) for batch in batches] == [2, 1]
    assert len(first_images(batches, 64)) == 3
    torch.testing.assert_close(first_images(batches, 1), batches[0][:1])


def test_an_image_that_is_none_is_skipped_and_named(
    network: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "cut.png").write_bytes((photos / "red" / "0.png").read_bytes()[:200])
    start = (
        "convert",
        str(network),
        "-o",
        str(tmp_path / "g.safetensors"),
        *_SHORT,
        "--calibration",
        str(bad),
    )
    assert cli.run(list(start)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"skipped {bad / 'cut.png'}: ")
    assert lines[1:] == [f"ghostnet: none of the images in {bad} can be read"]
    (bad / "good.png").write_bytes((photos / "red" / "0.png").read_bytes())
    assert cli.run(list(start)) == 0
    assert capsys.readouterr().err.splitlines()[0].startswith(f"skipped {bad / 'cut.png'}: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--calibration", "./nowhere"), "there is no folder ./nowhere of calibration images"),
        (("--calibration", "cifar"), "unknown folder or data set 'cifar'; did you mean 'cifar10'"),
        (("--calibration", "{photos}", "--images", "0"), "--images (=0) must be an integer >= 1"),
        (
            ("--calibration", "{photos}", "--data-dir", "x"),
            "--data-dir is for --calibration cifar10, and has no effect here; leave it out",
        ),
        (("--calibration", "{photos}", "--input-size", "3,32,64"), "--input-size (=3,32,64) is not square"),
        (("--calibration", "{photos}", "--method", "sss"), "before it chooses: give --calibration cifar10"),
        (("--calibration", "{empty}"), "holds no images"),
    ],
)
def test_what_cannot_be_is_one_line(
    network: Path,
    photos: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    given = [text.format(photos=photos, empty=tmp_path / "empty") for text in arguments]
    out = tmp_path / "x.safetensors"
    assert message in _line(capsys, "convert", str(network), "-o", str(out), *given)
    assert not out.exists()


def test_images_are_made_for_whoever_has_none(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ghost.safetensors"
    asked = ("convert", str(network), "-o", str(out), "--calibration", "synthetic", "--images", "4", *_SHORT)
    assert _json(capsys, *asked)["settings"]["calibrated"] is True
    images = synthetic_images(ghostnet.load(network), 4, input_size=(3, 32, 32))
    by_hand, _ = ghostnet.ghostify(ghostnet.load(network), layers=["layer1.2.*"], calibration=images)
    given = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            ghostnet.load(out).eval()(given), by_hand.eval()(given), atol=1e-4, rtol=1e-3
        )
    assert "needs labels, which synthetic" in _line(
        capsys, *asked[:4], "--force", "--method", "taylor", *asked[4:6]
    )
    assert "--images (=0)" in _line(capsys, *asked[:4], "--force", *asked[4:7], "0")


def test_as_many_images_are_made_as_their_size_allows(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def note(_model: nn.Module, count: int, **_: object) -> torch.Tensor:
        made.append(count)
        return torch.zeros(count, 1, 1, 1)

    monkeypatch.setattr("ghostnet.convert.synthetic_images", note)
    for side, count in ((32, None), (96, None), (224, None), (32, 7)):
        synthetic_batches(ghostnet.load(network), (3, side, side), count)
    assert made == [256, 113, 64, 7]
