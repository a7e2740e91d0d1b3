"""CIFAR-10 as batches for the verbs that measure or calibrate on it.

How pixels are normalised is the network's: what its file says, or a named set of means and deviations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ghostnet.errors import InputError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ghostnet.data import TensorBatches

_BATCH = 256
_IMAGENET = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # of the networks trained by torchvision's examples
_HALF = ((0.5,) * 3, (0.5,) * 3)  # of Inception and of EfficientNet-Lite: pixels in [-1, 1]
NORMALISATION_HELP = (
    "cifar10, imagenet or half ([-1, 1]): how the network's training normalised pixels. Default: what its file says; "
    "else cifar10 up to 64 pixels, imagenet above."
)
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


def normalisation_of(model: nn.Module, given: str | None, default: str = "cifar10") -> Normalisation:
    """Return per-channel means and deviations for a network.

    Args:
        model: its file may state `mean` and `std`.
        given: "cifar10", "imagenet", "half" or None.
        default: for a network whose file states none.

    Raises:
        InputError: another name.
    """
    from ghostnet import data

    known = {"cifar10": (data.CIFAR10_MEAN, data.CIFAR10_STD), "imagenet": _IMAGENET, "half": _HALF}
    if given is not None and given not in known:
        raise unknown_name("normalisation", given, known)
    info = getattr(model, "ghostnet_info", None) or {}
    if given is None and "mean" in info and "std" in info:
        return tuple(info["mean"]), tuple(info["std"])
    return known[given or default]


def test_batches(root: str | None, normalisation: Normalisation) -> TensorBatches:
    """Return all 10,000 test images, in order.

    Args:
        root: folder or archive; None takes the cache, and downloads where that is empty.
        normalisation: from `normalisation_of`.
    """
    from ghostnet import data

    dataset = data.load_cifar10(root, progress=True)
    mean, std = normalisation
    return data.TensorBatches(dataset.test_images, dataset.test_labels, _BATCH, mean=mean, std=std)


def calibration_batches(
    root: str | None, count: int, normalisation: Normalisation
) -> list[tuple[Tensor, Tensor]]:
    """Return batches of the first `count` training images with their labels, which most methods drop.

    Raises:
        InputError: `count` is not between 1 and 50,000.
    """
    from ghostnet import data

    if not 1 <= count <= 50_000:
        raise InputError(f"--images (={count}) must be between 1 and 50000; 256 to 2048 are enough")
    dataset = data.load_cifar10(root, progress=True)
    mean, std = normalisation
    images, labels = dataset.train_images[:count], dataset.train_labels[:count]
    batches = data.TensorBatches(images, labels, _BATCH, mean=mean, std=std)
    return list(batches)
