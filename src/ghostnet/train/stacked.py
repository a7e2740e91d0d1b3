"""Several networks of one architecture trained as one: their weights stacked, each layer one operation for all.

On a GPU a small network waits for its kernels to be launched; K stacked networks launch as many as one does. Each
keeps its own weights, batches and running statistics, so that it becomes what it would have become alone, to rounding.
The operations are mapped over the stack by `torch.vmap`, which turns convolutions into grouped ones. On a CPU, where
channels_last matters more than launches, networks one by one are quicker.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ghostnet.bfloat16 import bfloat16_autocast
from ghostnet.data import TensorBatches
from ghostnet.errors import InputError
from ghostnet.train.objective import classification_loss
from ghostnet.train.settings import TrainSettings

# settings, all of them off by default
_NOT_TOGETHER = ("feature_layers", "freeze_batch_norm", "gradient_clip")


class StackedNetworks(nn.Module):
    """K networks as one module `(K, N, C, H, W) -> (K, N, classes)`.

    Args:
        networks: of one architecture; they are untouched until `unstack_` writes into them.

    Raises:
        InputError: no network, or networks whose tensors differ in name, shape or type.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        why = why_not_stacked(networks)
        if why:
            raise InputError(f"these networks cannot be stacked: {why}")
        networks = [copy.deepcopy(network).train() for network in networks]
        stacked = torch.func.stack_module_state(networks)
        for name, tensor in stacked[0].items():
            self.register_parameter(_safe(name), nn.Parameter(tensor.detach().contiguous()))
        for name, tensor in stacked[1].items():
            self.register_buffer(_safe(name), tensor.contiguous())
        self._names = {_safe(name): name for part in stacked for name in part}
        self._pattern = (networks[0].to("meta"),)  # in a tuple: its parameters are not ours

    def train(self, mode: bool = True) -> StackedNetworks:
        """Set the mode of all."""
        self._pattern[0].train(mode)
        return super().train(mode)

    def forward(self, images: Tensor) -> Tensor:
        """Let network k answer `images[k]`."""
        own: dict[str, Tensor] = {self._names[name]: value for name, value in self.named_parameters()}
        state = {self._names[name]: value for name, value in self.named_buffers()}
        with warnings.catch_warnings():  # what vmap has no rule for, it does network by network
            warnings.filterwarnings("ignore", message="There is a performance drop")
            answers: Tensor = torch.vmap(self._one, randomness="different")(own, state, images)
        return answers

    def _one(self, own: dict[str, Tensor], state: dict[str, Tensor], images: Tensor) -> Any:
        return torch.func.functional_call(self._pattern[0], (own, state), (images,))

    @torch.no_grad()
    def unstack_(self, networks: Sequence[nn.Module]) -> None:
        """Write network k's weights and statistics into `networks[k]`."""
        values = {self._names[name]: value for name, value in self.state_dict().items()}
        for number, network in enumerate(networks):
            network.load_state_dict({name: values[name][number] for name in network.state_dict()})


def _safe(name: str) -> str:
    return name.replace(".", "/")  # a module's own tensors must have names without dots


def why_not_stacked(networks: Sequence[nn.Module]) -> str:
    """Say why networks cannot be trained as one; empty where they can."""
    if not networks:
        return "there is none"
    first = {name: (value.shape, value.dtype) for name, value in networks[0].state_dict().items()}
    for network in networks[1:]:
        other = {name: (value.shape, value.dtype) for name, value in network.state_dict().items()}
        if type(network) is not type(networks[0]) or other != first:
            differing = sorted(name for name in {*first, *other} if first.get(name) != other.get(name)) or [
                "their classes"
            ]
            return f"{differing[0]} is not alike in all of them"
    return ""


def why_not_together(settings: TrainSettings) -> str:
    """Name the setting that keeps networks from being trained as one; empty where there is none."""
    if settings.accumulation_steps > 1:
        return "`accumulation_steps`"
    if settings.optimizer == "muon":  # whose matrices are not stacked
        return "`optimizer`"
    return next((f"`{name}`" for name in _NOT_TOGETHER if getattr(settings, name)), "")


class StackedBatches:
    """The batches of K seeds side by side: images `(K, N, C, H, W)` and labels `(K, N)`.

    Args:
        batches: the training set.
        seeds: of shuffling and augmentation, one a network.
    """

    def __init__(self, batches: TensorBatches, seeds: Sequence[int]) -> None:
        self._batches = batches
        self.seeds = tuple(seeds)
        self.batch_size = batches.batch_size
        self.shuffled = batches.shuffled
        self.seed = self.seeds[0]

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of epoch 0."""
        return self.epoch(0)

    def epoch(
        self,
        epoch: int,
        *,
        start: int = 0,
        share: tuple[int, int] = (0, 1),
        device: torch.device | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch, as `TensorBatches.epoch` does for each seed alone."""
        if device is not None:
            self._batches.move_(device)  # once, for all seeds
        each = []
        for seed in self.seeds:
            own = copy.copy(self._batches)
            own.seed = seed
            each.append(own.epoch(epoch, start=start, share=share, device=device))
        for pairs in zip(*each, strict=True):
            yield torch.stack([images for images, _ in pairs]), torch.stack([labels for _, labels in pairs])


class StackedClassification:
    """The objective of stacked classifiers: the mean of their losses, with the gradient of their sum.

    Each network's gradient is then that of its own loss.

    Args:
        settings: as for `Classification`.
        teacher: one network in evaluation mode for all, `StackedNetworks` with one for each, or None.
    """

    def __init__(self, settings: TrainSettings, teacher: nn.Module | None = None) -> None:
        why = why_not_together(settings)
        if why:
            raise InputError(f"{why} is not for networks that are trained together; train them one by one")
        self.settings, self.teacher = settings, teacher

    def __call__(self, model: nn.Module, images: Tensor, answers: Tensor) -> Tensor:
        """Return the loss of images `(K, N, C, H, W)` and labels `(K, N)`."""
        settings = self.settings
        with bfloat16_autocast(images.device, wanted=settings.bf16):
            taught = self._taught(images)
            logits = model(images).float()
        losses = [
            classification_loss(
                logits[number],
                answers[number],
                None if taught is None else taught[number].float(),
                label_smoothing=settings.label_smoothing,
                distillation_weight=settings.distillation_weight,
                temperature=settings.temperature,
            )
            for number in range(len(images))
        ]
        total = torch.stack(losses).sum()
        return total + (total / len(losses) - total).detach()

    @torch.no_grad()
    def _taught(self, images: Tensor) -> Tensor | None:
        if self.teacher is None:
            return None
        if isinstance(self.teacher, StackedNetworks):
            answers: Tensor = self.teacher(images)
            return answers
        flat = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return self.teacher(flat).unflatten(0, images.shape[:2])
