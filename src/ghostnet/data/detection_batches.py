"""Batches of images with boxes: lists with an entry an image, since images differ in size.

As with classification a batch is a function of (seed, epoch, index) alone. Images of one shape of page, upright or
lying, come together, so that less of a batch is padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ghostnet.data.decode import leave_interrupts_to_parent
from ghostnet.data.detection import DetectionSet
from ghostnet.errors import InputError

DetectionBatch = tuple[list[Tensor], list[dict[str, Tensor]]]


class DetectionBatches:
    """Batches of `(images, targets)`: float32 `(3, H, W)` in [0, 1], and `boxes`, `labels` and `image_id` of each.

    Args:
        source: the set.
        batch_size: images a batch over all processes; when training the last, smaller batch is dropped.
        training: shuffle, mirror at random, and leave out ignored boxes and images without a box.
        longest: pixels; larger images are reduced to it when they are read, boxes too. 0 keeps their size.
        mirror: when training, flip left-right with probability 1/2.
        keep_in_memory: decode each image once, in this process; for small sets, `longest` should be set.
        seed: of shuffling and mirroring.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        InputError: a batch size below 1 or above the number of images, no box to train on, or images that are to be
            kept but decoded by workers.
    """

    def __init__(
        self,
        source: DetectionSet,
        batch_size: int,
        *,
        training: bool = False,
        longest: int = 0,
        mirror: bool = True,
        keep_in_memory: bool = False,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        self.source = source.with_boxes() if training else source
        if training and not self.source.images:
            raise InputError(f"{source.source} has nothing to train on: no image has a box that is no crowd")
        if batch_size < 1 or (training and batch_size > len(self.source)):
            raise InputError(
                f"`batch_size` (={batch_size}) must be between 1 and the {len(self.source)} images with boxes"
            )
        if workers < 0 or longest < 0:
            raise InputError(f"`workers` (={workers}) and `longest` (={longest}) must be >= 0")
        if keep_in_memory and workers:
            raise InputError(
                f"`keep_in_memory` keeps what this process decodes, and `workers` (={workers}) decode elsewhere; set "
                "one of them, keep_in_memory=true for small sets"
            )
        self.batch_size = batch_size
        self.training = training
        self.seed = seed
        self._workers = workers
        self._samples = _Samples(self.source, longest, mirror and training, keep_in_memory, training, seed)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        whole, rest = divmod(len(self.source), self.batch_size)
        return whole + (not self.training and rest > 0)

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
    ) -> Iterator[DetectionBatch]:
        """Yield the batches of an epoch.

        Args:
            epoch: decides order and mirroring.
            start: first batch.
            share: `(rank, processes)`: this process takes every so many images of each batch.
            device: where batches are moved.
        """
        rank, processes = share
        rows = [[(epoch, index) for index in row[rank::processes]] for row in self._rows(epoch)[start:]]
        if self._workers:
            loader: Any = torch.utils.data.DataLoader(
                self._samples,
                batch_sampler=[row for row in rows if row],
                num_workers=self._workers,
                worker_init_fn=leave_interrupts_to_parent,
                collate_fn=list,
                generator=torch.Generator(),  # not the network's
            )
        else:
            loader = ([self._samples[request] for request in row] for row in rows if row)
        for samples in loader:
            images = [image.to(device).float().div_(255) for image, _ in samples]
            yield images, [{key: value.to(device) for key, value in target.items()} for _, target in samples]

    def __iter__(self) -> Iterator[DetectionBatch]:
        """Yield the batches of epoch 0."""
        return self.epoch(0)

    def _rows(self, epoch: int) -> list[list[int]]:
        size = self.batch_size
        if not self.training:
            return [list(range(i, min(i + size, self.count))) for i in range(0, self.count, size)]
        random = np.random.default_rng([self.seed, epoch, 0])
        # the rest is left out before grouping; behind it, it would always be of the shape that comes last
        order = random.permutation(self.count)[: len(self) * size]
        upright = np.asarray([image.height > image.width for image in self.source.images])[order]
        rows = np.concatenate([order[upright], order[~upright]]).reshape(-1, size)
        return [row.tolist() for row in random.permutation(rows)]


class _Samples(torch.utils.data.Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Decodes one image and its boxes; its random numbers are its own."""

    def __init__(
        self, source: DetectionSet, longest: int, mirror: bool, keep: bool, training: bool, seed: int
    ) -> None:
        self.source = source
        self.longest = longest
        self.mirror = mirror
        self.training = training
        self.seed = seed
        self._kept: dict[int, Tensor] | None = {} if keep else None

    def __getitem__(self, request: tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]]:
        epoch, index = request
        image = self.source.images[index]
        pixels = self._pixels(index)
        wanted = ~image.ignored if self.training else slice(None)
        boxes = torch.from_numpy(image.boxes[wanted])
        boxes = boxes * boxes.new_tensor([pixels.shape[2] / image.width, pixels.shape[1] / image.height] * 2)
        if self.mirror and np.random.default_rng([self.seed, epoch, 1, index]).random() < 0.5:
            pixels = pixels.flip(2)
            boxes = torch.stack(
                [pixels.shape[2] - boxes[:, 2], boxes[:, 1], pixels.shape[2] - boxes[:, 0], boxes[:, 3]], 1
            )
        labels = torch.from_numpy(image.labels[wanted])
        return pixels, {"boxes": boxes, "labels": labels, "image_id": torch.tensor(image.id)}

    def _pixels(self, index: int) -> Tensor:
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        pixels = _reduced(self.source.read(index), self.longest)
        if self._kept is not None:
            self._kept[index] = pixels
        return pixels


def _reduced(pixels: Tensor, longest: int) -> Tensor:
    """Return an image whose longer side is at most `longest`, antialiased."""
    from torchvision.transforms.v2 import functional

    height, width = pixels.shape[1:]
    if not longest or max(height, width) <= longest:
        return pixels
    factor = longest / max(height, width)
    return functional.resize(pixels, [max(1, round(height * factor)), max(1, round(width * factor))])
