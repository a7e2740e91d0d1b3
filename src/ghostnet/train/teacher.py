"""A teacher in a student's training: it sees the student's images as its own, and answers in the student's order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet.data import Preprocessing
from ghostnet.train.evaluate import scores_of


class AdaptedTeacher(nn.Module):
    """A teacher `(N, 3, H, W) -> (N, classes)` on images that were prepared for its student.

    `(p - m) / s` of pixels p becomes `(p - m') / s'` by one factor and one summand a channel.

    Args:
        network: the teacher.
        order: for each class of the student, the teacher's output of that class; None keeps their order.
        given: how the student's images were prepared; of it and of `wanted` size, mean and deviation are read.
        wanted: how the teacher wants them. None with `given` None leaves images as they are.

    Example:
        >>> teacher = AdaptedTeacher(nn.Flatten(), order=[2, 0, 1])
        >>> teacher(torch.tensor([10.0, 11.0, 12.0]).view(1, 3, 1, 1)).tolist()
        [[12.0, 10.0, 11.0]]
    """

    order: Tensor | None
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        order: Sequence[int] | None = None,
        given: Preprocessing | None = None,
        wanted: Preprocessing | None = None,
    ) -> None:
        super().__init__()
        given, wanted = given or wanted or Preprocessing(), wanted or given or Preprocessing()
        self.network = network
        self.size = None if given.size == wanted.size else wanted.size
        self.interpolation = wanted.interpolation
        own_mean, own_std, mean, std = (
            torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)
            for values in (wanted.mean, wanted.std, given.mean, given.std)
        )
        self.register_buffer("scale", (std / own_std).float())
        self.register_buffer("shift", ((mean - own_mean) / own_std).float())
        self.register_buffer("order", None if order is None else torch.tensor(order, dtype=torch.int64))
        self.renormalises = not (torch.equal(mean, own_mean) and torch.equal(std, own_std))

    def forward(self, images: Tensor) -> Tensor:
        """Return the teacher's scores in the student's order."""
        if self.renormalises:
            images = torch.addcmul(self.shift, images, self.scale)
        if self.size is not None:
            images = F.interpolate(images, (self.size, self.size), mode=self.interpolation, antialias=True)
        scores = scores_of(self.network(images))
        return scores if self.order is None else scores.index_select(1, self.order)
