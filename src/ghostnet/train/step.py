"""One optimiser step on this process's share of a batch, in as many pieces as memory asks for."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ghostnet.train.fast_depthwise import fast_depthwise
from ghostnet.train.fast_small_maps import fast_small_maps
from ghostnet.train.narrow_norm import fast_narrow_norms
from ghostnet.train.objective import Objective
from ghostnet.train.processes import mean_over_processes
from ghostnet.train.settings import TrainSettings


@dataclass
class Step:
    """One optimiser step on this process's share of one batch."""

    model: nn.Module
    optimizer: Any
    objective: Objective
    settings: TrainSettings
    accelerator: Any

    def __call__(self, images: Any, labels: Any, learning_rate: float) -> float:
        """Return the batch's mean loss over all processes."""
        device = self.accelerator.device
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        pieces = min(self.settings.accumulation_steps, len(labels))
        total = torch.zeros((), device=device)
        for number, (part, answers) in enumerate(
            zip(_split(images, pieces), _split(labels, pieces), strict=True), 1
        ):
            waits = number < pieces  # gradients are exchanged once, with the last piece
            with self.accelerator.no_sync(self.model) if waits else contextlib.nullcontext():
                share = len(answers) / len(labels)
                with self._fast_layers():
                    loss = self.objective(self.model, _placed(part, device), _placed(answers, device)) * share
                self.accelerator.backward(loss)
            total += loss.detach()
        if self.settings.gradient_clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
        self.optimizer.step()
        return mean_over_processes(total)

    @contextlib.contextmanager
    def _fast_layers(self) -> Iterator[None]:
        """What the forward pass runs in; between steps the network is as it was given, and can be saved."""
        if self.settings.compile or self.accelerator.device.type != "cpu":
            yield
            return
        with fast_layers(self.model):
            yield


@contextlib.contextmanager
def fast_layers(model: nn.Module) -> Iterator[None]:
    """Compute the layers of a network in training on a CPU in the ways of this package while the block runs."""
    with fast_narrow_norms(model), fast_depthwise(model), fast_small_maps(model):
        yield


def _split(batch: Any, pieces: int) -> list[Any]:
    """Cut a batch, one tensor or a list with an entry for each image, into pieces of nearly equal size."""
    if isinstance(batch, Tensor):
        return list(batch.tensor_split(pieces))
    ends = [round(number * len(batch) / pieces) for number in range(pieces + 1)]
    return [batch[start:end] for start, end in itertools.pairwise(ends)]


def _placed(value: Any, device: torch.device) -> Any:
    """Move a tensor, or what lists and dictionaries hold, to a device; batches of images to channels_last."""
    if isinstance(value, Tensor):
        layout = torch.channels_last if value.ndim == 4 else torch.preserve_format
        return value.to(device, memory_format=layout)
    if isinstance(value, dict):
        return {key: _placed(entry, device) for key, entry in value.items()}
    return [_placed(entry, device) for entry in value]
