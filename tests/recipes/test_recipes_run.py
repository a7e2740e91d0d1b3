"""A recipe from data to result: on a small set of random images in place of CIFAR-10, everything else for real."""

import json

import numpy as np
import pytest
import torch

import ghostnet
from ghostnet import InputError, data
from ghostnet.recipes import layer_output, list_recipes, load_recipe, run_recipe


@pytest.fixture(autouse=True)
def small_cifar10(monkeypatch):
    random = np.random.default_rng(0)

    def images(count):
        return random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.arange(count) % 10

    train, test = images(32), images(20)
    dataset = data.Cifar10(train[0], train[1], test[0], test[1])
    monkeypatch.setattr(data, "load_cifar10", lambda *_args, **_kwargs: dataset)


SMALL = ["epochs=2", "batch_size=16", "calibration_images=16", 'model_args={"width_mult"=0.25}']


ON_CIFAR10 = [name for name in list_recipes() if load_recipe(name).data == "cifar10"]


def test_four_recipes_are_found():
    assert len(ON_CIFAR10) >= 4  # the others, on images of one's own, are run in test_recipes_images


@pytest.mark.parametrize("name", ON_CIFAR10)
def test_every_recipe_trains(name, tmp_path):
    recipe = load_recipe(name, [*SMALL, "weights="])
    result = run_recipe(recipe, tmp_path, progress=False)
    assert result["metrics"]["steps"] == 4
    assert result["metrics"]["count"] == 20
    written = json.loads((tmp_path / f"{name}-seed0.json").read_text())
    assert written["recipe"]["epochs"] == 2
    network = ghostnet.load(tmp_path / f"{name}-seed0.safetensors")
    assert network(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
    if recipe.convert_ratio > 1:
        assert list(written["metrics"]["stages"]) == ["dense", "as converted"]
        assert (
            written["metrics"]["conversion"]["macs_after"] < written["metrics"]["conversion"]["macs_before"]
        )


def test_finished_result_is_not_overwritten(tmp_path):
    recipe = load_recipe("resnet9_050", SMALL)
    run_recipe(recipe, tmp_path, progress=False)
    with pytest.raises(InputError, match=r"pass --force"):
        run_recipe(recipe, tmp_path, progress=False)


def test_missing_teacher(tmp_path):
    with pytest.raises(InputError, match=r"no file nowhere"):
        run_recipe(load_recipe("resnet9_050", [*SMALL, "teacher=nowhere"]), tmp_path, progress=False)


def test_layer_output_names_near_matches():
    model = ghostnet.create_model("resnet20")
    assert layer_output(model, "layer1.0.conv1", torch.zeros(1, 3, 32, 32)).shape == (1, 16, 32, 32)
    with pytest.raises(InputError, match=r"unknown layer 'layer1.0.conv'; did you mean"):
        layer_output(model, "layer1.0.conv", torch.zeros(1, 3, 32, 32))
