"""What a detector minimises: the sum of its losses, in float32 where bfloat16 would blur them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ghostnet.bfloat16 import bfloat16_autocast
from ghostnet.errors import InputError


@dataclass(frozen=True)
class DetectionObjective:
    """The objective of `train.fit` for a `Detector`.

    Attributes:
        bf16: run the network under bfloat16 autocast, on devices that have it.
    """

    bf16: bool = False

    def __call__(self, model: nn.Module, images: Any, answers: Any) -> Tensor:
        """Return the summed losses of images and targets as `DetectionBatches` gives them.

        Raises:
            InputError: there are no images.
        """
        if not images:
            raise InputError("a batch of no images cannot be trained on; raise `batch_size`")
        with bfloat16_autocast(images[0].device, wanted=self.bf16):
            losses = model(images, answers)
        return torch.stack([loss.float() for loss in losses.values()]).sum()
