"""What is looked at while a network trains: accuracy on held-out images now and then, the best so far, TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from ghostnet.data import Batches
from ghostnet.errors import InputError
from ghostnet.train.evaluate import evaluate

Log = Callable[[int, Mapping[str, float]], None]


class Measured(Protocol):
    """What was found on held-out images, of which one number says how good the network is."""

    def to_dict(self) -> dict[str, Any]: ...


class Measure(Protocol):
    """How a network is measured on held-out images; the same result in every process."""

    def __call__(self, model: nn.Module, batches: Any, *, progress: bool = False) -> Measured: ...


@dataclass(frozen=True)
class Watch:
    """What `fit` does beside training.

    Attributes:
        held_out: images to evaluate on; None for none.
        every_epochs: epochs between two evaluations, at least one step; there is one at the end too. 0 evaluates at the
            end only.
        on_best: called in the main process with the network (averaged weights where EMA is on) and what was
            measured, whenever that is the best of the run.
        measure: how the network is measured; the default is a classifier's accuracy.
        score: the key of what was measured that is to be high.
        log: called in the main process with the step and values by name ("train/loss").
    """

    held_out: Batches | None = None
    every_epochs: float = 0.0
    on_best: Callable[[nn.Module, Any], None] | None = None
    log: Log | None = None
    measure: Measure = evaluate
    score: str = "top1"

    def __post_init__(self) -> None:
        if not 0 <= self.every_epochs < float("inf"):
            raise InputError(f"`evaluate_every` (={self.every_epochs}) must be a number of epochs >= 0")

    def is_due(self, step: int, total: int, batches_per_epoch: int) -> bool:
        """Tell whether the network is evaluated after this step."""
        if self.held_out is None:
            return False
        every = max(1, round(self.every_epochs * batches_per_epoch)) if self.every_epochs else 0
        return step == total or (every > 0 and step % every == 0)


def tensorboard_log(folder: str | Path) -> Log:
    """Return a log that writes TensorBoard's event files.

    Args:
        folder: gets the files; `tensorboard --logdir FOLDER` shows them.

    Raises:
        InputError: the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "TensorBoard logs need the package tensorboard: pip install 'ghostnet[tensorboard]'"
        ) from error
    writer: Any = SummaryWriter(str(folder))

    def log(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return log
