"""Exponential moving average of a network's weights and statistics (EMA)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Keeps `average = decay * average + (1 - decay) * weights`, with a warm-up so that the start is forgotten.

    Integer buffers (batch counts) are copied.

    Args:
        model: whose state is averaged.
        decay: in (0, 1); 0.999 averages over about a thousand steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's present state into the average."""
        self.steps += 1
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, weight)
            else:
                self.state[name].copy_(value)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Let the model hold the average while the block lasts."""
        present = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.state)
        try:
            yield
        finally:
            model.load_state_dict(present)

    def state_dict(self) -> dict[str, object]:
        """Return what a checkpoint needs."""
        return {"steps": self.steps, "state": self.state}

    def load_state_dict(self, saved: dict[str, object]) -> None:
        """Take up a checkpoint's state."""
        self.steps = int(saved["steps"])  # type: ignore[call-overload]
        state: dict[str, Tensor] = saved["state"]  # type: ignore[assignment]
        for name, value in state.items():
            self.state[name].copy_(value)
