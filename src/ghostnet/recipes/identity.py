"""What a run is of: the recipe, the images and the files it starts from, so that leftovers of another run are noticed.

Paths are no part of it, since folders move: files are told by their contents, sets of images by names, labels and the
bytes of a few. Left out is what does not change the weights: speed, logging, how often there is a look or a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch
from torch import nn

from ghostnet import data
from ghostnet.files import sha256_of_file

_LOOKED_AT = 16  # images whose bytes are read, evenly spread: other images of the same names are noticed
_WITHOUT_EFFECT = {
    *("name", "exhibit", "data", "workers", "strict", "compile", "checkpoint_seconds", "tensorboard"),
    *("evaluate_every", "untrained", "keep_in_memory"),
}
_FILES = ("start", "weights", "teacher", "teacher_weights")
_CONVERSION = (
    *("model", "model_args", "weights", "start", "seed", "method", "macs", "convert_ratio", "allocation"),
    "streams",
    *("convert_init", "cheap_kernel_size", "calibration_images", "held_out_fraction", "mean", "std"),
    *("image_size", "crop_fraction", "interpolation"),
)
_SPARSITY = (  # what the training before the choice depends on too
    *(
        "sparsity_epochs",
        "sparsity_learning_rate",
        "momentum",
        "nesterov",
        "weight_decay",
        "decay_norms",
        "bf16",
    ),
    *("batch_size", "augmentation", "crop_scale", "crop_padding", "crop_border", "mirror", "cutout"),
)


def identity_of(recipe: pydantic.BaseModel, images: str) -> dict[str, Any]:
    """Return what a checkpoint must share with the run that goes on from it, as plain values by key.

    Args:
        recipe: with references resolved.
        images: from `images_of` or `boxes_of`; "cifar10" for CIFAR-10.
    """
    values = {key: value for key, value in recipe.model_dump().items() if key not in _WITHOUT_EFFECT}
    for key, usual in (("labels", "folders"), ("streams", None), ("optimizer", "sgd")):
        if key in values and values[key] == usual:
            del values[key]  # checkpoints older than this key go on
    for key in _FILES:
        path = Path(str(values.get(key) or ""))
        if path.is_file():
            values[key] = f"a file with SHA-256 {sha256_of_file(path)[:12]}"
    plain: dict[str, Any] = json.loads(json.dumps({**values, "images": images}))
    return plain


def first_difference(recipe: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Return the first key that changes the weights and in which two recipes differ, or None.

    Keys that one of them lacks, which may be older than they, are not compared; files, whose folders move, by name.

    Example:
        >>> first_difference({"epochs": 1.0, "workers": 0}, {"epochs": 164.0, "workers": 2, "nesterov": True})
        'epochs'
    """

    def told(values: Mapping[str, Any], key: str) -> Any:
        return os.path.basename(str(values[key])) if key in _FILES else values[key]

    shared = sorted(({*recipe} & {*other}) - _WITHOUT_EFFECT)
    return next((key for key in shared if told(recipe, key) != told(other, key)), None)


def conversion_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an identity that a conversion depends on."""
    keys = {*_CONVERSION, "images"} | ({*_SPARSITY} if identity["method"] == "sss" else set())
    return {key: value for key, value in identity.items() if key in keys}


def images_of(source: data.ImageSource) -> str:
    """Return how a set of images is told from others: count, classes and a digest of names, labels and some bytes."""
    names = [
        f"{label}/{os.path.basename(source.name(index))}"
        for index, label in enumerate(source.labels.tolist())
    ]
    return _told(names, source.classes, source.read)


def boxes_of(source: data.DetectionSet) -> str:
    """Return the same for images with boxes, boxes included."""
    names = [
        f"{image.path.name} {image.boxes.tolist()} {image.labels.tolist()} {image.ignored.tolist()}"
        for image in source.images
    ]
    return _told(names, source.classes, lambda index: source.images[index].path.read_bytes())


def weights_of(model: nn.Module) -> str:
    """Return a digest of a network's tensors."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"SHA-256 {digest.hexdigest()[:12]}"


def _told(names: Sequence[str], classes: Sequence[str], read: Callable[[int], bytes]) -> str:
    digest = hashlib.sha256()
    for text in (*classes, *names):
        digest.update(os.fsencode(text) + b"\n")
    for index in np.unique(np.linspace(0, len(names) - 1, _LOOKED_AT).round().astype(int)):
        try:
            digest.update(hashlib.sha256(read(int(index))).digest())
        except OSError:  # training says so, or leaves the image out
            digest.update(b"unreadable")
    return f"{len(names)} in {len(classes)} classes ({digest.hexdigest()[:12]})"
