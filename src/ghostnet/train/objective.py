"""What training minimises: of a classifier cross-entropy with label smoothing, mixed with a teacher's softened answers.

Distillation follows Hinton et al. 2015: KL divergence at a temperature, scaled by its square.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet.bfloat16 import bfloat16_autocast
from ghostnet.errors import InputError
from ghostnet.train.evaluate import scores_of
from ghostnet.train.feature_match import FeatureMatch
from ghostnet.train.settings import TrainSettings

_IGNORED = -100  # cross_entropy's label of an image that does not count


class Objective(Protocol):
    """The loss of (a piece of) a batch, whatever its images and answers are; a scalar, mean over the images."""

    def __call__(self, model: nn.Module, images: Any, answers: Any) -> Tensor: ...


@dataclass(frozen=True)
class Classification:
    """A classifier's objective.

    Attributes:
        settings: label smoothing, autocast and how the teacher counts.
        teacher: a network in evaluation mode, or None.
        features: layers whose outputs are drawn to the teacher's, or None.
    """

    settings: TrainSettings
    teacher: nn.Module | None = None
    features: FeatureMatch | None = None

    def __call__(self, model: nn.Module, images: Tensor, answers: Tensor) -> Tensor:
        """Return the loss of images `(N, C, H, W)` and labels `(N,)`."""
        settings = self.settings
        with bfloat16_autocast(images.device, wanted=settings.bf16):
            teacher_logits = None
            if self.teacher is not None:
                with torch.no_grad():
                    teacher_logits = scores_of(self.teacher(images))
            logits = scores_of(model(images))
        if self.teacher is None or settings.distillation_weight < 1:
            _check_labels(logits, answers)
        loss = classification_loss(
            logits.float(),
            answers,
            None if teacher_logits is None else teacher_logits.float(),
            label_smoothing=settings.label_smoothing,
            distillation_weight=settings.distillation_weight,
            temperature=settings.temperature,
        )
        return loss if self.features is None else loss + settings.feature_weight * self.features.loss()


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    """Raise where labels are no classes of the network, on the CPU; a GPU would have to be waited for in each step."""
    if labels.device.type != "cpu" or labels.is_floating_point() or logits.ndim != 2:
        return
    classes = logits.shape[1]
    wrong = (labels >= classes) | ((labels < 0) & (labels != _IGNORED))
    if wrong.any():
        raise InputError(
            f"the label {int(labels[wrong][0])} does not fit a classifier of {classes} classes, which are 0 to "
            f"{classes - 1}; give the network as many classes (num_classes=…) as the labels have"
        )


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    teacher_logits: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    distillation_weight: float = 0.9,
    temperature: float = 4.0,
) -> Tensor:
    """Return the mean loss of a batch.

    Args:
        logits: `(N, classes)` of the network in training.
        labels: int64 `(N,)`.
        teacher_logits: `(N, classes)` of the teacher, or None for labels alone.
        label_smoothing: share of the target spread over all classes.
        distillation_weight: share of the teacher's term, in [0, 1].
        temperature: softens both distributions.

    Returns:
        A scalar.
    """
    if teacher_logits is None:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    soft = F.kl_div(
        F.log_softmax(logits / temperature, 1),
        F.log_softmax(teacher_logits / temperature, 1),
        log_target=True,
        reduction="batchmean",
    )
    total = distillation_weight * temperature**2 * soft
    if distillation_weight < 1:
        hard = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        total = total + (1 - distillation_weight) * hard
    return total
