"""The recipe of a fine-tuning run on a folder of one's own, completed by what the weights say of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ghostnet import data, models
from ghostnet.errors import InputError
from ghostnet.recipes.schema import Recipe, load_recipe, name_and_file

_SMALL = 64  # pixels; at this size and below images are cropped by a few pixels, not to a random part


def fine_tune_recipe(
    data_path: str,
    *,
    model: str | None,
    weights: str | None,
    teacher: str | None = None,
    unlabelled: bool = False,
    overrides: Sequence[str] = (),
) -> Recipe:
    """Return the packaged recipe `fine_tune` for these images and this network.

    Size, crop, interpolation and normalisation are those that the weights were trained with, where their file says so.
    Networks for small images (64 pixels at most) are trained with padded crops, and CIFAR-10's normalisation where
    their file says none.

    Args:
        data_path: folder or shards.
        model: name of the zoo or of a network from outside (`models.outside_of`); None takes what the saved network
            `weights` is, or GhostNet 1.0x.
        weights: a saved network, or for `model` a packaged tag or checkpoint; None starts from random weights. A name
            from outside with its file ("nets.py:Net=mine.pth") stands for both.
        teacher: a trained network to learn from as well, saved, a packaged name or one from outside; None has none.
        unlabelled: the images have no labels: the teacher's answers alone are learnt.
        overrides: `key=value`; they win, and name a network (`start`, `weights`, `model`) as well as the arguments do.

    Raises:
        InputError: weights that cannot be read, an unknown name, or a wrong override.
    """
    first = load_recipe("fine_tune", overrides, taught=teacher is not None)
    given = {override.partition("=")[0].strip() for override in overrides}
    model = first.model if "model" in given else model
    weights = first.weights or None if "weights" in given else weights
    start = first.start
    if model is None and weights and models.outside_of(weights) is not None:
        model, weights = weights, None
    model, weights = name_and_file(model, weights)
    if model is None and not start and weights in models.list_models() and not Path(str(weights)).is_file():
        raise InputError(
            f"{weights} names a network, not its weights; write --model {weights} (model={weights})"
        )
    if not start and weights is not None and model is None and Path(weights).suffix == ".safetensors":
        start = weights
    network = {"start": start} if start else {"model": model or first.model, "weights": weights or ""}
    found = {} if start.startswith("@") else _as_trained(network, first)  # that file may not be there yet
    wanted: dict[str, Any] = {"data": data_path, **found}
    if teacher is not None:
        wanted["teacher"], taught_by = name_and_file(teacher, first.teacher_weights)
        wanted |= {"teacher_weights": taught_by} if taught_by else {}
    if unlabelled:
        wanted |= {"labels": "teacher", "distillation_weight": 1.0}
    kept = {key: value for key, value in wanted.items() if key not in given}
    return first.model_copy(update={"weights": "", **network, **kept})


def _as_trained(changes: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return the image keys for a network: what its file says, else what its size suggests."""
    info: dict[str, Any] = {}
    if "start" in changes:
        network = models.load(changes["start"])
        info = data.image_info(network)
        origin = getattr(network, "ghostnet_origin", None) or {}
        side = int(origin.get("input_size", (3, 224, 224))[1])
    elif models.outside_of(changes["model"]) is not None:
        info = data.image_info(
            models.create_outside(changes["model"], changes["weights"] or None, new_head=True)
        )
        side = recipe.image_size or 224
    else:
        named = models.model_info(changes["model"])
        side = named.input_size[1]
        if changes["weights"] in named.weights or Path(changes["weights"]).suffix == ".safetensors":
            info = data.image_info(models.create_model(changes["model"], weights=changes["weights"]))
    side = int(info.get("image_size", side))
    small = side <= _SMALL
    default = data.Preprocessing(
        side,
        1.0 if small else recipe.crop_fraction,
        recipe.interpolation,
        data.CIFAR10_MEAN if small else recipe.mean,
        data.CIFAR10_STD if small else recipe.std,
    )
    found = data.Preprocessing.from_info(info, default).to_dict()
    found |= {"mean": tuple(found["mean"]), "std": tuple(found["std"])}
    return {**found, "augmentation": "padded_crop" if small else "resized_crop"}
