"""The one training loop: SGD with Nesterov momentum, a schedule, distillation, EMA, resumable checkpoints.

It knows no architecture and no data set. accelerate places model and batches on whatever device there is and runs
under `torchrun`; bfloat16 autocast and channels_last are the fast setting on CPUs and GPUs alike.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ghostnet.data import TensorBatches
from ghostnet.errors import InputError
from ghostnet.progress import Progress
from ghostnet.train.average import WeightAverage
from ghostnet.train.checkpoint import load_checkpoint, save_checkpoint
from ghostnet.train.objective import classification_loss
from ghostnet.train.schedule import make_schedule


@dataclass(frozen=True)
class TrainSettings:
    """How a network is trained.

    Attributes:
        epochs: passes over the data; a fraction ends in the middle of one.
        learning_rate: peak rate of SGD.
        schedule: "linear", "cosine", "step" or "constant".
        warmup_fraction: share of the run with a rising rate.
        milestones: shares of the run at which "step" divides the rate by ten.
        momentum: Nesterov momentum.
        weight_decay: on weights of two and more dimensions only; batch norm and biases are left alone.
        label_smoothing: share of the target spread over all classes.
        ema_decay: 0 for none; otherwise the averaged weights are the result.
        distillation_weight: share of the teacher's term when there is a teacher.
        temperature: of distillation.
        bf16: bfloat16 autocast.
        checkpoint_seconds: time between checkpoints.
    """

    epochs: float = 1.0
    learning_rate: float = 0.1
    schedule: str = "linear"
    warmup_fraction: float = 0.1
    milestones: tuple[float, ...] = ()
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    distillation_weight: float = 0.9
    temperature: float = 4.0
    bf16: bool = True
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "temperature", "checkpoint_seconds"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise InputError(f"`{name}` (={value}) must be a finite number above 0")
        for name in ("momentum", "label_smoothing", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"`{name}` (={getattr(self, name)}) must be at least 0 and below 1")
        if not 0 <= self.distillation_weight <= 1:
            raise InputError(f"`distillation_weight` (={self.distillation_weight}) must be between 0 and 1")
        if self.weight_decay < 0:
            raise InputError(f"`weight_decay` (={self.weight_decay}) must be >= 0")


@dataclass
class TrainResult:
    """What a run did.

    Attributes:
        steps: optimiser steps in all, earlier sessions of a resumed run included.
        seconds: wall time in all.
        curve: `{"step", "loss", "learning_rate"}` about a hundred times in the run.
    """

    steps: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


class StepHook(Protocol):
    """Called after every step with its number; may raise to stop the run (tests do)."""

    def __call__(self, step: int) -> None: ...


@dataclass
class _Run:
    """The moving parts of a run; `state` is everything that a checkpoint needs."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    settings: dict[str, Any]
    result: TrainResult

    def state(self) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "result": asdict(self.result),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "rng": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.result = TrainResult(**state["result"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])
        torch.set_rng_state(state["rng"])


def fit(
    model: nn.Module,
    batches: TensorBatches,
    settings: TrainSettings,
    *,
    teacher: nn.Module | None = None,
    checkpoint: str | Path | None = None,
    after_step: StepHook | None = None,
    progress: bool = True,
    description: str = "train",
) -> TrainResult:
    """Train a classifier in place.

    Args:
        model: `(N, C, H, W) -> (N, classes)`; it holds the result, averaged weights where EMA is on.
        batches: the training set.
        settings: how to train.
        teacher: a network whose answers are to be matched; it runs in evaluation mode and is not changed.
        checkpoint: file to write every `checkpoint_seconds` and at Ctrl-C, and to go on from when it exists.
        after_step: called with the number of steps done.
        progress: show loss, rate and time left on standard error.
        description: what the progress line is called.

    Returns:
        Steps, seconds and the training curve.

    Raises:
        InputError: the loss is no longer finite, or the checkpoint belongs to another run.
    """
    from accelerate import Accelerator

    accelerator = Accelerator()
    model.to(accelerator.device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        _parameter_groups(model, settings.weight_decay),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
    )
    average = WeightAverage(model, settings.ema_decay) if settings.ema_decay else None
    run = _Run(model, optimizer, average, _recorded(settings, batches), TrainResult())
    if checkpoint is not None and (state := load_checkpoint(checkpoint, run.settings)):
        run.restore(state)
    if teacher is not None:
        teacher.to(accelerator.device).to(memory_format=torch.channels_last).eval()
    wrapped, wrapped_optimizer = accelerator.prepare(model, optimizer)
    step_fn = _Step(wrapped, wrapped_optimizer, teacher, settings, accelerator)
    _steps(run, step_fn, batches, settings, (checkpoint, after_step, progress, description))
    if average is not None:
        model.load_state_dict(average.state)
    model.eval()
    return run.result


@dataclass
class _Step:
    """One optimiser step on one batch."""

    model: nn.Module
    optimizer: Any
    teacher: nn.Module | None
    settings: TrainSettings
    accelerator: Any

    def __call__(self, images: Tensor, labels: Tensor, learning_rate: float) -> float:
        device = self.accelerator.device
        images = images.to(device, memory_format=torch.channels_last)
        labels = labels.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.settings.bf16):
            teacher_logits = None
            if self.teacher is not None:
                with torch.no_grad():
                    teacher_logits = self.teacher(images)
            logits = self.model(images)
        loss = classification_loss(
            logits.float(),
            labels,
            None if teacher_logits is None else teacher_logits.float(),
            label_smoothing=self.settings.label_smoothing,
            distillation_weight=self.settings.distillation_weight,
            temperature=self.settings.temperature,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.optimizer.step()
        return float(loss.detach())


def _steps(
    run: _Run,
    step_fn: _Step,
    batches: TensorBatches,
    settings: TrainSettings,
    reporting: tuple[str | Path | None, StepHook | None, bool, str],
) -> None:
    checkpoint, after_step, progress, description = reporting
    total = max(1, round(settings.epochs * len(batches)))
    factor = make_schedule(
        settings.schedule, total, warmup_fraction=settings.warmup_fraction, milestones=settings.milestones
    )
    result = run.result
    begun, before, saved = time.monotonic(), result.seconds, time.monotonic()
    every = max(1, total // 100)
    recent: list[float] = []
    try:
        with Progress(description, total=total, unit="steps", start=result.steps, enabled=progress) as bar:
            while result.steps < total:
                epoch, start = divmod(result.steps, len(batches))
                for images, labels in batches.epoch(epoch, start=start):
                    rate = settings.learning_rate * factor(result.steps)
                    loss = step_fn(images, labels, rate)
                    if loss != loss or loss in (float("inf"), float("-inf")):
                        raise InputError(
                            f"the loss is {loss} at step {result.steps}; lower `learning_rate` (={rate:.3g})"
                        )
                    if run.average is not None:
                        run.average.update(run.model)
                    result.steps += 1
                    result.seconds = before + time.monotonic() - begun
                    recent.append(loss)
                    bar.update(1, f"loss {loss:.3f}, rate {rate:.3g}")
                    if result.steps % every == 0 or result.steps == total:
                        mean = sum(recent) / len(recent)
                        result.curve.append({"step": result.steps, "loss": mean, "learning_rate": rate})
                        recent.clear()
                    if checkpoint is not None and time.monotonic() - saved >= settings.checkpoint_seconds:
                        save_checkpoint(checkpoint, run.state())
                        saved = time.monotonic()
                    if after_step is not None:
                        after_step(result.steps)
                    if result.steps >= total:
                        break
    except KeyboardInterrupt:
        if checkpoint is not None:
            save_checkpoint(checkpoint, run.state())
        raise


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _recorded(settings: TrainSettings, batches: TensorBatches) -> dict[str, Any]:
    """Return what a resumed run must share with the first one; how often it is saved may change."""
    values = {
        key: list(value) if isinstance(value, tuple) else value for key, value in asdict(settings).items()
    }
    del values["checkpoint_seconds"]
    return {**values, "batch_size": batches.batch_size, "seed": batches.seed}
