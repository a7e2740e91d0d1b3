"""Accuracy of a classifier: top-1, top-5 and mean cross-entropy over every image of a set."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sized
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet.errors import InputError
from ghostnet.modes import evaluating
from ghostnet.progress import Progress
from ghostnet.train.processes import share_of_processes, sum_over_processes


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        top1: percent of images whose label is the first answer.
        top5: percent of images whose label is among the first five (among all, with fewer classes).
        loss: mean cross-entropy in nats.
        count: number of images.
        seconds: wall time.
    """

    top1: float
    top5: float
    loss: float
    count: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON-able dictionary."""
        return asdict(self)


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, bf16: bool = False, progress: bool = False
) -> Evaluation:
    """Measure a classifier; the mode of each module (training or evaluation) is restored afterwards.

    Under `torchrun` every process must call it; each takes its share of a `Batches` and all get the same result.

    Args:
        model: `(N, C, H, W) -> (N, classes)`, in any floating type.
        batches: `(images, labels)`: float `(N, C, H, W)` and int64 `(N,)`.
        bf16: run under bfloat16 autocast; weights are untouched.
        progress: show a bar on standard error.

    Returns:
        Accuracies in percent.

    Raises:
        InputError: no classifier, no batches, labels outside the classifier's classes, or logits that are not finite.
    """
    started = time.perf_counter()
    device, kind = device_and_type(model)
    top1 = top5 = count = 0
    loss = 0.0
    total = len(batches) if isinstance(batches, Sized) else None
    with evaluating(model), Progress("evaluate", total=total, unit="batches", enabled=progress) as bar:
        for images, labels in _on_device(batches, device):
            labels = labels.to(device)
            wanted = kind if images.is_floating_point() else images.dtype
            images = images.to(device, wanted, memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = model(images)
            logits = scores_of(logits).float()
            _check(logits, labels)
            ranks = logits.topk(min(5, logits.shape[1]), 1).indices == labels[:, None]
            top1 += int(ranks[:, 0].sum())
            top5 += int(ranks.any(1).sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            count += len(labels)
            bar.update(1, f"top-1 {100 * top1 / count:.2f}")
    if hasattr(batches, "epoch"):
        totals = sum_over_processes([top1, top5, count, loss], device)
        top1, top5, count, loss = int(totals[0]), int(totals[1]), int(totals[2]), totals[3]
    if count == 0:
        raise InputError("there is nothing to evaluate on: no batches were given")
    return Evaluation(
        100 * top1 / count, 100 * top5 / count, loss / count, count, time.perf_counter() - started
    )


def scores_of(answer: Any) -> torch.Tensor:
    """Return what a network answers where that is scores of classes, `(N, classes)`.

    Raises:
        InputError: it is something else, as networks for segmentation and detection give.

    Example:
        >>> scores_of(torch.zeros(1, 10)).shape
        torch.Size([1, 10])
    """
    if isinstance(answer, torch.Tensor) and answer.dim() == 2:
        return answer
    shape = f"a tensor of shape {tuple(answer.shape)}" if isinstance(answer, torch.Tensor) else None
    raise InputError(
        f"this needs a classifier, which answers with scores (images, classes); the network answers with "
        f"{shape or f'a {type(answer).__name__}'}"
    )


def device_and_type(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return where a network lies and the type of its images: that of its weights, float32 where it has none."""
    parameter = next((each for each in model.parameters() if each.is_floating_point()), None)
    if parameter is None:
        return torch.device("cpu"), torch.float32
    return parameter.device, parameter.dtype


def _on_device(batches: Any, device: torch.device) -> Iterable[tuple[Tensor, Tensor]]:
    """Return this process's share of a `Batches`; plain batches are taken as they come, in every process."""
    if hasattr(batches, "epoch"):
        return batches.epoch(0, share=share_of_processes(), device=device)
    return batches


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or len(logits) != len(labels):
        raise InputError(
            f"a classifier gives (N, classes); {len(labels)} labels met an output of {tuple(logits.shape)}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise InputError(
            f"labels up to {int(labels.max())} do not fit a classifier of {logits.shape[1]} classes; give images of "
            "its own classes (--data FOLDER)"
        )
    if not torch.isfinite(logits).all():
        raise InputError("the network's output is not finite (NaN or infinity); its weights are broken")
