"""What training minimises: cross-entropy with label smoothing, mixed with a teacher's softened answers.

Distillation follows Hinton et al. 2015: KL divergence at a temperature, scaled by its square.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
