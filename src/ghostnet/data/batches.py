"""Batches cut from images that fit in memory, as tensors: normalised, shuffled and augmented by (seed, epoch, index).

A batch depends on nothing else, so a run that starts in the middle of an epoch sees what the uninterrupted one saw.
Left out: decoding and worker processes; CIFAR-10 is 180 MB and is augmented faster than it could be passed around.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ghostnet.data.augment import Augmentation, check_reflected_border, cutout, random_crop, random_mirror
from ghostnet.errors import InputError

Batch = tuple[Tensor, Tensor]


class Batches(Protocol):
    """What training and evaluation need of a set: a batch is a function of (seed, epoch, index) alone.

    Attributes:
        batch_size: images a batch, over all processes.
        seed: of shuffling and augmentation.
    """

    batch_size: int
    seed: int

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Any, Any]]: ...

    def epoch(
        self,
        epoch: int,
        *,
        start: int = 0,
        share: tuple[int, int] = (0, 1),
        device: torch.device | None = None,
    ) -> Iterator[tuple[Any, Any]]:
        """Yield this process's share of the batches of an epoch, normalised, on a device.

        A pair is `(images, labels)`, two tensors, or for an objective that takes them lists with an entry an image.
        """


class TensorBatches:
    """Batches of `(images, labels)`: float32 `(N, C, H, W)` normalised, and int64 `(N,)`.

    Args:
        images: uint8 `(count, H, W, C)`.
        labels: integers `(count,)`.
        batch_size: images a batch; the last one of an epoch may be smaller, and is dropped where images are shuffled.
        mean: per-channel mean of pixel values in [0, 1].
        std: per-channel standard deviation of the same.
        augmentation: None keeps pixels; otherwise images are shuffled and augmented.
        shuffle: shuffle without `augmentation`, too, to train on images as they are; nothing shuffled keeps the order.
        seed: of shuffling and augmentation.

    Raises:
        InputError: shapes or channels that do not agree, a label below 0, an empty set, a batch size below 1, or a
            border wider than the images.

    Example:
        >>> batches = TensorBatches(np.zeros((8, 4, 4, 3), np.uint8), np.zeros(8), 4, mean=(0, 0, 0), std=(1, 1, 1))
        >>> [images.shape[0] for images, labels in batches.epoch(0)]
        [4, 4]
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: Augmentation | None = None,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
            raise InputError(
                f"images must be uint8 of shape (count, H, W, C), not {images.dtype} of shape {images.shape}"
            )
        if images.shape[3] != len(mean) or len(mean) != len(std):
            hint = "; (N, C, H, W)? use .transpose(0, 2, 3, 1)" if images.shape[1] == len(mean) else ""
            raise InputError(
                f"images of shape {images.shape} have {images.shape[3]} channels in their last axis, `mean` has "
                f"{len(mean)} and `std` {len(std)}{hint}"
            )
        if labels.shape != (len(images),):
            raise InputError(
                f"{len(images)} images need as many labels, not an array of shape {labels.shape}"
            )
        if (labels.astype(np.int64) < 0).any():
            raise InputError(f"labels must be integers >= 0, not {int(labels.min())}")
        self.shuffled = shuffle or augmentation is not None
        if batch_size < 1 or (self.shuffled and batch_size > len(images)):
            raise InputError(f"`batch_size` (={batch_size}) must be between 1 and the {len(images)} images")
        if augmentation is not None and augmentation.crop_border == "reflect":
            check_reflected_border(augmentation.crop_padding, min(images.shape[1:3]))
        self.images = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed
        self._scale = 1.0 / (255.0 * torch.tensor(std, dtype=torch.float32)).view(1, -1, 1, 1)
        self._shift = -(torch.tensor(mean) / torch.tensor(std)).float().view(1, -1, 1, 1)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        if self.shuffled:
            return len(self.images) // self.batch_size
        return -(-len(self.images) // self.batch_size)

    @property
    def count(self) -> int:
        """Images in the set."""
        return len(self.images)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn uint8 pixels `(N, C, H, W)` into what the network is given."""
        return torch.addcmul(self._shift, pixels.float(), self._scale)

    def epoch(
        self,
        epoch: int,
        *,
        start: int = 0,
        share: tuple[int, int] = (0, 1),
        device: torch.device | None = None,
    ) -> Iterator[Batch]:
        """Yield the batches of an epoch.

        Args:
            epoch: decides order and augmentation.
            start: first batch.
            share: `(rank, processes)`: this process takes every so many images of each batch. All of them are
                augmented first, so that the pixels do not depend on the number of processes.
            device: where batches are made; the whole set moves there once, and only drawn numbers follow.
        """
        rank, processes = share
        if device is not None:
            self.move_(device)
        order = None
        if self.shuffled:
            order = torch.randperm(len(self.images), generator=_generator(self.seed, epoch, 0))
            order = order.to(self.images.device)
        for index in range(start, len(self)):
            chosen = slice(index * self.batch_size, (index + 1) * self.batch_size)
            rows = chosen if order is None else order[chosen]
            images = self._augmented(self.images[rows], epoch, index)[rank::processes]
            labels = self.labels[rows][rank::processes]
            if len(labels):
                yield images, labels

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of epoch 0."""
        return self.epoch(0)

    def move_(self, device: torch.device) -> None:
        """Move the whole set to a device."""
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        self._scale, self._shift = self._scale.to(device), self._shift.to(device)

    def _augmented(self, pixels: Tensor, epoch: int, index: int) -> Tensor:
        chosen = self.augmentation
        if chosen is None:
            return self.normalise(pixels)
        generator = _generator(self.seed, epoch, index + 1)
        if chosen.crop_padding:
            pixels = random_crop(pixels, chosen.crop_padding, generator, chosen.crop_border)
        if chosen.mirror:
            pixels = random_mirror(pixels, generator)
        images = self.normalise(pixels)
        return cutout(images, chosen.cutout, generator) if chosen.cutout else images


def _generator(seed: int, epoch: int, stream: int) -> torch.Generator:
    mixed = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed) >> 1)
