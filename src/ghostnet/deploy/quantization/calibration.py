"""Calibration images: what ranges of values run through a network, as one array that every quantiser reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ghostnet.errors import InputError

MIN_IMAGES = 16  # fewer show neither the ranges nor whether answers change


def calibration_array(given: Any, input_size: Sequence[int]) -> np.ndarray:
    """Return calibration images as one float32 array `(N, C, H, W)`.

    Args:
        given: such an array or tensor, or an iterable of batches: arrays, tensors, or tuples whose first entry is one
            (labels behind it are not read). Images are normalised as the network expects.
        input_size: `(C, H, W)` of the network.

    Raises:
        InputError: another type, dtype or shape, values that are not finite, or fewer than 16 images.

    Example:
        >>> calibration_array(np.zeros((16, 3, 8, 8), np.float32), (3, 8, 8)).shape
        (16, 3, 8, 8)
    """
    given = _plain(given)
    images = given if isinstance(given, np.ndarray) else _joined(given)
    if images.dtype != np.float32:
        raise InputError(
            f"calibration images must be float32, not {images.dtype}; use array.astype('float32')"
        )
    sizes = tuple(input_size)
    if images.ndim != 1 + len(sizes) or images.shape[1:] != sizes:
        wanted = ", ".join(map(str, sizes))
        raise InputError(
            f"calibration images of shape {images.shape} do not fit; the network takes (N, {wanted})"
        )
    if len(images) < MIN_IMAGES:
        raise InputError(
            f"{len(images)} calibration images are too few; give at least {MIN_IMAGES}, 200 to 500 are usual"
        )
    finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if not finite.all():
        raise InputError(
            f"calibration image {int(finite.argmin())} holds NaN or infinity; leave it out or repair the loading"
        )
    return np.ascontiguousarray(images)


def labels_array(given: Any, count: int) -> np.ndarray | None:
    """Return labels as int64 `(N,)`, or None where none are given.

    Raises:
        InputError: not one integer for each image.
    """
    if given is None:
        return None
    labels = np.asarray(given)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels of shape {labels.shape} and type {labels.dtype} must be {count} integers")
    return labels.astype(np.int64)


def _joined(given: Any) -> np.ndarray:
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | dict):
        raise InputError(
            f"calibration (={type(given).__name__}) must be a float32 array (N, C, H, W) or an iterable of batches"
        )
    batches = [_array(batch) for batch in given]
    if not batches:
        raise InputError(f"there are no calibration images; give at least {MIN_IMAGES}")
    if len({batch.shape[1:] for batch in batches}) > 1:
        raise InputError(f"calibration batches differ in shape: {batches[0].shape} and others; give one size")
    return np.concatenate(batches)


def _plain(value: Any) -> Any:
    """Return a tensor as an array, and anything else as it is."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def _array(batch: Any) -> np.ndarray:
    first = _plain(batch[0] if isinstance(batch, tuple | list) else batch)
    if not isinstance(first, np.ndarray) or first.ndim != 4:
        found = getattr(first, "shape", type(first).__name__)
        raise InputError(f"a calibration batch must be an array (N, C, H, W), not {found}")
    return first
