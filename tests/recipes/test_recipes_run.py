"""A recipe from data to result: on a small set of random images in place of CIFAR-10, everything else for real."""

import json
import sys
import weakref

import numpy as np
import pytest
import torch

import ghostnet
from ghostnet import InputError, cli, data
from ghostnet.convert import PRUNE_METHODS
from ghostnet.recipes import list_recipes, load_recipe, load_variant, run_recipe
from ghostnet.recipes import train as recipes_train


@pytest.fixture(autouse=True)
def small_cifar10(monkeypatch):
    random = np.random.default_rng(0)

    def images(count):
        return random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.arange(count) % 10

    train, test = images(32), images(20)
    dataset = data.Cifar10(train[0], train[1], test[0], test[1])
    monkeypatch.setattr(data, "load_cifar10", lambda *_args, **_kwargs: dataset)


SMALL = ["epochs=2", "batch_size=16", "calibration_images=16", 'model_args={"width_mult"=0.25}']


def small(name, folder):
    """A recipe of the package on a narrow network, with the networks that it refers to in the folder."""
    recipe = load_recipe(name)
    changes = {"epochs": 1.0, "sparsity_epochs": 1.0, "batch_size": 16, "calibration_images": 16}
    changes["model_args"] = {**recipe.model_args, "width_mult": 0.25}
    if recipe.weights.startswith("@") or recipe.teacher.startswith("@"):
        reference = (recipe.weights + recipe.teacher.removeprefix("dense"))[1:]
        dense = ghostnet.create_model(recipe.model.removeprefix("ghost_"), width_mult=0.25)
        ghostnet.save(dense, folder / f"{reference}-seed0.safetensors")
    elif recipe.teacher == "dense":
        ghostnet.save(
            ghostnet.create_model(recipe.model, **changes["model_args"]), folder / "dense.safetensors"
        )
        changes["start"], changes["weights"] = str(folder / "dense.safetensors"), ""
    else:
        changes["weights"] = ""
    if recipe.teacher_weights not in ("", "cifar10"):  # published, not packaged: a download
        changes["teacher_weights"] = ""
    return recipe.model_copy(update=changes)


ON_CIFAR10 = [name for name in list_recipes() if load_recipe(name).data == "cifar10"]


# the fits of their layers, or of large cheap kernels, take half a minute or more
WIDE = {
    "ghost_resnet9_050",
    "short_ghost_vgg16_converted",
    *(f"short_ghost_resnet20_converted_{form}" for form in ("s2_d5", "s2_d7", "s3_d3", "s4_d3")),
    "short_ghost_resnet20_measured",
}


def _cases():
    """All recipes on CIFAR-10 (test_recipes_images has the others); conversions of large networks and Ghost-ResNet-56
    are slow: ResNet-20 has the same methods and operations in the default run.
    """
    for name in ON_CIFAR10:
        recipe = load_recipe(name)
        large = recipe.exhibit == "cifar10" and (recipe.converts or recipe.model == "ghost_resnet56")
        yield pytest.param(name, marks=pytest.mark.slow if large or name in WIDE else ())


@pytest.mark.parametrize("name", list(_cases()))
def test_every_recipe_trains_two_steps(name, tmp_path):
    recipe = small(name, tmp_path)
    if recipe.weights.startswith("@"):  # the file has the width
        recipe = recipe.model_copy(update={"start": recipe.weights, "weights": ""})
    result = run_recipe(recipe, tmp_path, progress=False)
    assert result["metrics"]["steps"] == 2
    assert result["metrics"]["count"] == 20
    written = json.loads((tmp_path / f"{name}-seed0.json").read_text())
    assert written["recipe"]["method"] == recipe.method
    network = ghostnet.load(tmp_path / f"{name}-seed0.safetensors")
    assert network(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    assert not list(tmp_path.glob("*.checkpoint")) + list(tmp_path.glob("*.converted.*"))
    if recipe.converts:
        assert list(written["metrics"]["stages"]) == ["dense", "as converted"]
        conversion = written["metrics"]["conversion"]
        assert conversion["macs_after"] < conversion["macs_before"]
        assert conversion["settings"].get("method", "ghost") == recipe.method


def test_the_number_of_recipes():
    names = list_recipes()
    assert len([name for name in names if load_recipe(name).exhibit == "cifar10"]) == 29
    assert len([name for name in names if load_recipe(name).exhibit == "cifar10_short"]) == 17
    assert len(list(_cases())) == len(ON_CIFAR10) >= 42
    assert sum(bool(case.marks) for case in _cases()) == 21


def test_every_method_and_operation_is_in_the_default_run():
    quick = [load_recipe(case.values[0]) for case in _cases() if not case.marks]
    assert {recipe.method for recipe in quick} == {"ghost", *PRUNE_METHODS}
    operations = {recipe.model_args.get("cheap_operation") for recipe in quick}
    assert operations >= {load_recipe(name).model_args.get("cheap_operation") for name in ON_CIFAR10}


def test_training_before_the_choice_needs_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr("ghostnet.recipes.train.join_processes", lambda: (0, 2))
    with pytest.raises(InputError, match="method 'sss' trains before it chooses channels, in one process"):
        run_recipe(small("short_resnet20_sss", tmp_path), tmp_path, progress=False)


def test_a_reference_that_is_not_there_yet(tmp_path):
    with pytest.raises(InputError, match=r"`weights` \(='@resnet56_long'\) needs .*resnet56_long-seed0"):
        run_recipe(load_recipe("resnet56_l1"), tmp_path, progress=False)


def test_dense_teacher_needs_a_conversion(tmp_path):
    with pytest.raises(InputError, match="converts nothing, so `teacher` cannot be 'dense'"):
        run_recipe(load_recipe("resnet9_050", [*SMALL, "teacher=dense"]), tmp_path, progress=False)


def test_teacher_with_weights_of_its_own(tmp_path):
    ghostnet.save(ghostnet.create_model("resnet20"), tmp_path / "t.safetensors")
    recipe = load_recipe(
        "resnet9_050", [*SMALL, "epochs=1", "teacher=resnet20", f"teacher_weights={tmp_path}/t.safetensors"]
    )
    assert run_recipe(recipe, tmp_path, progress=False)["metrics"]["steps"] == 2
    missing = recipe.model_copy(update={"teacher_weights": "nowhere.safetensors", "seed": 1})
    with pytest.raises(InputError, match="no file nowhere"):
        run_recipe(missing, tmp_path, progress=False)


@pytest.mark.parametrize("change", ["epochz=1", "epochs=many", "method=l2", "macs=2", "teacher=nowhere"])
def test_what_is_wrong_is_one_line_and_exit_2(change, tmp_path, capsys):
    code = cli.run(["train", "resnet9_050", *SMALL, change, "--out", str(tmp_path)])
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1)
    assert change.split("=")[0] in error or "nowhere" in error


def test_variants():
    long = load_variant("ghost_vgg16_s2_d3", "long", seed=2)
    assert (long.name, long.epochs, long.milestones, long.seed) == (
        "ghost_vgg16_s2_d3_long",
        400.0,
        (0.5, 0.75, 0.9375),
        2,
    )
    pruned = load_variant("short_resnet20_l1", "distilled", dense="a b.th")
    assert (pruned.weights, pruned.teacher, pruned.teacher_weights) == ("a b.th", "dense", "")
    scratch = load_variant("short_ghost_resnet20", "distilled", dense="a.th")
    assert (scratch.weights, scratch.teacher, scratch.teacher_weights) == ("", "resnet20", "a.th")
    assert load_variant("short_ghost_resnet20", "distilled").teacher_weights == "akamaster"
    with pytest.raises(InputError, match="unknown variant 'longer'; did you mean 'long'"):
        load_variant("vgg16", "longer")


def test_finished_result_is_not_overwritten(tmp_path):
    recipe = load_recipe("resnet9_050", SMALL)
    run_recipe(recipe, tmp_path, progress=False)
    with pytest.raises(InputError, match=r"pass --force"):
        run_recipe(recipe, tmp_path, progress=False)


def test_missing_teacher(tmp_path):
    with pytest.raises(InputError, match=r"no file nowhere"):
        run_recipe(load_recipe("resnet9_050", [*SMALL, "teacher=nowhere"]), tmp_path, progress=False)


def test_a_converting_process_looks_at_all_images_batch_by_batch(monkeypatch):
    """Others wait meanwhile: it takes no share, and does not hold a set of decoded images at once."""
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8), np.arange(20) % 10
    batches = data.TensorBatches(images, labels, 4, mean=(0.5,) * 3, std=(0.25,) * 3)
    live = weakref.WeakSet()
    most = []

    def counted():
        for pair in data.TensorBatches.epoch(batches, 0):
            live.add(pair[0])
            most.append(len(live))
            yield pair

    monkeypatch.setattr(data.TensorBatches, "__iter__", lambda _: counted())
    monkeypatch.setattr("ghostnet.recipes.train.join_processes", lambda: (0, 2))
    monkeypatch.setattr(sys.modules["ghostnet.train.evaluate"], "share_of_processes", lambda: (0, 2))
    found = ghostnet.evaluate(
        ghostnet.create_model("resnet20", width_mult=0.25), recipes_train._alone(batches)
    )
    assert found.count == 20
    assert len(most) == 5
    assert max(most) <= 3
