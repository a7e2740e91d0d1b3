"""What a classifier says of image files: its first answers with their probabilities."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ghostnet.data import Preprocessing, UnreadableImageError, evaluation_transform, read_image
from ghostnet.errors import InputError
from ghostnet.progress import Progress
from ghostnet.train.evaluate import device_and_type, scores_of

_BATCH = 32


@dataclass(frozen=True)
class Prediction:
    """Answers for one image, the likeliest first.

    Attributes:
        path: the image's file.
        indices: class numbers.
        probabilities: of the same, in [0, 1]; over all classes they sum to 1.
        error: why the image could not be read; it has no answers then.
    """

    path: Path
    indices: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str = ""


@torch.inference_mode()
def predict(
    model: nn.Module,
    paths: Sequence[Path],
    preprocessing: Preprocessing,
    *,
    top_k: int = 5,
    strict: bool = False,
    progress: bool = False,
) -> list[Prediction]:
    """Classify image files.

    Args:
        model: `(N, 3, size, size) -> (N, classes)`, in any floating type; put into evaluation mode.
        paths: the files.
        preprocessing: how the network wants its images.
        top_k: answers for each image; fewer where there are fewer classes.
        strict: raise at an image that cannot be read, instead of naming it on standard error; one alone raises anyway.
        progress: show a bar on standard error.

    Raises:
        InputError: `top_k` below 1, no path, an image that cannot be read and `strict`, or none that can.
    """
    if top_k < 1:
        raise InputError(f"the number of answers (={top_k}) must be an integer >= 1")
    if not paths:
        raise InputError("there are no images to classify")
    device, kind = device_and_type(model)
    model.eval()
    found: dict[int, Prediction] = {}  # by place in `paths`, in which one may be named twice
    with Progress("predict", total=len(paths), unit="images", enabled=progress) as bar:
        for read, failed in _batches(paths, preprocessing, strict):
            found |= failed
            if read:
                numbers, pixels = zip(*read, strict=True)
                images = preprocessing.normalise(torch.stack(pixels).to(device)).to(kind)
                logits = scores_of(model(images)).float()
                best = logits.softmax(1).topk(min(top_k, logits.shape[1]), 1)
                answers = zip(numbers, best.indices.tolist(), best.values.tolist(), strict=True)
                for number, indices, values in answers:
                    found[number] = Prediction(paths[number], tuple(indices), tuple(values))
            bar.update(len(read) + len(failed))
    if all(prediction.error for prediction in found.values()):
        raise UnreadableImageError(str(found[0].path), found[0].error)
    return [found[number] for number in range(len(paths))]


def _batches(
    paths: Sequence[Path], preprocessing: Preprocessing, strict: bool
) -> Iterator[tuple[list[tuple[int, torch.Tensor]], dict[int, Prediction]]]:
    """Yield images as the network wants them, and those that could not be read, by their places in `paths`."""
    transform = evaluation_transform(preprocessing)
    for start in range(0, len(paths), _BATCH):
        read, failed = [], {}
        for number, path in enumerate(paths[start : start + _BATCH], start):
            try:
                read.append((number, transform(read_image(path.read_bytes, str(path)))))
            except UnreadableImageError as error:
                if strict or len(paths) == 1:
                    raise
                print(f"skipped {path}: {error.reason}", file=sys.stderr, flush=True)
                failed[number] = Prediction(path, error=error.reason)
        yield read, failed
