"""What a recipe trains and is measured on: CIFAR-10 in memory, or images of one's own from folders or shards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from ghostnet import data
from ghostnet.errors import InputError
from ghostnet.recipes.identity import images_of
from ghostnet.recipes.schema import Recipe

_CALIBRATION_BATCH = 256
_USUAL_SIZE = 224  # ImageNet's
_EVALUATION_BATCH = 64  # a process's share of it is what evaluation holds in memory

_CIFAR10_ONLY = {key: Recipe.model_fields[key].default for key in ("cutout", "crop_border")}


@dataclass(frozen=True)
class Sets:
    """The data of a run.

    Attributes:
        training: batches to learn from.
        held_out: batches to be measured on.
        classes: their names.
        info: what the saved network says of its images: size, crop, mean and deviation.
        calibration: gives the training images that a conversion may look at, with labels, which most methods drop.
        skipped: gives the images that could not be read so far, with the reasons.
        told: how the images are told from others; see `recipes.identity`.
    """

    training: data.Batches
    held_out: data.Batches
    classes: tuple[str, ...]
    info: dict[str, Any]
    calibration: Callable[[], list[tuple[Tensor, Tensor]]]
    skipped: Callable[[], dict[str, str]]
    told: str = "cifar10"

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Return `(C, H, W)` of one image."""
        side = int(self.info["image_size"])
        return 3, side, side


@dataclass(frozen=True)
class ImageSets:
    """Training and held-out images of one's own, before it is known what size the network wants."""

    training: data.ImageSource
    held_out: data.ImageSource

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names."""
        return tuple(self.training.classes)


def open_image_sets(recipe: Recipe) -> ImageSets:
    """Open the images that a recipe names by path.

    Raises:
        InputError: nothing usable there, or a key that is for CIFAR-10 only.
    """
    for key, plain in _CIFAR10_ONLY.items():
        if (value := getattr(recipe, key)) != plain:
            raise InputError(f"`{key}` (={value}) is for CIFAR-10 only; leave it out for images of your own")
    training, held_out = data.open_split(
        recipe.data, held_out_fraction=recipe.held_out_fraction, seed=recipe.seed
    )
    return ImageSets(training, held_out)


def image_sets(recipe: Recipe, images: ImageSets, model: nn.Module) -> Sets:
    """Return batches of images of one's own as the network wants them."""
    wanted = preprocessing_of(recipe, model)
    common: dict[str, Any] = {"preprocessing": wanted, "workers": recipe.workers, "strict": recipe.strict}
    augmentation = data.CropAugmentation(
        recipe.augmentation, recipe.crop_scale, recipe.crop_padding, recipe.mirror
    )
    training = data.ImageBatches(
        images.training, recipe.batch_size, augmentation=augmentation, seed=recipe.seed, **common
    )
    held_out = data.ImageBatches(images.held_out, _EVALUATION_BATCH, **common)

    def calibration() -> list[tuple[Tensor, Tensor]]:
        chosen = images.training.order(np.random.default_rng([recipe.seed, 3]))[: recipe.calibration_images]
        few = data.ImageBatches(data.Subset(images.training, chosen), _CALIBRATION_BATCH, **common)
        return list(few)

    return Sets(
        training,
        held_out,
        images.classes,
        wanted.to_dict(),
        calibration,
        lambda: {**training.skipped, **held_out.skipped},
        images_of(images.training),
    )


def preprocessing_of(recipe: Recipe, model: nn.Module) -> data.Preprocessing:
    """Return what a recipe says of images, and the network's own size where it says none."""
    side = recipe.image_size or own_size(model) or _USUAL_SIZE
    return data.Preprocessing(side, recipe.crop_fraction, recipe.interpolation, recipe.mean, recipe.std)


def preprocessing_of_teacher(teacher: nn.Module, given: data.Preprocessing) -> data.Preprocessing:
    """Return how a teacher wants its images: what it says of them, and where it says nothing as its student's."""
    size = own_size(teacher)
    said = data.image_info(teacher) | ({"image_size": size} if size else {})
    return data.Preprocessing.from_info(said, given)


def own_size(model: nn.Module) -> int | None:
    """Return the side of the images that a network was trained on or is built for, where it says so."""
    origin = getattr(model, "ghostnet_origin", None) or {}
    side = data.image_info(model).get("image_size") or origin.get("input_size", (0, 0))[1]
    return int(side) or None


def cifar10_sets(recipe: Recipe, dataset: data.Cifar10) -> Sets:
    """Return batches of CIFAR-10: its training images, and its test images as the held-out ones."""
    return Sets(
        batches_of(dataset, recipe, training=True),
        batches_of(dataset, recipe, training=False),
        data.CIFAR10_CLASSES,
        data.Preprocessing(32, 1.0, mean=recipe.mean, std=recipe.std).to_dict(),
        lambda: calibration_batches(dataset, recipe),
        dict,
    )


def batches_of(dataset: data.Cifar10, recipe: Recipe, *, training: bool) -> data.TensorBatches:
    """Return a recipe's training batches, augmented and shuffled, or all test images in order.

    Args:
        dataset: CIFAR-10.
        recipe: gives batch size, normalisation, augmentation and seed.
        training: which of the two.
    """
    if not training:
        return data.TensorBatches(
            dataset.test_images, dataset.test_labels, 500, mean=recipe.mean, std=recipe.std
        )
    return data.TensorBatches(
        dataset.train_images,
        dataset.train_labels,
        recipe.batch_size,
        mean=recipe.mean,
        std=recipe.std,
        augmentation=data.Augmentation(recipe.crop_padding, recipe.mirror, recipe.cutout, recipe.crop_border),
        seed=recipe.seed,
    )


def calibration_batches(dataset: data.Cifar10, recipe: Recipe) -> list[tuple[Tensor, Tensor]]:
    """Return the images that a conversion looks at, with labels: the first ones of the training set, as they are."""
    count = recipe.calibration_images
    batches = data.TensorBatches(
        dataset.train_images[:count],
        dataset.train_labels[:count],
        _CALIBRATION_BATCH,
        mean=recipe.mean,
        std=recipe.std,
    )
    return list(batches)
