"""What an interrupted run leaves: the same run goes on from it, another one says in what it differs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ghostnet
from ghostnet import InputError
from ghostnet.convert.pruning import sparsity
from ghostnet.data import read_coco
from ghostnet.recipes import conversion, fine_tune_recipe, run_recipe
from ghostnet.recipes import train as recipes_train
from ghostnet.recipes.identity import boxes_of, weights_of

CELLS = Path(__file__).parents[1] / "detect" / "cells" / "cells.json"

SMALL = ["epochs=2", "batch_size=8", "seed=1", "model_args={width_mult=0.25}", "checkpoint_seconds=1e-9"]


def write_photos(root, seed=0, count=10):
    random = np.random.default_rng(seed)
    for name in ("blue", "red"):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("images") / "photos")


def recipe_for(folder, *changes, **more):
    more = {"model": "resnet20", "weights": None, **more}
    return fine_tune_recipe(str(folder), overrides=[*SMALL, *changes], **more)


@pytest.fixture
def stopped(monkeypatch):
    """Return a function that runs a recipe and stops it after its first steps, checkpoint and all."""

    def run(recipe, out):
        def stop(step):
            if step == 2:
                raise KeyboardInterrupt

        fit = recipes_train.fit
        with monkeypatch.context() as patch:
            patch.setattr(recipes_train, "fit", lambda *a, **k: fit(*a, **k, after_step=stop))
            with pytest.raises(KeyboardInterrupt):
                run_recipe(recipe, out, progress=False)
        assert (out / "fine_tune-seed1.checkpoint").is_file()

    return run


def test_the_same_run_goes_on_and_says_so(photos, tmp_path, stopped, capsys):
    stopped(recipe_for(photos), tmp_path / "runs")
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    recipe = recipe_for(moved, "tensorboard=false", "evaluate_every=1", "workers=1")
    assert run_recipe(recipe, tmp_path / "runs")["metrics"]["steps"] == 4
    assert "fine_tune: going on from step 2" in capsys.readouterr().err


def test_a_run_that_ends_after_another_one_in_its_folder_leaves_that_ones_result(
    photos, tmp_path, monkeypatch
):
    fit, out = recipes_train.fit, tmp_path / "runs"

    def overtaken(*given, **more):
        trained = fit(*given, **more)
        (out / "fine_tune-seed1.json").write_text("another's")
        return trained

    with monkeypatch.context() as patch:
        patch.setattr(recipes_train, "fit", overtaken)
        with pytest.raises(
            InputError, match=r"another run wrote .*json meanwhile; .* kept in .*\.checkpoint: move"
        ):
            run_recipe(recipe_for(photos), out, progress=False)
    assert (out / "fine_tune-seed1.json").read_text() == "another's"
    assert not (out / "fine_tune-seed1.safetensors").exists()
    (tmp_path / "moved").mkdir()
    (out / "fine_tune-seed1.checkpoint").rename(tmp_path / "moved" / "fine_tune-seed1.checkpoint")
    assert run_recipe(recipe_for(photos), tmp_path / "moved", progress=False)["metrics"]["steps"] == 4


def test_other_images_of_the_same_names_are_noticed(photos, tmp_path, stopped):
    stopped(recipe_for(photos), tmp_path / "runs")
    other = write_photos(tmp_path / "other", seed=5)
    with pytest.raises(InputError, match=r"belongs to a run with images = '16 in 2 classes \(.*not '16 in 2"):
        run_recipe(recipe_for(other), tmp_path / "runs", progress=False)


def test_another_recipe_is_noticed(photos, tmp_path, stopped):
    stopped(recipe_for(photos), tmp_path / "runs")
    with pytest.raises(InputError, match=r"belongs to a run with mirror = True, not False"):
        run_recipe(recipe_for(photos, "mirror=false"), tmp_path / "runs", progress=False)


def test_another_start_of_the_same_name_is_noticed(photos, tmp_path, stopped):
    start = tmp_path / "start.safetensors"
    network = ghostnet.create_model("resnet20", width_mult=0.25)
    ghostnet.save(network, start)
    stopped(recipe_for(photos, model=None, weights=str(start)), tmp_path / "runs")
    torch.nn.init.ones_(network.conv1.weight)
    ghostnet.save(network, start)
    with pytest.raises(InputError, match=r"belongs to a run with start = 'a file with SHA-256 .*not 'a file"):
        run_recipe(recipe_for(photos, model=None, weights=str(start)), tmp_path / "runs", progress=False)


def test_other_boxes_and_other_weights_are_told_apart():
    images = read_coco(CELLS)
    first = boxes_of(images)
    assert first == boxes_of(read_coco(CELLS))
    images.images[0].boxes[0, 0] += 1
    assert boxes_of(images) != first
    network = ghostnet.create_model("resnet20", width_mult=0.25).bfloat16()
    before = weights_of(network)
    network.conv1.weight.data[0, 0, 0, 0] += 1
    assert weights_of(network) != before


def test_checkpoints_without_this_knowledge_go_on(photos, tmp_path, stopped):
    stopped(recipe_for(photos), tmp_path)
    path = tmp_path / "fine_tune-seed1.checkpoint"
    state = torch.load(path, weights_only=True)
    del state["identity"]
    torch.save(state, path)
    assert run_recipe(recipe_for(photos), tmp_path, progress=False)["metrics"]["steps"] == 4
    assert json.loads((tmp_path / "fine_tune-seed1.json").read_text())["metrics"]["steps"] == 4


def test_a_conversion_that_another_recipe_left_is_made_anew(photos, tmp_path, monkeypatch):
    def stop(*_args, **_more):
        raise KeyboardInterrupt

    first = recipe_for(photos, "convert_ratio=2", "convert_init=random")
    with monkeypatch.context() as patch:
        patch.setattr(recipes_train, "fit", stop)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(first, tmp_path, progress=False)
    assert (tmp_path / "fine_tune-seed1.converted.safetensors").is_file()
    result = run_recipe(
        recipe_for(photos, "convert_ratio=4", "convert_init=random"), tmp_path, progress=False
    )
    whole = run_recipe(
        recipe_for(photos, "convert_ratio=4", "convert_init=random"), tmp_path / "other", progress=False
    )
    assert result["metrics"]["params"] == whole["metrics"]["params"]
    assert "identity" not in result["metrics"]


def test_a_conversion_that_is_being_trained_is_not_replaced(photos, tmp_path, stopped):
    stopped(recipe_for(photos, "convert_ratio=2", "convert_init=random"), tmp_path)
    with pytest.raises(InputError, match=r"belongs to a run with convert_ratio = 2, not 4"):
        run_recipe(recipe_for(photos, "convert_ratio=4", "convert_init=random"), tmp_path, progress=False)
    recipe = recipe_for(photos, "convert_ratio=2", "convert_init=random")
    assert run_recipe(recipe, tmp_path, progress=False)["metrics"]["steps"] == 4


@pytest.mark.parametrize("ending", [".safetensors", ".best.safetensors"])
def test_networks_of_an_earlier_run_are_not_replaced(ending, photos, tmp_path):
    path = tmp_path / f"fine_tune-seed1{ending}"
    path.write_bytes(b"earlier")
    with pytest.raises(InputError, match=rf"fine_tune-seed1{ending} exists; pass --force"):
        run_recipe(recipe_for(photos), tmp_path, progress=False)
    (tmp_path / f"x{ending}").write_bytes(b"earlier")
    with pytest.raises(InputError, match=rf"x{ending} exists; pass --force"):
        recipes_train.refuse_earlier(tmp_path / "x", tmp_path / "x.checkpoint", force=False)
    recipes_train.refuse_earlier(tmp_path / "x", tmp_path / "x.checkpoint", force=True)
    (tmp_path / "x.checkpoint").touch()  # then they are this run's own
    recipes_train.refuse_earlier(tmp_path / "x", tmp_path / "x.checkpoint", force=False)


@pytest.mark.parametrize("stops", [(1,), (2, 5), (6,)])  # the target is met in step 2 of 6, or near it
def test_an_interrupted_choice_of_channels_goes_on_and_ends_the_same(stops, photos, tmp_path, monkeypatch):
    changes = [
        "method=sss",
        "macs=0.95",
        "sparsity_epochs=3",
        "sparsity_learning_rate=8.0",
        "epochs=0.5",
        "bf16=false",
    ]
    recipe = recipe_for(photos, *changes)
    held, shrink = [], sparsity.ProximalStep.__call__

    def noted(step, learning_rate):
        shrink(step, learning_rate)
        held.append(step.held)

    with monkeypatch.context() as patch:
        patch.setattr(sparsity.ProximalStep, "__call__", noted)
        run_recipe(recipe, tmp_path / "whole", progress=False)
    met = 1 + held.index(True)
    assert (len(held), met > 1) == (6, True)
    fit, out = conversion.fit, tmp_path / "parts"
    left = out / "fine_tune-seed1.sparsity.checkpoint"
    for last in stops:

        def stop(step, last=last):
            if step == last:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(conversion, "fit", lambda *a, stop=stop, **k: fit(*a, **k, after_step=stop))
            with pytest.raises(KeyboardInterrupt):
                run_recipe(recipe, out, progress=False)
        gates = [value for name, value in torch.load(left)["model"].items() if name.endswith(".open")]
        assert any((gate == 0).any() for gate in gates) == (last >= met), (
            "closed channels are in the checkpoint"
        )
    with pytest.raises(
        InputError, match=r"sparsity\.checkpoint belongs to a run with macs = 0\.95, not 0\.7"
    ):
        run_recipe(recipe_for(photos, *changes, "macs=0.7"), out, progress=False)
    run_recipe(recipe, out, progress=False)
    assert not left.exists()
    whole, parts = (
        ghostnet.load(place / "fine_tune-seed1.safetensors") for place in (tmp_path / "whole", out)
    )
    assert weights_of(whole) == weights_of(parts)
