"""A training run as a checkpoint keeps it: its moving parts, what it did, and what a resumed one must share."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from ghostnet.data import Batches
from ghostnet.train.average import WeightAverage
from ghostnet.train.settings import TrainSettings


@dataclass
class TrainResult:
    """What a run did.

    Attributes:
        steps: optimiser steps in all, earlier sessions of a resumed run included.
        seconds: wall time in all.
        curve: `{"step", "loss", "learning_rate"}` about a hundred times in the run.
        evaluations: `{"step", "epoch", …}` of every look at held-out images, with what `Watch.measure` found: of a
            classifier `top1`, `top5`, `loss`, `count` and `seconds`.
        recent: losses of the steps since the curve's last point.
    """

    steps: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)

    def best(self, score: str) -> float:
        """Return the highest held-out value of a key so far, or -1 before the first evaluation."""
        return max((entry[score] for entry in self.evaluations), default=-1.0)


@dataclass
class Run:
    """The moving parts of a run; `state` is everything that a checkpoint needs."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    settings: dict[str, Any]
    identity: dict[str, Any]
    result: TrainResult

    def state(self) -> dict[str, Any]:
        """Return what `restore` takes, live tensors included."""
        return {
            "settings": self.settings,
            "identity": self.identity,
            "result": asdict(self.result),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.result = TrainResult(**state["result"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])


def recorded_settings(settings: TrainSettings, batches: Batches) -> dict[str, Any]:
    """Return what a resumed run must share with the first one; speed and how often it is saved may change."""
    values = {
        key: list(value) if isinstance(value, tuple) else value for key, value in asdict(settings).items()
    }
    for key in ("checkpoint_seconds", "compile"):
        del values[key]
    for key, plain in (
        ("optimizer", "sgd"),
        ("nesterov", True),
        ("decay_norms", False),
        ("gradient_clip", 0.0),
    ):  # checkpoints older than these keys go on
        if values[key] == plain:
            del values[key]
    recorded = {**values, "batch_size": batches.batch_size, "seed": batches.seed, "batches": len(batches)}
    seeds = getattr(batches, "seeds", None)  # of networks that are trained together
    return recorded if seeds is None else {**recorded, "seeds": list(seeds)}
