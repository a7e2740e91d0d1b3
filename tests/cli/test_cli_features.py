"""`ghostnet features`: pairs, scores, pictures that show what they say, and one line for bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

import ghostnet
from ghostnet import cli
from ghostnet.measure import features
from ghostnet.recipes.feature_pictures import FRAMES


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    coarse.resize((48, 40), Image.Resampling.BICUBIC).save(path)
    return str(path)


@pytest.fixture(scope="module")
def ghost(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("networks") / "ghost.safetensors"
    network, _ = ghostnet.ghostify(ghostnet.load("resnet9_050"), init="random")
    ghostnet.save(network, path)
    return str(path)


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert cli.run(["features", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def _has(picture: Path, colour: str) -> int:
    with Image.open(picture) as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(int)
    return int((np.abs(pixels - np.array(FRAMES[colour])).sum(2) == 0).sum())


def test_pairs_and_pictures(photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "features" / "record.json"
    out = str(tmp_path / "pictures")
    found = _json(
        capsys, "resnet9_050", photo, "-o", out, "--top", "4", "--result", str(record), "--credit", "me, CC0"
    )
    assert (found["layer"], found["images"], len(found["ranked"])) == ("features.5", 1, 4)
    assert found["table2"]["channels"] == 64
    assert [Path(picture).name for picture in found["pictures"]] == ["maps.png", "pairs.png"]
    for colour in FRAMES:
        assert (
            _has(tmp_path / "pictures" / "pairs.png", colour) > 4 * 3 * 64 * 3
        )  # four frames, three pixels wide
        assert _has(tmp_path / "pictures" / "maps.png", colour) < 200  # a pixel of the photograph, perhaps
    kept = json.loads(record.read_text())
    assert kept["exhibit"] == "features"
    assert kept["metrics"]["table2"] == found["table2"]
    assert kept["pictures"] == ["../pictures/maps.png", "../pictures/pairs.png"]
    assert kept["credit"] == "me, CC0"
    assert cli.run(["features", "resnet9_050", photo, "-o", out]) == 2
    assert "pass --force" in capsys.readouterr().err


@pytest.mark.parametrize("scores", [(), ("--scores",)])
def test_pairs_are_drawn_by_the_kernel_size_that_was_asked_for(
    scores: tuple[str, ...], photo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    fit_pairs = features.fit_pairs

    def watched(maps: Tensor, size: int) -> Any:
        sizes.append(size)
        return fit_pairs(maps, size)

    monkeypatch.setattr(features, "fit_pairs", watched)
    arguments = ["features", "resnet9_050", photo, *scores, "--cheap-kernel-size", "1", "-o", str(tmp_path)]
    assert cli.run(arguments) == 0
    assert set(sizes) == {1}


def test_ghost_and_intrinsic_maps_are_framed_beside_the_dense_ones(
    photo: str, ghost: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["features", ghost, photo, "-o", str(tmp_path), "--beside", "resnet9_050"]) == 0
    printed = capsys.readouterr().out
    assert "features.5: 64 maps of 32x32, 1 image(s)" in printed
    assert "best partner, MSE / variance" in printed
    assert "ghosts.png" in printed
    red, green = (_has(tmp_path / "ghosts.png", colour) for colour in ("red", "green"))
    assert red > 0.9 * green > 0
    assert _has(tmp_path / "ghosts.png", "blue") < 200
    assert (tmp_path / "beside.png").stat().st_size > 1000


def test_scores(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, "resnet9_050", photo, "--scores")
    assert len(found["scores"]["layers"]) == 8
    assert sorted(found["least_hurt_first"]) == sorted(layer["name"] for layer in found["scores"]["layers"])
    assert cli.run(["features", "resnet9_050", photo, "--scores"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "maps", "size", "MACs", "M", "lost", "at", "s=2", "alike", "%"]
    assert [line.split()[0] for line in lines[2:]] == found["least_hurt_first"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layer", "features.55"), "unknown layer 'features.55'; did you mean 'features.5'"),
        (("--beside", "vgg16"), "--beside is for pictures, with --out"),
        (("--top", "0"), "--top (=0) must be"),
        (("--cheap-kernel-size", "4"), "must be an odd integer"),
        (("--scores", "--ratio", "1"), "must be an integer >= 2"),
    ],
)
def test_bad_options(
    photo: str, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["features", "resnet9_050", photo, *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_an_image_that_is_none(photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("no image")
    assert cli.run(["features", "resnet9_050", str(broken)]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "broken.jpg" in printed
    assert cli.run(["features", "resnet9_050", str(broken), photo]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("skipped ")
    assert "1 image(s)" in captured.out
    assert cli.run(["features", "resnet9_050", str(tmp_path / "none.jpg")]) == 2
    assert "there is no image" in capsys.readouterr().err
    assert cli.run(["features", "vgg16", photo]) == 2
    assert "no packaged weights" in capsys.readouterr().err


def test_no_help_shows_the_mark_that_keeps_its_lines_apart() -> None:
    from ghostnet.cli.reference import command_reference

    text = command_reference()
    assert "\\b" not in text
    assert "  Example:\n    ghostnet features resnet9_050 photo.jpg" in text
