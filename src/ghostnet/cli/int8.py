"""Calibration images of `ghostnet export --precision int8`: the user's own, or CIFAR-10's training images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ghostnet.cli.calibration import CALIBRATION, check_calibration, folder_images
from ghostnet.errors import InputError, unknown_name

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

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
        raise InputError(f"int8 needs images to calibrate on: give {CALIBRATION}")
    check_calibration(calibration)


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
    images, labels = folder_images(model, place, count, wanted)
    return _array(images), None if labels is None else _array(labels)


def _array(tensor: Tensor) -> np.ndarray:
    import numpy as np

    return np.ascontiguousarray(tensor.numpy())


def _joined(batches: list[Any]) -> np.ndarray:
    import numpy as np

    return np.concatenate([batch.numpy() for batch in batches])
