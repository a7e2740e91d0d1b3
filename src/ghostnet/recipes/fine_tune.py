"""The recipe of a fine-tuning run on a folder of one's own, completed by what the weights say of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ghostnet import data, models
from ghostnet.recipes.schema import Recipe, load_recipe

_SMALL = 64  # pixels; at this size and below images are cropped by a few pixels, not to a random part


def fine_tune_recipe(
    data_path: str, *, model: str | None, weights: str | None, overrides: Sequence[str] = ()
) -> Recipe:
    """Return the packaged recipe `fine_tune` for these images and this network.

    Size, crop, interpolation and normalisation are those that the weights were trained with, where their file says so.
    Networks for small images (64 pixels at most) are trained with padded crops, and CIFAR-10's normalisation where
    their file says none.

    Args:
        data_path: folder or shards.
        model: name of the zoo; None takes what the saved network `weights` is, or GhostNet 1.0x.
        weights: a saved network, or for `model` a packaged tag or checkpoint; None starts from random weights.
        overrides: `key=value`; they win.

    Raises:
        InputError: weights that cannot be read, an unknown name, or a wrong override.
    """
    first = load_recipe("fine_tune", overrides)
    given = {override.partition("=")[0].strip() for override in overrides}
    changes: dict[str, Any] = {"data": data_path}
    if weights is not None and model is None and Path(weights).suffix == ".safetensors":
        changes["start"] = weights
    else:
        changes |= {"model": model or first.model, "weights": weights or ""}
    changes |= _as_trained(changes, first)
    kept = {key: value for key, value in changes.items() if key not in given}
    return first.model_copy(update=kept)


def _as_trained(changes: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return the image keys for a network: what its file says, else what its size suggests."""
    info: dict[str, Any] = {}
    if "start" in changes:
        network = models.load(changes["start"])
        info = getattr(network, "ghostnet_info", None) or {}
        origin = getattr(network, "ghostnet_origin", None) or {}
        side = int(origin.get("input_size", (3, 224, 224))[1])
    else:
        named = models.model_info(changes["model"])
        side = named.input_size[1]
        if changes["weights"] in named.weights or Path(changes["weights"]).suffix == ".safetensors":
            network = models.create_model(changes["model"], weights=changes["weights"])
            info = getattr(network, "ghostnet_info", None) or {}
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
