"""Recipes on images of one's own: folders and shards, fine-tuning, fresh classifiers, the best network kept."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import ghostnet
from ghostnet import InputError
from ghostnet.data import ImageFolder, write_shards
from ghostnet.recipes import fine_tune_recipe, load_recipe, run_recipe
from ghostnet.recipes.head import give_fresh_head_, output_count

SMALL = ["epochs=2", "batch_size=8", "seed=1"]
COLOURS = {"blue": (40, 60, 200), "green": (50, 190, 60), "red": (210, 40, 50)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Return three classes of twelve noisy images, told apart by their colour."""
    root = tmp_path_factory.mktemp("images") / "photos"
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.clip(random.normal(colour, 30, (36, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    changes = ["epochs=6", "batch_size=8", "evaluate_every=2", "learning_rate=0.05"]
    recipe = fine_tune_recipe(str(photos), model="resnet20", weights=None, overrides=changes)
    return recipe, run_recipe(recipe, out, progress=False), out


def test_training_on_a_folder_learns_and_keeps_what_prediction_needs(trained):
    recipe, result, out = trained
    metrics = result["metrics"]
    assert metrics["count"] == 6  # a fifth of twelve, for each of three classes
    assert metrics["top1"] > 60
    assert metrics["skipped"] == {}
    assert [entry["epoch"] for entry in metrics["evaluations"]] == [2, 4, 6]
    network = ghostnet.load(out / "fine_tune-seed0.safetensors")
    info = network.ghostnet_info
    assert info["classes"] == ["blue", "green", "red"]
    assert (info["image_size"], info["crop_fraction"], info["mean"]) == (32, 1.0, list(recipe.mean))
    assert info["top1"] == metrics["top1"]
    best = ghostnet.load(out / "fine_tune-seed0.best.safetensors").ghostnet_info
    assert best["top1"] == max(entry["top1"] for entry in metrics["evaluations"])


def test_fine_tuning_takes_size_and_normalisation_from_the_weights(trained, photos):
    _, _, out = trained
    start = str(out / "fine_tune-seed0.safetensors")
    recipe = fine_tune_recipe(
        str(photos), model=None, weights=start, overrides=[*SMALL, "mean=[0.1, 0.2, 0.3]"]
    )
    assert (recipe.start, recipe.image_size, recipe.mean) == (start, 32, (0.1, 0.2, 0.3))
    assert recipe.augmentation == "padded_crop"


def test_fine_tuning_on_other_classes_gets_a_fresh_head(trained, photos, tmp_path):
    _, _, out = trained
    two = tmp_path / "two"
    two.mkdir()
    for name in ("blue", "red"):
        (two / name).symlink_to(photos / name)
    recipe = fine_tune_recipe(
        str(two), model=None, weights=str(out / "fine_tune-seed0.safetensors"), overrides=SMALL
    )
    run_recipe(recipe, tmp_path / "runs", progress=False)
    network = ghostnet.load(tmp_path / "runs" / "fine_tune-seed1.safetensors")
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
    assert network.ghostnet_info["classes"] == ["blue", "red"]


def test_shards_and_conversion_on_images_of_ones_own(photos, tmp_path):
    write_shards(ImageFolder(photos), tmp_path / "shards", images_per_shard=10)
    changes = [*SMALL, "convert_ratio=2", "convert_init=random", "model_args={width_mult=0.5}", "strict=true"]
    recipe = fine_tune_recipe(str(tmp_path / "shards"), model="resnet20", weights=None, overrides=changes)
    result = run_recipe(recipe, tmp_path / "runs", progress=False)
    assert list(result["metrics"]["stages"]) == ["dense", "as converted"]
    assert result["metrics"]["count"] == 6
    written = json.loads((tmp_path / "runs" / "fine_tune-seed1.json").read_text())
    assert written["recipe"]["data"] == str(tmp_path / "shards")


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (lambda: ghostnet.create_model("ghost_vgg16", width_mult=0.25), 32),
        (lambda: ghostnet.create_model("resnet9_050"), 32),
        (lambda: __import__("torchvision").models.squeezenet1_1(weights=None), 64),
    ],
)
def test_fresh_heads_survive_saving(build, size, tmp_path):
    model = build()
    ghostnet.save(model, tmp_path / "first.safetensors")
    model = ghostnet.load(tmp_path / "first.safetensors")
    give_fresh_head_(model, 7, seed=3)
    assert output_count(model) == 7
    ghostnet.save(model, tmp_path / "again.safetensors")
    images = torch.randn(2, 3, size, size)
    again = ghostnet.load(tmp_path / "again.safetensors")
    assert torch.equal(model.eval()(images), again(images))
    assert again(images).shape == (2, 7)


@pytest.mark.parametrize("method", ["l1", "taylor", "sss"])  # without images, with labels, with training
def test_pruning_on_images_of_ones_own(method, trained, photos, tmp_path):
    start = str(trained[2] / "fine_tune-seed0.safetensors")
    changes = [*SMALL, f"method={method}", "macs=0.6", "teacher=dense"]
    changes += ["sparsity_epochs=1"] if method == "sss" else []
    recipe = fine_tune_recipe(str(photos), model=None, weights=start, overrides=changes)
    metrics = run_recipe(recipe, tmp_path, progress=False)["metrics"]
    assert list(metrics["stages"]) == ["dense", "as converted"]
    conversion = metrics["conversion"]
    assert conversion["macs_after"] / conversion["macs_before"] == pytest.approx(0.6, abs=0.03)
    network = ghostnet.load(tmp_path / "fine_tune-seed1.safetensors")
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_networks_without_a_classifier_are_told():
    with pytest.raises(InputError, match=r"ends in no linear layer or 1x1 convolution"):
        give_fresh_head_(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), 2)


def test_imagenet_recipes_say_what_the_paper_and_the_authors_say():
    paper, later = load_recipe("ghostnet_100_paper"), load_recipe("ghostnet_100")
    assert (paper.batch_size, paper.learning_rate, paper.schedule) == (1024, 0.4, "linear")
    assert (later.epochs, later.schedule, later.weight_decay, later.label_smoothing) == (
        400,
        "cosine",
        4e-5,
        0.1,
    )
    assert later.warmup_fraction * later.epochs == 5
    for recipe in (paper, later):
        with pytest.raises(InputError, match=r"there is no folder imagenet"):
            run_recipe(recipe, "nowhere", progress=False)


@pytest.mark.parametrize(("key", "value"), [("cutout", "4"), ("crop_border", "zeros")])
def test_keys_for_cifar10_alone_are_refused(key, value, photos, tmp_path):
    changes = [*SMALL, f"{key}={value}"]
    recipe = fine_tune_recipe(str(photos), model="resnet20", weights=None, overrides=changes)
    with pytest.raises(InputError, match=rf"`{key}` \(={value}\) is for CIFAR-10 only"):
        run_recipe(recipe, tmp_path, progress=False)


def test_a_single_class_is_refused(photos, tmp_path):
    recipe = fine_tune_recipe(str(photos.parent), model="resnet20", weights=None, overrides=SMALL)
    with pytest.raises(
        InputError, match=r"images\d* has one class 'photos'; a classifier needs two; is .* too high"
    ):
        run_recipe(recipe, tmp_path, progress=False)


@pytest.mark.parametrize("key", ["start", "weights"])
def test_a_network_given_as_an_override_says_its_size_too(key, trained, photos):
    _, _, out = trained
    start = str(out / "fine_tune-seed0.safetensors")
    recipe = fine_tune_recipe(str(photos), model=None, weights=None, overrides=[*SMALL, f"{key}={start}"])
    assert recipe == fine_tune_recipe(str(photos), model=None, weights=start, overrides=SMALL)
    assert (recipe.start, recipe.image_size, recipe.augmentation) == (start, 32, "padded_crop")


def test_a_model_given_as_an_override_says_its_size_too(photos):
    recipe = fine_tune_recipe(str(photos), model=None, weights=None, overrides=["model=resnet20"])
    assert recipe == fine_tune_recipe(str(photos), model="resnet20", weights=None)
    assert recipe.image_size == 32
