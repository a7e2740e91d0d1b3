"""What a pruning method is given: `PruneJob`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from ghostnet.convert.pruning.budget import Budget
from ghostnet.convert.pruning.sites import PruneSite

AfterStep = Callable[[float], None]
Sparsify = Callable[[nn.Module, AfterStep], None]


@dataclass
class PruneJob:
    """One network to be pruned.

    Args:
        model: the dense network in evaluation mode; nobody changes it.
        pruned: its copy, which a method may change, at full width (reconstructed weights, folded gates).
        sites: where channels can go.
        budget: counts MACs and holds the target.
        batches: calibration images.
        labelled: the same with labels.
        sparsify: trains a network in place and calls its second argument, with the learning rate, after each step.
        seed: of whatever is drawn.
        errors: relative error of each reconstructed layer's output, filled by the method.
    """

    model: nn.Module
    pruned: nn.Module
    sites: list[PruneSite]
    budget: Budget
    batches: list[Tensor] = field(default_factory=list)
    labelled: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    sparsify: Sparsify | None = None
    seed: int = 0
    errors: dict[str, float] = field(default_factory=dict)
