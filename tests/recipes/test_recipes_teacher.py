"""Which teacher a recipe may distil from, and that its answers mean what the student learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import ghostnet
from ghostnet import InputError
from ghostnet.data import Preprocessing
from ghostnet.recipes import fine_tune_recipe, load_recipe, run_recipe
from ghostnet.recipes import train as room
from ghostnet.recipes.sets import preprocessing_of
from ghostnet.recipes.teacher import known_classes
from ghostnet.recipes.train import prepare
from ghostnet.train import predict
from ghostnet.train.feature_match import feature_match

CLASSES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return three classes of five noisy images."""
    root = tmp_path_factory.mktemp("images") / "photos"
    random = np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for number in range(5):
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def network(classes: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = ghostnet.create_model("resnet20", width_mult=0.25, num_classes=classes).eval()
    nn.init.normal_(head(model).weight)  # answers far apart
    return model


def head(model: nn.Module) -> nn.Linear:
    return next(layer for layer in model.modules() if isinstance(layer, nn.Linear))


def saved(folder: Path, count: int, **info: Any) -> Path:
    path = folder / "teacher.safetensors"
    ghostnet.save(network(count), path, info=info)
    return path


def prepared(photos: Path, out: Path, teacher: Path | str, *changes: str, **options: Any) -> Any:
    overrides = ["batch_size=4", "epochs=1", "model_args={width_mult=0.25}", *changes]
    given: dict[str, Any] = {"model": "resnet20", "weights": None, "teacher": str(teacher), **options}
    return prepare(fine_tune_recipe(str(photos), **given, overrides=overrides), out, progress=False)


def test_answers_of_a_teacher_with_the_classes_in_another_order_are_put_in_order(
    photos: Path, tmp_path: Path
) -> None:
    teacher = saved(tmp_path, 3, classes=["red", "blue", "green"])
    images = torch.randn(4, 3, 32, 32)
    alone = network(3)(images)
    run = prepared(photos, tmp_path, teacher)
    assert run.sets.classes == CLASSES
    torch.testing.assert_close(run.teacher(images), alone[:, [1, 2, 0]], rtol=1e-4, atol=1e-4)
    run = prepared(photos, tmp_path, teacher, 'feature_layers=["layer1.0"]')
    torch.testing.assert_close(run.teacher(images), alone[:, [1, 2, 0]])
    with feature_match(network(3, 1), run.teacher, ["layer1.0"]) as features:  # layers keep their names
        assert features is not None


@pytest.mark.parametrize("info", [{}, {"mean": [0.1, 0.2, 0.3], "image_size": 48}], ids=["alike", "adapted"])
def test_a_teacher_is_rewritten_for_inference(
    info: dict[str, Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def norms(*changes: str) -> int:
        run = prepared(photos, tmp_path, saved(tmp_path, 3, **info), *changes)
        return sum(isinstance(layer, nn.BatchNorm2d) for layer in run.teacher.modules())

    assert norms() == 0
    assert norms('feature_layers=["layer1.0"]') > 0  # which names a layer of the teacher
    with monkeypatch.context() as patch:
        patch.setattr(torch.accelerator, "is_available", lambda: True)
        assert norms() > 0

    def fail(*_: Any, **__: Any) -> nn.Module:
        raise RuntimeError("the results differ")

    monkeypatch.setattr("ghostnet.deploy.optimize", fail)
    assert norms() > 0


def test_the_dense_network_is_rewritten_as_a_teacher(photos: Path, tmp_path: Path) -> None:
    trained = str(saved(tmp_path, 3, classes=list(CLASSES)))
    given: dict[str, Any] = {"model": None, "weights": trained, "teacher": "dense"}
    changes = ["batch_size=4", "epochs=1", "convert_ratio=2", "calibration_images=4"]
    run = prepare(fine_tune_recipe(str(photos), **given, overrides=changes), tmp_path, progress=False)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in run.teacher.modules())
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(run.teacher(images), network(3)(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("names", [list(CLASSES), [], ["0", "1", "2"], ["a", "b"]])
def test_a_teacher_of_these_classes_or_of_unknown_ones_answers_as_it_is(
    names: list[str], photos: Path, tmp_path: Path
) -> None:
    run = prepared(photos, tmp_path, saved(tmp_path, 3, classes=names))
    assert not isinstance(run.teacher, ghostnet.train.AdaptedTeacher)


@pytest.mark.parametrize(
    ("count", "names", "message"),
    [
        (
            3,
            ["a_red", "b_blue", "c_green"],
            r"knows the classes a_red, b_blue, c_green and .*photos has blue, g",
        ),
        (4, [], r"teacher\.safetensors tells 4 classes apart and the network learns 3; take a teacher that"),
        (7, list("abcdefg"), r"tells 7 classes apart and the network learns 3"),
    ],
)
def test_a_teacher_of_other_classes_is_refused_before_any_work(
    count: int, names: list[str], message: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = saved(tmp_path, count, classes=names)
    monkeypatch.setattr(room, "convert_network", lambda *_, **__: pytest.fail("it was converted"))
    with pytest.raises(InputError, match=message):
        prepared(photos, tmp_path, teacher, "convert_ratio=2")


def test_without_labels_the_teachers_classes_are_the_sets(photos: Path, tmp_path: Path) -> None:
    teacher = saved(tmp_path, 10, classes=list("abcdefghij"))
    run = prepared(photos, tmp_path, teacher, unlabelled=True)
    assert run.sets.classes == tuple("abcdefghij")


def test_classes_of_an_earlier_head_are_not_known() -> None:
    model = network(3)
    assert known_classes(model, 3) is None
    model.ghostnet_info = {"classes": [5, 6, 7]}  # type: ignore[assignment]
    assert known_classes(model, 3) == ["5", "6", "7"]
    assert known_classes(model, 4) is None


def test_what_is_learnt_is_what_the_teacher_means(photos: Path, tmp_path: Path) -> None:
    """A student that is its teacher, with the classes in another order, has nothing to learn."""
    own = network(3)
    ghostnet.save(own, tmp_path / "start.safetensors", info={"classes": list(CLASSES)})
    order = [2, 0, 1]
    with torch.no_grad():
        head(own).weight.copy_(head(own).weight[order])
        head(own).bias.copy_(head(own).bias[order])
    ghostnet.save(own, tmp_path / "teacher.safetensors", info={"classes": [CLASSES[k] for k in order]})
    recipe = fine_tune_recipe(
        str(photos),
        model=None,
        weights=str(tmp_path / "start.safetensors"),
        teacher=str(tmp_path / "teacher.safetensors"),
        overrides=[
            "batch_size=4",
            "epochs=1",
            "distillation_weight=1",
            "freeze_batch_norm=true",
            "bf16=false",
        ],
    )
    loss = run_recipe(recipe, tmp_path / "out", progress=False)["metrics"]["curve"][0]["loss"]
    assert loss == pytest.approx(0, abs=1e-4)


def test_the_size_of_a_network_of_timm_is_known() -> None:
    model = nn.Identity()
    given = load_recipe("fine_tune")
    assert preprocessing_of(given, model).size == 224
    look = {"interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.9}
    model.pretrained_cfg = {"input_size": (3, 260, 260), **look}  # type: ignore[assignment]
    assert preprocessing_of(given, model).size == 260


def test_a_network_whose_classifier_is_drawn_anew_does_not_teach_itself(photos: Path, tmp_path: Path) -> None:
    other = saved(tmp_path, 3, classes=["red", "blue", "green"])
    for weights in (other, saved(tmp_path, 5)):
        with pytest.raises(
            InputError, match=r"\(='dense'\) has nothing to teach: the classifier is drawn anew for"
        ):
            prepared(photos, tmp_path, "dense", "convert_ratio=2", model=None, weights=str(weights))
    with pytest.raises(
        InputError, match=r"nothing to teach: resnet20 starts from random weights; name trained"
    ):
        prepared(photos, tmp_path, "dense", "convert_ratio=2")
    with pytest.raises(
        InputError, match=r"nothing to teach: torchvision:resnet18 starts from random weights"
    ):
        prepared(photos, tmp_path, "dense", "convert_ratio=2", model="torchvision:resnet18")


@pytest.mark.parametrize("unlabelled", [False, True])
def test_a_teacher_sees_images_as_its_file_says(unlabelled: bool, photos: Path, tmp_path: Path) -> None:
    mean, std = [0.1, 0.2, 0.3], [0.5, 1.0, 2.0]
    teacher = saved(tmp_path, 10 if unlabelled else 3, mean=mean, std=std, image_size=48)
    run = prepared(
        photos, tmp_path, teacher, "mean=[0.4, 0.5, 0.6]", "std=[0.2, 0.3, 0.4]", unlabelled=unlabelled
    )
    pixels = torch.rand(4, 3, 32, 32)

    def normalised(mean: list[float], std: list[float]) -> torch.Tensor:
        return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    alone = network(10 if unlabelled else 3)
    larger = nn.functional.interpolate(normalised(mean, std), (48, 48), mode="bilinear", antialias=True)
    found = run.teacher(normalised([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    torch.testing.assert_close(found, alone(larger), rtol=1e-4, atol=1e-4)


def test_sizes_stay_where_maps_are_matched(photos: Path, tmp_path: Path) -> None:
    run = prepared(photos, tmp_path, saved(tmp_path, 3, image_size=48), 'feature_layers=["layer1.0"]')
    assert not isinstance(run.teacher, ghostnet.train.AdaptedTeacher)


def test_a_teacher_labels_images_as_its_file_says(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Preprocessing] = []

    def answer(teacher: nn.Module, paths: list[Path], wanted: Preprocessing, **_: Any) -> list[Any]:
        asked.append(wanted)
        return predict(teacher, paths, wanted, top_k=1)

    monkeypatch.setattr("ghostnet.recipes.unlabelled.predict", answer)
    own = Preprocessing(40, 0.8, "bicubic", (0.0,) * 3, (1.0,) * 3)
    prepared(photos, tmp_path, saved(tmp_path, 10, **own.to_dict()), unlabelled=True)
    assert asked == [own]
