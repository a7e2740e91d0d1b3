"""Batches decoded from compressed images by worker processes, shuffled and augmented by (seed, epoch, image) alone.

Neither the number of workers nor of processes changes which images come when or how they are cropped, so a run that
starts in the middle of an epoch, or on more machines, sees what the uninterrupted one saw.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ghostnet.data.augment import check_reflected_border
from ghostnet.data.batches import Batch
from ghostnet.data.decode import UnreadableImageError, leave_interrupts_to_parent, read_image
from ghostnet.data.image_folder import ImageSource
from ghostnet.data.preprocessing import (
    CropAugmentation,
    ImageTransform,
    Preprocessing,
    evaluation_transform,
    training_transform,
)
from ghostnet.errors import InputError

_Request = tuple[int, int]  # (epoch, index into the source)
_Failure = tuple[str, str]  # the image's name, and why it cannot be decoded
_Sample = tuple[Tensor | None, int, _Failure | None]


class ImageBatches:
    """Batches of `(images, labels)`: float32 `(N, 3, size, size)` normalised, and int64 `(N,)`.

    An image that cannot be decoded is named on standard error, counted in `skipped` and left out, so that its batch is
    smaller; `strict` makes it an error.

    Args:
        source: an `ImageFolder`, a `ShardFolder` or a `Subset`.
        batch_size: images a batch over all processes; when training the last, smaller batch of an epoch is dropped.
        preprocessing: size and normalisation.
        augmentation: None keeps order and takes the centre; otherwise images are shuffled and augmented.
        seed: of shuffling and augmentation.
        workers: processes that decode; 0 decodes in this one.
        strict: raise at the first image that cannot be decoded.

    Raises:
        InputError: a batch size below 1 or above the number of images, a negative number of workers, or a border wider
            than the images.
    """

    def __init__(
        self,
        source: ImageSource,
        batch_size: int,
        *,
        preprocessing: Preprocessing,
        augmentation: CropAugmentation | None = None,
        seed: int = 0,
        workers: int = 0,
        strict: bool = False,
    ) -> None:
        if batch_size < 1 or (augmentation is not None and batch_size > len(source)):
            raise InputError(f"`batch_size` (={batch_size}) must be between 1 and the {len(source)} images")
        if augmentation is not None and augmentation.kind == "padded_crop":
            check_reflected_border(augmentation.padding, preprocessing.size)
        if workers < 0:
            raise InputError(f"`workers` (={workers}) must be >= 0; 0 decodes in the main process")
        self.source = source
        self.batch_size = batch_size
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.seed = seed
        self.strict = strict
        self.skipped: dict[str, str] = {}
        self._workers = workers
        self._plan = _Plan()
        self._loader: Any = None

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        if self.augmentation is not None:
            return len(self.source) // self.batch_size
        return -(-len(self.source) // self.batch_size)

    @property
    def shuffled(self) -> bool:
        """Whether each epoch has an order of its own."""
        return self.augmentation is not None

    @property
    def count(self) -> int:
        """Images in the set."""
        return len(self.source)

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
            share: `(rank, processes)`: this process takes every so many images of each batch.
            device: where batches are moved, as uint8, before they are normalised.

        Raises:
            InputError: an image cannot be decoded and `strict` is set, or no image of a training batch can.
        """
        self._plan.requests = [
            [(epoch, int(index)) for index in rows] for rows in self._rows(epoch, start, share) if len(rows)
        ]
        for pixels, labels, failures in self._running_loader():
            self._report(failures)
            if not len(labels):
                if self.augmentation is not None:
                    name, reason = failures[0]
                    raise InputError(
                        f"no image of a batch can be read, the first is {name} ({reason}); check the data, or train "
                        "with a larger `batch_size`"
                    )
                continue
            if device is not None:
                pixels = pixels.to(device, non_blocking=True)
                labels = labels.to(device, non_blocking=True)
            yield self.preprocessing.normalise(pixels), labels

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of epoch 0."""
        return self.epoch(0)

    def _rows(self, epoch: int, start: int, share: tuple[int, int]) -> list[np.ndarray]:
        order = np.arange(len(self.source))
        if self.augmentation is not None:
            order = self.source.order(np.random.default_rng([self.seed, epoch, 0]))
        size, (rank, processes) = self.batch_size, share
        return [order[i * size : (i + 1) * size][rank::processes] for i in range(start, len(self))]

    def _running_loader(self) -> Any:
        """Return the loader; its workers live on from epoch to epoch."""
        if self._loader is None:
            wanted, augmentation = self.preprocessing, self.augmentation
            transform = (
                evaluation_transform(wanted)
                if augmentation is None
                else training_transform(wanted, augmentation)
            )
            self._loader = torch.utils.data.DataLoader(
                _Samples(self.source, transform, self.seed, random=augmentation is not None),
                batch_sampler=self._plan,
                num_workers=self._workers,
                worker_init_fn=leave_interrupts_to_parent,
                collate_fn=_collate,
                generator=torch.Generator(),  # it draws seeds that nobody uses; not from the network's generator
                pin_memory=torch.cuda.is_available(),
                persistent_workers=self._workers > 0,
            )
        return self._loader

    def _report(self, failures: list[_Failure]) -> None:
        for name, reason in failures:
            if self.strict:
                raise UnreadableImageError(name, reason)
            if name not in self.skipped:
                print(f"skipped {name}: {reason}", file=sys.stderr, flush=True)
                self.skipped[name] = reason


class _Plan:
    """The batches still to come of the epoch that runs; a sampler that can be told another epoch."""

    def __init__(self) -> None:
        self.requests: list[list[_Request]] = []

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[list[_Request]]:
        return iter(self.requests)


class _Samples(torch.utils.data.Dataset[_Sample]):
    """Decodes and transforms one image; its random numbers are its own."""

    def __init__(self, source: ImageSource, transform: ImageTransform, seed: int, *, random: bool) -> None:
        self.source = source
        self.transform = transform
        self.seed = seed
        self.random = random

    def __getitem__(self, request: _Request) -> _Sample:
        epoch, index = request
        label = int(self.source.labels[index])
        try:
            pixels = read_image(partial(self.source.read, index), self.source.name(index))
        except UnreadableImageError as error:
            return None, label, (error.name, error.reason)
        if not self.random:
            return self.transform(pixels), label, None
        with torch.random.fork_rng(devices=[]):  # the network's dropout must not depend on who decodes
            mixed = np.random.SeedSequence([self.seed, epoch, 1, index]).generate_state(1, np.uint64)[0]
            torch.default_generator.manual_seed(int(mixed) >> 1)
            return self.transform(pixels), label, None


def _collate(samples: list[_Sample]) -> tuple[Tensor, Tensor, list[_Failure]]:
    pixels = [pixels for pixels, _, _ in samples if pixels is not None]
    labels = [label for pixels, label, _ in samples if pixels is not None]
    failures = [failure for _, _, failure in samples if failure is not None]
    stacked = torch.stack(pixels) if pixels else torch.empty(0, 3, 1, 1, dtype=torch.uint8)
    return stacked, torch.tensor(labels, dtype=torch.int64), failures
