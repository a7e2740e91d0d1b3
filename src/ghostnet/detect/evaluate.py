"""Detection on a whole set: COCO's results, and what they are worth.

A detector pads the images of a batch to one size, and sees padding. Of each batch only images of one size go through
it together, so that the answers are those to single images, as `detect predict` and exported files give them.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from ghostnet.data import DetectionBatches, DetectionSet
from ghostnet.detect.coco_eval import CocoScores, score_results
from ghostnet.errors import InputError
from ghostnet.modes import evaluating
from ghostnet.progress import Progress
from ghostnet.train import share_of_processes


def detect(
    model: nn.Module, batches: DetectionBatches, *, progress: bool = False
) -> tuple[list[dict[str, Any]], float]:
    """Run a detector over a set; the mode of each module is restored afterwards.

    Under `torchrun` every process must call it; each takes its share and all get all results.

    Args:
        model: a `Detector` or `ExportedDetector` whose classes are those of the set.
        batches: images in order, not for training; their size has no influence on the results.
        progress: show a bar on standard error.

    Returns:
        COCO's results, sorted by image, boxes in pixels of the image's file; and the seconds it took.

    Raises:
        InputError: a set with other classes than the detector's.
    """
    _check_classes(model, batches.source)
    started = time.perf_counter()
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    sizes = {image.id: (image.width, image.height) for image in batches.source.images}
    results: list[dict[str, Any]] = []
    bar = Progress("detect", total=len(batches), unit="batches", enabled=progress)
    with evaluating(model), bar, torch.inference_mode():
        for images, targets in batches.epoch(0, share=share_of_processes(), device=device):
            for image, target, found in zip(images, targets, _answers(model, images), strict=True):
                number = int(target["image_id"])
                results += _results(found, number, image, sizes[number], batches.source.category_ids)
            bar.update()
    return _gathered(results), time.perf_counter() - started


def evaluate_detector(model: nn.Module, batches: DetectionBatches, *, progress: bool = False) -> CocoScores:
    """Measure a detector by COCO's average precision.

    Args:
        model: a `Detector` whose classes are those of the set.
        batches: images in order, not for training.
        progress: show a bar on standard error.

    Raises:
        InputError: a set without images or with other classes.
    """
    results, seconds = detect(model, batches, progress=progress)
    return score_results(batches.source.to_coco(), results, seconds=round(seconds, 3))


def _answers(model: nn.Module, images: list[Tensor]) -> list[dict[str, Tensor]]:
    """Return what is found in each image, those of one shape `(3, H, W)` together."""
    places: dict[torch.Size, list[int]] = {}
    for place, image in enumerate(images):
        places.setdefault(image.shape, []).append(place)
    found: dict[int, dict[str, Tensor]] = {}
    for together in places.values():
        found |= zip(together, model([images[place] for place in together]), strict=True)
    return [found[place] for place in range(len(images))]


def _results(
    found: dict[str, Tensor], number: int, image: Tensor, size: tuple[int, int], category_ids: list[int]
) -> list[dict[str, Any]]:
    scale = found["boxes"].new_tensor([size[0] / image.shape[2], size[1] / image.shape[1]] * 2)
    boxes = (found["boxes"] * scale).cpu()
    boxes[:, 2:] -= boxes[:, :2]
    return [
        {
            "image_id": number,
            "category_id": category_ids[label],
            "bbox": [round(value, 3) for value in box],
            "score": round(score, 5),
        }
        for box, label, score in zip(
            boxes.tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True
        )
    ]


def _gathered(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    _, processes = share_of_processes()
    if processes == 1:
        return results
    parts: list[Any] = [None] * processes
    torch.distributed.all_gather_object(parts, results)
    return sorted((result for part in parts for result in part), key=lambda result: result["image_id"])


def _check_classes(model: nn.Module, source: DetectionSet) -> None:
    known = list(getattr(model, "classes", ()))
    if known != source.classes:
        raise InputError(
            f"the detector tells {len(known)} classes apart, {source.source} has {len(source.classes)}, "
            "or they are named otherwise; use DetectionSet.with_classes(detector.classes)"
        )
