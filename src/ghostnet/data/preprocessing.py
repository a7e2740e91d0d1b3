"""What happens to pixels between decoding and the network, as torchvision's transforms v2 on uint8 images.

Evaluation: the shorter side to size / crop_fraction, then the centre (256 and 224 for 0.875, the paper's single crop).
Training: random-resized crop and mirror, or for small images a padded crop. Both give uint8, so that worker processes
pass on a quarter of the bytes; `normalise` makes floats of a whole batch on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ghostnet.errors import InputError, unknown_name

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of ImageNet's training images, as torchvision's networks were trained
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = ("bilinear", "bicubic")
AUGMENTATIONS = ("resized_crop", "padded_crop")
ImageTransform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Preprocessing:
    """How a network wants its images; kept in a saved network's info.

    Attributes:
        size: side in pixels of the square that the network is given.
        crop_fraction: share of the resized image's side that the centre crop keeps, in (0, 1].
        interpolation: "bilinear" or "bicubic", both antialiased.
        mean, std: per-channel normalisation of pixel values in [0, 1].
    """

    size: int = 224
    crop_fraction: float = 0.875
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"the image size (={self.size}) must be an integer >= 1")
        if not 0 < self.crop_fraction <= 1:
            raise InputError(f"`crop_fraction` (={self.crop_fraction}) must be above 0 and at most 1")
        if self.interpolation not in INTERPOLATIONS:
            raise unknown_name("interpolation", self.interpolation, INTERPOLATIONS)
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise InputError(
                f"`mean` and `std` (={self.mean}, {self.std}) must hold three numbers, `std` above 0"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields under the names that a saved network's info uses; `from_info` reads them."""
        return {
            "image_size": self.size,
            "crop_fraction": self.crop_fraction,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_info(cls, info: Mapping[str, Any], default: Preprocessing) -> Preprocessing:
        """Return what a saved network's info says, and `default` for what it leaves out."""
        return cls(
            int(info.get("image_size", default.size)),
            float(info.get("crop_fraction", default.crop_fraction)),
            str(info.get("interpolation", default.interpolation)),
            tuple(info.get("mean", default.mean)),
            tuple(info.get("std", default.std)),
        )

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn uint8 pixels `(N, 3, H, W)` into the network's float32 input, on the device that they are on.

        On the CPU the result is in channels_last order, as decoded pixels are.
        """
        std = torch.tensor(self.std, dtype=torch.float32, device=pixels.device).view(3, 1, 1)
        mean = torch.tensor(self.mean, dtype=torch.float32, device=pixels.device).view(3, 1, 1)
        scale, shift = 1 / (255 * std), mean / std
        if pixels.device.type != "cpu":
            return torch.mul(pixels, scale).sub_(shift)
        count, channels, height, width = pixels.shape
        # numpy asks the system for huge pages: the page faults of a fresh batch cost more than filling it
        images = torch.from_numpy(np.empty((count, height, width * channels), dtype=np.float32))
        rows = pixels.permute(0, 2, 3, 1).reshape(count, height, width * channels)
        scale, shift = scale.flatten().repeat(width), shift.flatten().repeat(width)
        # image by image: one fits the cache, a batch does not, and this is twice as fast
        for image, source in zip(images, rows, strict=True):
            torch.mul(source, scale, out=image)
            image.sub_(shift)
        return images.view(count, height, width, channels).permute(0, 3, 1, 2)


def _timm_info(model: object) -> dict[str, Any]:
    """Return what timm's configuration of a network says of its images, as `Preprocessing.from_info` reads it.

    Args:
        model: any; the dictionary of one that timm did not build is empty.
    """
    theirs = getattr(model, "pretrained_cfg", None)
    if not isinstance(theirs, dict) or "mean" not in theirs:
        return {}
    named = {"interpolation": theirs["interpolation"], "mean": theirs["mean"], "std": theirs["std"]}
    return {"image_size": theirs["input_size"][1], "crop_fraction": theirs["crop_pct"], **named}


def image_info(model: object) -> dict[str, Any]:
    """Return what a network says of its images, as `Preprocessing.from_info` reads it, and all else in its file's info.

    What its file says (`ghostnet_info`) wins over timm's configuration of it.

    Args:
        model: any; the dictionary of one that says nothing is empty.

    Example:
        >>> image_info(object())
        {}
    """
    return {**_timm_info(model), **(getattr(model, "ghostnet_info", None) or {})}


@dataclass(frozen=True)
class CropAugmentation:
    """What is drawn for each training image of a folder or of shards.

    Attributes:
        kind: "resized_crop": a random part of the image, resized (ImageNet's custom); "padded_crop": the whole image
            resized, then cropped at random from reflected borders (CIFAR's custom, for images of the network's size).
        scale: for "resized_crop", the least and largest share of the image's area.
        padding: for "padded_crop", pixels of border.
        mirror: flip left-right with probability 1/2.
    """

    kind: str = "resized_crop"
    scale: tuple[float, float] = (0.08, 1.0)
    padding: int = 4
    mirror: bool = True

    def __post_init__(self) -> None:
        if self.kind not in AUGMENTATIONS:
            raise unknown_name("augmentation", self.kind, AUGMENTATIONS)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(
                f"`crop_scale` (={list(self.scale)}) must be two shares of the area, 0 < least <= most <= 1"
            )
        if self.padding < 0:
            raise InputError(f"`crop_padding` (={self.padding}) must be >= 0; 0 turns it off")


def evaluation_transform(wanted: Preprocessing) -> ImageTransform:
    """Return resize and centre crop: uint8 `(3, H, W) -> (3, size, size)`."""
    from torchvision.transforms import InterpolationMode, v2

    side = round(wanted.size / wanted.crop_fraction)
    mode = InterpolationMode(wanted.interpolation)
    return v2.Compose([v2.Resize(side, interpolation=mode, antialias=True), v2.CenterCrop(wanted.size)])


def training_transform(wanted: Preprocessing, augmentation: CropAugmentation) -> ImageTransform:
    """Return random crop and mirror: uint8 `(3, H, W) -> (3, size, size)`; draws from torch's global generator."""
    from torchvision.transforms import InterpolationMode, v2

    mode = InterpolationMode(wanted.interpolation)
    steps: list[Any]
    if augmentation.kind == "resized_crop":
        steps = [
            v2.RandomResizedCrop(wanted.size, scale=augmentation.scale, interpolation=mode, antialias=True)
        ]
    else:
        steps = [v2.Resize(wanted.size, interpolation=mode, antialias=True), v2.CenterCrop(wanted.size)]
        if augmentation.padding:
            steps.append(v2.RandomCrop(wanted.size, padding=augmentation.padding, padding_mode="reflect"))
    if augmentation.mirror:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose(steps)
