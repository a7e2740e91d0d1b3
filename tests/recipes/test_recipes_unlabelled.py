"""Training without labels: a network learns what its teacher answers to images in any folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ghostnet
from ghostnet import InputError, cli
from ghostnet.data import UnlabelledImages, split_at_random
from ghostnet.recipes import fine_tune_recipe, run_recipe
from ghostnet.recipes.sets import preprocessing_of
from ghostnet.recipes.unlabelled import answered_sets
from ghostnet.train import predict

FAST = ["epochs=1", "batch_size=8"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 30 noisy images in folders that mean nothing, and a file that is none."""
    root = tmp_path_factory.mktemp("images") / "photos"
    random = np.random.default_rng(0)
    (root / "holiday").mkdir(parents=True)
    for number in range(30):
        pixels = random.integers(0, 256, (40, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / ("holiday" if number % 3 else ".") / f"{number}.png")
    (root / "broken.png").write_bytes(b"no picture")
    return root


def recipe(photos: Path, **changes: Any) -> Any:
    settings: dict[str, Any] = {"model": None, "weights": None, "teacher": "resnet9_050", "unlabelled": True}
    overrides = [*FAST, *changes.pop("overrides", [])]
    return fine_tune_recipe(str(photos), **{**settings, "model": "resnet20", **changes}, overrides=overrides)


def test_the_teacher_answers_for_all_images_that_can_be_read(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = recipe(photos)
    assert (chosen.labels, chosen.teacher, chosen.distillation_weight) == ("teacher", "resnet9_050", 1.0)
    result = run_recipe(chosen, tmp_path, progress=False)
    assert "broken.png" in capsys.readouterr().err
    assert result["metrics"]["count"] == 6  # a fifth of 30
    made = ghostnet.load(tmp_path / "fine_tune-seed0.safetensors")
    info = made.ghostnet_info
    assert "top1" not in info
    assert info["classes"] == ghostnet.load("resnet9_050").ghostnet_info["classes"]
    _, held_out = split_at_random(UnlabelledImages(photos), 0.2, 0)
    assert len(held_out) == 6


def test_what_is_measured_is_agreement(photos: Path, tmp_path: Path) -> None:
    ghostnet.save(ghostnet.load("resnet9_050"), tmp_path / "start.safetensors")
    still = ["learning_rate=1e-12", "freeze_batch_norm=true"]
    chosen = recipe(photos, model=None, weights=str(tmp_path / "start.safetensors"), overrides=still)
    result = run_recipe(chosen, tmp_path, progress=False)
    assert result["metrics"]["top1"] == 100
    made = ghostnet.load(tmp_path / "fine_tune-seed0.safetensors")
    assert made.ghostnet_info["agreement"] == 100


def test_labels_are_the_teachers(photos: Path) -> None:
    chosen = recipe(photos)
    teacher, model = ghostnet.load("resnet9_050"), ghostnet.create_model("resnet20")
    sets = answered_sets(chosen, model, teacher)
    paths = UnlabelledImages(photos).paths
    answers = {
        str(found.path): found.indices[0]
        for found in predict(teacher, paths, preprocessing_of(chosen, teacher), top_k=1)
        if not found.error
    }
    for part in (sets.training, sets.held_out):
        assert [answers[part.name(number)] for number in range(len(part))] == part.labels.tolist()
    assert len(sets.training) + len(sets.held_out) == len(answers) == 30
    assert not {sets.training.name(n) for n in range(24)} & {sets.held_out.name(n) for n in range(6)}


def test_convert_and_recover_without_labels_in_one_run(photos: Path, tmp_path: Path) -> None:
    dense = tmp_path / "dense.safetensors"
    torch.manual_seed(0)
    ghostnet.save(network := ghostnet.create_model("resnet20", width_mult=0.5), dense)
    chosen = recipe(photos, model=None, weights=str(dense), teacher="dense", overrides=["convert_ratio=2"])
    result = run_recipe(chosen, tmp_path, progress=False)
    assert result["metrics"]["macs"] < 0.6 * ghostnet.profile(network, (3, 32, 32)).macs
    assert result["metrics"]["stages"]["dense"]["top1"] == 100  # it agrees with itself


def test_the_verb(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["train", "--data", str(photos), "--model", "resnet20", "--teacher", "resnet9_050", *FAST]
    assert cli.run([*run, "--unlabelled", "--out", str(tmp_path)]) == 0
    assert "agrees with its teacher on" in capsys.readouterr().out
    record = json.loads((tmp_path / "fine_tune-seed0.json").read_text())
    assert record["recipe"]["labels"] == "teacher"
    assert cli.run([*run, "--out", str(tmp_path / "other")]) == 2  # folders by class are wanted then


def test_bad_input(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for changes, message in (
        (
            {"teacher": None},
            r'`labels` \(="teacher"\) needs a teacher; name a trained network \(--teacher FILE',
        ),
        ({"teacher": "ghostnet_050"}, "the network has 10 classes and its teacher 1000; a network learns"),
        ({"teacher": "dense"}, "converts nothing, so `teacher` cannot be 'dense'"),
        ({"overrides": ["data=cifar10"]}, "is for a folder of images, and cifar10 is none"),
        ({"overrides": ["held_out_fraction=0.2", "strict=true"]}, "broken.png"),
    ):
        with pytest.raises(InputError, match=message):
            run_recipe(recipe(photos, **changes), tmp_path, progress=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no images"):
        run_recipe(recipe(tmp_path / "empty"), tmp_path, progress=False)
    with pytest.raises(InputError, match=r"is for a folder of images, and .*nothing is none"):
        run_recipe(recipe(tmp_path / "nothing"), tmp_path, progress=False)
    with pytest.raises(InputError, match="there is no folder"):
        UnlabelledImages(tmp_path / "nothing")
    one = tmp_path / "one"
    one.mkdir()
    Image.new("RGB", (8, 8)).save(one / "a.png")
    with pytest.raises(InputError, match="needs two, and there is 1"):
        split_at_random(UnlabelledImages(one), 0.2, 0)
    with pytest.raises(InputError, match="must be above 0 and below 1"):
        split_at_random(UnlabelledImages(photos), 1.0, 0)
    assert cli.run(["train", "resnet9_050", "--unlabelled"]) == 2
    assert "--teacher and --unlabelled are for fine-tuning" in capsys.readouterr().err


def test_the_split_is_that_of_its_seed(photos: Path) -> None:
    images = UnlabelledImages(photos)
    parts = [split_at_random(images, 0.3, seed)[1].indices.tolist() for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
    assert len(parts[0]) == 9
    assert images.order(np.random.default_rng(0)).tolist() != list(range(len(images)))
    assert torch.tensor(images.labels).sum() == 0
