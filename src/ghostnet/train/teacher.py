"""A teacher whose answers are brought to what its student learns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ghostnet.train.evaluate import scores_of


class AdaptedTeacher(nn.Module):
    """A teacher that numbers the same classes in another way `(N, C, H, W) -> (N, classes)`.

    Args:
        network: the teacher.
        order: for each class of the student, the teacher's output of that class.

    Example:
        >>> teacher = AdaptedTeacher(nn.Flatten(), order=[2, 0, 1])
        >>> teacher(torch.tensor([10.0, 11.0, 12.0]).view(1, 3, 1, 1)).tolist()
        [[12.0, 10.0, 11.0]]
    """

    order: Tensor

    def __init__(self, network: nn.Module, *, order: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("order", torch.tensor(order, dtype=torch.int64))

    def forward(self, images: Tensor) -> Tensor:
        """Return the teacher's scores in the student's order."""
        return scores_of(self.network(images)).index_select(1, self.order)
