"""What a training run writes, shows and looks at between its steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ghostnet.train.checkpoint import save_checkpoint
from ghostnet.train.processes import share_buffers_, share_of_processes
from ghostnet.train.run import Run
from ghostnet.train.watch import Watch


class StepHook(Protocol):
    """Called after every step with its number; may raise to stop the run (tests do)."""

    def __call__(self, step: int) -> None: ...


@dataclass
class Session:
    """A run as this process sees it: what it writes, shows and looks at between steps."""

    run: Run
    watch: Watch
    checkpoint: Path | None
    in_step: Callable[[float], None] | None
    after_step: StepHook | None
    progress: bool
    description: str
    saved: float = field(default_factory=time.monotonic)

    def save(self) -> None:
        """Write the checkpoint, where there is one to write."""
        if self.checkpoint is not None:
            save_checkpoint(self.checkpoint, self.run.state())
            self.saved = time.monotonic()

    def log(self, values: dict[str, float]) -> None:
        """Hand numbers of this step to the watch's log."""
        if self.watch.log is not None and share_of_processes()[0] == 0:
            self.watch.log(self.run.result.steps, values)

    def record(self, loss: float, rate: float, total: int) -> None:
        """Take a step's loss into the curve, which has about a hundred points."""
        result = self.run.result
        result.recent.append(loss)
        if result.steps % max(1, total // 100) == 0 or result.steps == total:
            mean = sum(result.recent) / len(result.recent)
            result.curve.append({"step": result.steps, "loss": mean, "learning_rate": rate})
            self.log({"train/loss": mean, "train/learning_rate": rate})
            result.recent.clear()

    def look(self, total: int, batches_per_epoch: int, checkpoint_seconds: float) -> None:
        """Evaluate and save where it is time to."""
        if self.watch.is_due(self.run.result.steps, total, batches_per_epoch):
            first = not self.run.result.evaluations
            self.evaluate(batches_per_epoch)
            if first:
                # its best network is on disk, and without a checkpoint would be taken for another run's
                self.save()
        if time.monotonic() - self.saved >= checkpoint_seconds:
            self.save()

    def evaluate(self, batches_per_epoch: int) -> None:
        """Measure the network as it would be used; the best one so far is handed on."""
        run, watch = self.run, self.watch
        assert watch.held_out is not None  # for the type checker
        with run.average.applied_to(run.model) if run.average else contextlib.nullcontext():
            share_buffers_(run.model)  # the averaged ones, which differ between processes as well
            found = watch.measure(run.model, watch.held_out, progress=self.progress)
            values = found.to_dict()
            best = values[watch.score] > run.result.best(watch.score)
            if best and watch.on_best is not None and share_of_processes()[0] == 0:
                watch.on_best(run.model, found)
        epoch = run.result.steps / batches_per_epoch
        run.result.evaluations.append({"step": run.result.steps, "epoch": epoch, **values})
        shown = {key: value for key, value in values.items() if isinstance(value, float) and key != "seconds"}
        self.log({f"held_out/{key}": value for key, value in shown.items()})
