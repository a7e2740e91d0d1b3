"""Calibration images for the verbs: a folder of the user's own, as its network wants them, CIFAR-10's, or made ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostnet.checks import check_integer
from ghostnet.cli.output import note
from ghostnet.errors import InputError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ghostnet.data import ImageSource, Preprocessing

CALIBRATION = "--calibration FOLDER, cifar10 or synthetic"
SYNTHETIC = "synthetic"
_BATCH_PIXELS = 256 * 64 * 64  # 256 images of CIFAR-10 or somewhat larger, 20 of ImageNet's size


def check_calibration(place: str) -> None:
    """Raise unless there are images at a place, before anything slow is loaded.

    Raises:
        InputError: neither "cifar10" nor "synthetic" nor a folder.
    """
    if place not in ("cifar10", SYNTHETIC) and not Path(place).expanduser().is_dir():
        if "/" in place or "." in place:
            raise InputError(f"there is no folder {place} of calibration images")
        raise unknown_name("folder or data set", place, ["cifar10", SYNTHETIC])


def folder_images(
    model: nn.Module, place: str, count: int, wanted: Preprocessing
) -> tuple[Tensor, Tensor | None]:
    """Return images of a folder as the network wants them, and their labels where class folders give them.

    Args:
        model: tells its classes.
        place: the folder, or its part to train on where it has one: what is evaluated on is not calibrated on.
        count: how many images at most, spread over all.
        wanted: size and normalisation.

    Raises:
        InputError: there are no images, or none that can be read.
    """
    import torch

    from ghostnet.data import UnreadableImageError, evaluation_transform, read_image, training_folder

    folder = training_folder(place)
    source, labelled = _source(model, folder, wanted)
    transform = evaluation_transform(wanted)
    pixels, labels = [], []
    for index in spread(len(source), count):
        name = source.name(index)
        try:
            pixels.append(transform(read_image(partial(source.read, index), name)))
        except UnreadableImageError as error:
            note(f"skipped {name}: {error.reason}")
            continue
        labels.append(int(source.labels[index]))
    if not pixels:
        raise InputError(f"none of the images in {folder} can be read")
    images = wanted.normalise(torch.stack(pixels)).float()
    return images, torch.tensor(labels) if labelled else None


def synthetic_batches(model: nn.Module, size: tuple[int, int, int], count: int | None) -> list[Tensor]:
    """Return batches of images made for a network, by `convert.synthetic_images`.

    Args:
        model: the trained network.
        size: `(C, H, W)`.
        count: how many; None for 256, of large images fewer.

    Raises:
        InputError: a count below 1.
    """
    from ghostnet.convert import synthetic_images

    pixels = size[1] * size[2]
    if count is None:
        count = max(64, _batch_size(pixels))
    check_integer("--images", count)
    images = synthetic_images(model, count, input_size=size, progress=True)
    return list(images.split(_batch_size(pixels)))


def calibration_batches(
    model: nn.Module, place: str, count: int, wanted: Preprocessing, *, data_dir: str | None = None
) -> list[Any]:
    """Return batches of calibration images; pairs with labels where the place gives labels.

    Args:
        model: tells its classes.
        place: "cifar10" or a folder.
        count: how many images at most.
        wanted: size and normalisation; of CIFAR-10's images the normalisation alone.
        data_dir: where CIFAR-10 lies, or None; a folder is read without it.

    Raises:
        InputError: as `folder_images`, or a count below 1.
    """
    if place == "cifar10":
        from ghostnet.cli import cifar10

        return list(cifar10.calibration_batches(data_dir, count, (wanted.mean, wanted.std)))
    check_integer("--images", count, ending="; 256 to 2048 are enough")
    images, labels = folder_images(model, place, count, wanted)
    size = _batch_size(wanted.size**2)
    batches = images.split(size)
    return list(batches) if labels is None else list(zip(batches, labels.split(size), strict=True))


def first_images(batches: Sequence[Any], count: int) -> Tensor:
    """Return the first images of batches, without their labels."""
    import torch

    taken, missing = [], count
    for batch in batches:
        images = batch[0] if isinstance(batch, tuple) else batch
        taken.append(images[:missing])
        missing -= len(taken[-1])
        if missing <= 0:
            break
    return torch.cat(taken)


def _batch_size(pixels: int) -> int:
    """Return how many images of that many pixels a batch holds."""
    return max(1, min(256, _BATCH_PIXELS // pixels))


def _source(model: nn.Module, folder: Path, wanted: Preprocessing) -> tuple[ImageSource, bool]:
    """Return a folder's images, and whether their labels are the network's classes."""
    from ghostnet.cli.images import count_classes, labelled_for
    from ghostnet.data import UnlabelledImages

    try:
        return labelled_for(model, str(folder), count_classes(model, wanted.size)), True
    except InputError:  # no class folders, or not this network's
        return UnlabelledImages(folder), False


def spread(available: int, count: int) -> list[int]:
    """Return indices of at most `count` images, spread over all, since those of a class lie together."""
    wanted = min(available, count)
    return [number * available // wanted for number in range(wanted)]
