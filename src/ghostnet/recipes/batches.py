"""CIFAR-10 as a recipe wants it: training batches, test images, calibration images."""

from __future__ import annotations

from torch import Tensor

from ghostnet import data
from ghostnet.recipes.schema import Recipe

_CALIBRATION_BATCH = 256


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
