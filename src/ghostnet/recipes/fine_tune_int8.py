"""Fine-tuning for int8: rounding, the one training loop and the images of a recipe meet here.

The network learns the float network's answers on augmented training images (distillation alone), so that labels are not
read and the classes may be numbered in any way.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ghostnet import data, deploy
from ghostnet.errors import InputError
from ghostnet.recipes.identity import identity_of, weights_of
from ghostnet.recipes.schema import Recipe, load_recipe
from ghostnet.recipes.sets import cifar10_sets, image_sets, open_image_sets
from ghostnet.train import fit

_SMALL = 64  # pixels; as in `fine_tune`
_SETTINGS = (
    *("learning_rate=0.002", "weight_decay=1e-4", "gradient_clip=1.0", "label_smoothing=0"),
    *("distillation_weight=1", "temperature=4", "bf16=false"),  # bfloat16 has no room for the grid
)


def fine_tune_int8(
    model: nn.Module,
    images: Any,
    *,
    data_path: str,
    preprocessing: data.Preprocessing,
    target: str = "onnx",
    passes: Sequence[str] | None = None,
    weight_bits: int | None = None,
    overrides: Sequence[str] = (),
    data_root: str | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> deploy.FakeQuantized:
    """Return a network that was fine-tuned with 8-bit rounding, ready for `deploy.quantize`.

    Args:
        model: a trained classifier; it is untouched, and is the teacher.
        images: for the first ranges, as for `deploy.fake_quantized`.
        data_path: "cifar10", or a folder or shards as for `fine_tune_recipe`: images to train on.
        preprocessing: how the network wants its images.
        target: key of `deploy.TARGETS` whose rewrites are made first.
        passes: names of the rewrites instead.
        weight_bits: of a weight, 2 to 8; None as for `deploy.fake_quantized`.
        overrides: `key=value` of a recipe: `epochs`, `learning_rate`, `batch_size`, ….
        data_root: where CIFAR-10 is, if not in the cache.
        checkpoint: file to write now and then and to go on from.
        progress: show progress on standard error.

    Raises:
        InputError: as `deploy.fake_quantized`, unusable images, a wrong override, or bfloat16.
    """
    recipe = _recipe(data_path, preprocessing, overrides)
    size = (3, preprocessing.size, preprocessing.size)
    network = deploy.fake_quantized(
        model, images, target=target, passes=passes, weight_bits=weight_bits, input_size=size
    )
    if recipe.data == "cifar10":
        sets = cifar10_sets(recipe, data.load_cifar10(data_root, progress=progress))
    else:
        found = open_image_sets(recipe)
        recipe = recipe.model_copy(update={"batch_size": min(recipe.batch_size, len(found.training))})
        sets = image_sets(recipe, found, model)
    fit(
        network,
        sets.training,
        recipe.settings(),
        teacher=network.reference,
        checkpoint=checkpoint,
        identity={**identity_of(recipe, sets.told), "network": weights_of(model)},
        progress=progress,
        description="fine-tuning for int8",
    )
    return network


def _recipe(data_path: str, wanted: data.Preprocessing, overrides: Sequence[str]) -> Recipe:
    small = wanted.size <= _SMALL
    usual = [*_SETTINGS, f'augmentation="{"padded_crop" if small else "resized_crop"}"']
    changes = [*usual, f"batch_size={128 if small else 32}", *overrides]
    recipe = load_recipe("fine_tune", changes, taught=True)
    if recipe.bf16:
        raise InputError("`bf16` (=true) has no room for a grid of 8 bits; fine-tune for int8 in float32")
    return recipe.model_copy(update={"data": data_path, "image_size": wanted.size, **_image_keys(wanted)})


def _image_keys(wanted: data.Preprocessing) -> dict[str, Any]:
    return {key: getattr(wanted, key) for key in ("crop_fraction", "interpolation", "mean", "std")}
