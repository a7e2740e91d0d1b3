"""Calibration images of `ghostnet export --precision int8`: the user's own, or CIFAR-10's training images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostnet.errors import InputError, unknown_name

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from ghostnet.data import Preprocessing

PRECISIONS = ("fp32", "int8")


def check_int8(precision: str, calibration: str | None, target: str) -> None:
    """Refuse what cannot be done, before anything slow is loaded.

    Raises:
        InputError: an unknown precision, int8 without images or images without int8, a place that is not there,
            or a target without int8.
    """
    if precision not in PRECISIONS:
        raise unknown_name("export precision", precision, PRECISIONS)
    if precision != "int8":
        if calibration is not None:
            raise InputError("--calibration is for --precision int8; give both or neither")
        return
    from ghostnet.deploy.quantization.quantiser import require_quantiser

    require_quantiser(target)
    if calibration is None:
        raise InputError(
            "int8 needs images to calibrate on: give --calibration FOLDER or --calibration cifar10"
        )
    if calibration != "cifar10" and not Path(calibration).expanduser().is_dir():
        if "/" in calibration or "." in calibration:
            raise InputError(f"there is no folder {calibration} of calibration images")
        raise unknown_name("data set", calibration, ["cifar10"])


def int8_images(
    model: nn.Module, place: str, count: int, wanted: Preprocessing
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return calibration images as the network wants them, and their labels where a class folder gives them.

    Args:
        model: tells its classes.
        place: "cifar10" or a folder.
        count: how many images at most.
        wanted: size and normalisation.

    Raises:
        InputError: too few images, none that can be read, or a count below 1.
    """
    from ghostnet.deploy.quantization.calibration import MIN_IMAGES

    if count < MIN_IMAGES:
        raise InputError(
            f"--calibration-images (={count}) must be at least {MIN_IMAGES}; 200 to 500 are usual"
        )
    if place == "cifar10":
        from ghostnet.cli.cifar10 import calibration_batches

        batches: list[tuple[Any, Any]] = calibration_batches(None, count, (wanted.mean, wanted.std))
        return _joined([images for images, _ in batches]), _joined([labels for _, labels in batches])
    return _from_folder(model, Path(place).expanduser(), count, wanted)


def _from_folder(
    model: nn.Module, folder: Path, count: int, wanted: Preprocessing
) -> tuple[np.ndarray, np.ndarray | None]:
    import numpy as np
    import torch

    from ghostnet.cli.images import count_classes, image_files, labelled_for
    from ghostnet.data import decode_image, evaluation_transform

    folder = folder / "train" if (folder / "train").is_dir() else folder  # never what is evaluated on
    try:
        source = labelled_for(model, str(folder), count_classes(model, wanted.size))
        chosen = _spread(len(source), count)
        read = [(source.read(index), source.name(index)) for index in chosen]
        labels = source.labels[chosen]
    except InputError:  # no class folders, or not this network's: agreement with float is judged instead
        files = image_files([folder])
        read = [(files[index].read_bytes(), str(files[index])) for index in _spread(len(files), count)]
        labels = None
    transform = evaluation_transform(wanted)
    pixels = torch.stack([transform(decode_image(content, name)) for content, name in read])
    return np.ascontiguousarray(wanted.normalise(pixels).float().numpy()), labels


def _spread(available: int, count: int) -> list[int]:
    """Return indices spread over all images, since those of a class lie together."""
    wanted = min(available, count)
    return [number * available // wanted for number in range(wanted)]


def _joined(batches: list[Any]) -> np.ndarray:
    import numpy as np

    return np.concatenate([batch.numpy() for batch in batches])
