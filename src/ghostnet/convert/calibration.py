"""Checks the calibration images that `ghostify` is given and turns them into a list of batches.

Left out: labels; conversion needs none, so the labels of `(images, labels)` pairs are dropped.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ghostnet.errors import InputError, first_line
from ghostnet.modes import evaluating


def calibration_batches(calibration: Tensor | Iterable[Any] | None) -> list[Tensor] | None:
    """Return the batches of `calibration`, checked.

    Args:
        calibration: `(N, C, H, W)` images as a tensor or a numpy array, an iterable of such or of `(images, labels)`;
            None stays None.

    Raises:
        InputError: there is none, one is not `(N, C, H, W)` of floats, or one holds NaN or infinity.

    Example:
        >>> [tuple(batch.shape) for batch in calibration_batches(torch.zeros(2, 3, 8, 8))]
        [(2, 3, 8, 8)]
    """
    if calibration is None:
        return None
    if isinstance(calibration, (str, os.PathLike)):
        raise InputError(
            f"`calibration` (={os.fspath(calibration)!r}) must be images, not where they are: a tensor "
            "(N, C, H, W), or batches of such; of a folder `ghostnet convert --calibration FOLDER` makes them, in "
            "Python data.decode_image and data.evaluation_transform"
        )
    if isinstance(calibration, (Tensor, np.ndarray)):
        items: list[Any] = [calibration]
    elif isinstance(calibration, Iterable):
        items = list(calibration)
    else:
        kind = type(calibration).__name__
        raise InputError(
            f"`calibration` (a {kind}) must be a tensor or array (N, C, H, W), or an iterable of such"
        )
    batches = [_checked(item[0] if isinstance(item, (tuple, list)) and item else item) for item in items]
    if not sum(len(batch) for batch in batches):
        raise InputError("`calibration` holds no image; give at least one, or None to convert without images")
    return [batch for batch in batches if len(batch)]


def _checked(batch: object) -> Tensor:
    if isinstance(batch, np.ndarray) and batch.dtype.kind in "fiub":
        batch = torch.tensor(batch)
    if not isinstance(batch, Tensor) or batch.dim() != 4:
        given = f"shape {tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
        raise InputError(
            f"`calibration` ({given}) must be images of shape (N, C, H, W); add the batch dimension"
        )
    if not batch.is_floating_point():
        raise InputError(
            f"`calibration` ({batch.dtype}) must be floating point, normalised as the network was trained"
        )
    bad = ~torch.isfinite(batch).flatten(1).all(dim=1)
    if bad.any():
        first = int(bad.nonzero()[0])
        raise InputError(
            f"`calibration` has NaN or infinite values in {int(bad.sum())} of {len(batch)} images "
            f"(the first is image {first}); remove them"
        )
    return without_inference(batch.detach())


def without_inference(batch: Tensor) -> Tensor:
    """Return a tensor that gradients may be taken through: a copy of one that was made in inference mode."""
    return batch.clone() if batch.is_inference() else batch


def on_device_of(model: nn.Module, batches: Iterable[Tensor]) -> list[Tensor]:
    """Return the batches on the model's device, in the type of its parameters."""
    parameter = next(model.parameters(), None)
    if parameter is None:
        return list(batches)
    return [batch.to(device=parameter.device, dtype=parameter.dtype) for batch in batches]


def check_images_fit(model: nn.Module, images: Tensor, *, name: str) -> None:
    """Raise unless the model runs on images like these.

    Args:
        model: the network; its modes and statistics are left alone.
        images: `(N, C, H, W)`.
        name: which argument they are, for the message.

    Raises:
        InputError: the forward pass fails, for a wrong number of channels for instance.
    """
    try:
        with evaluating(model), torch.no_grad():
            model(images[:1].clone())  # it may change what it is given
    except Exception as error:  # it is the model's own code that runs
        text = first_line(error)
        raise InputError(
            f"the model does not run on `{name}` of shape {tuple(images.shape)}: {text}"
        ) from error
