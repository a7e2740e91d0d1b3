"""CIFAR-10 as batches for the verbs that measure or calibrate on it.

The normalisation is the data room's; a network trained with another one is evaluated through a recipe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ghostnet.errors import InputError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from ghostnet.data import TensorBatches

_BATCH = 256


def check_data_name(name: str) -> None:
    """Raise unless the data set is known.

    Raises:
        InputError: anything but "cifar10".
    """
    if name != "cifar10":
        raise unknown_name("data set", name, ["cifar10"])


def test_batches(root: str | None) -> TensorBatches:
    """Return all 10,000 test images, in order.

    Args:
        root: folder or archive; None takes the cache, and downloads where that is empty.
    """
    from ghostnet import data

    dataset = data.load_cifar10(root, progress=True)
    return data.TensorBatches(
        dataset.test_images, dataset.test_labels, _BATCH, mean=data.CIFAR10_MEAN, std=data.CIFAR10_STD
    )


def calibration_images(root: str | None, count: int) -> list[Tensor]:
    """Return batches of the first `count` training images, without their labels.

    Raises:
        InputError: `count` is not between 1 and 50,000.
    """
    from ghostnet import data

    if not 1 <= count <= 50_000:
        raise InputError(f"--images (={count}) must be between 1 and 50000; 256 to 2048 are enough")
    dataset = data.load_cifar10(root, progress=True)
    batches = data.TensorBatches(
        dataset.train_images[:count],
        dataset.train_labels[:count],
        _BATCH,
        mean=data.CIFAR10_MEAN,
        std=data.CIFAR10_STD,
    )
    return [images for images, _ in batches]
