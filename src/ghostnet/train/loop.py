"""The one training loop: SGD with momentum, a schedule, distillation, EMA, resumable checkpoints.

It knows no architecture and no data set, and what is minimised is an `Objective`: classification unless another one is
given. accelerate places model and batches on whatever device there is and runs
under `torchrun` (DDP, on one or many machines): a batch is the batch of all processes, each takes its share, and the
first one writes the files. bfloat16 autocast and channels_last are the fast setting on CPUs and GPUs alike.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ghostnet.data import Batches
from ghostnet.errors import InputError
from ghostnet.progress import Progress
from ghostnet.train.average import WeightAverage
from ghostnet.train.checkpoint import load_checkpoint, save_checkpoint
from ghostnet.train.feature_match import feature_match
from ghostnet.train.interrupt import Interrupts
from ghostnet.train.narrow_norm import fast_narrow_norms
from ghostnet.train.objective import Classification, Objective
from ghostnet.train.processes import (
    check_batch_size,
    make_accelerator,
    mean_over_processes,
    seed_step,
    share_buffers_,
    share_of_processes,
)
from ghostnet.train.schedule import make_schedule
from ghostnet.train.settings import TrainSettings
from ghostnet.train.stacked import StackedClassification, StackedNetworks
from ghostnet.train.watch import Watch


@dataclass
class TrainResult:
    """What a run did.

    Attributes:
        steps: optimiser steps in all, earlier sessions of a resumed run included.
        seconds: wall time in all.
        curve: `{"step", "loss", "learning_rate"}` about a hundred times in the run.
        evaluations: `{"step", "epoch", …}` of every look at held-out images, with what `Watch.measure` found: of a
            classifier `top1`, `top5`, `loss`, `count` and `seconds`.
    """

    steps: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)

    def best(self, score: str) -> float:
        """Return the highest held-out value of a key so far, or -1 before the first evaluation."""
        return max((entry[score] for entry in self.evaluations), default=-1.0)

    def best_top1(self) -> float:
        """Return the highest held-out accuracy so far in percent, or -1 before the first evaluation."""
        return self.best("top1")


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
    identity: dict[str, Any]
    result: TrainResult

    def state(self) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "identity": self.identity,
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
    batches: Batches,
    settings: TrainSettings,
    *,
    objective: Objective | None = None,
    teacher: nn.Module | None = None,
    watch: Watch | None = None,
    checkpoint: str | Path | None = None,
    identity: Mapping[str, Any] | None = None,
    in_step: Callable[[float], None] | None = None,
    after_step: StepHook | None = None,
    progress: bool = True,
    description: str = "train",
) -> TrainResult:
    """Train a network in place.

    Args:
        model: `(N, C, H, W) -> (N, classes)`, or what the objective takes; it holds the result, averaged weights where
            EMA is on. `StackedNetworks` trains several as one.
        batches: the training set; `StackedBatches` for stacked networks.
        settings: how to train.
        objective: the loss of a batch; None is that of a classifier, with the teacher where there is one.
        teacher: a network whose answers are to be matched; it runs in evaluation mode and is not changed.
        watch: held-out images to evaluate on now and then, and where to log.
        checkpoint: file to write every `checkpoint_seconds` and at Ctrl-C, when the step is done, and to go on from
            when it exists.
        identity: plain values by name (data, weights, recipe) that the checkpoint keeps and a run that goes on from it
            must share, the settings apart.
        in_step: called with the learning rate when the optimiser has stepped, as a part of the step: what it changes
            in the network is in every checkpoint.
        after_step: called with the number of steps done.
        progress: show loss, rate and time left on standard error.
        description: what the progress line is called.

    Returns:
        Steps, seconds, the training curve and the evaluations.

    Raises:
        InputError: the loss is no longer finite, the checkpoint belongs to another run, or the batch size cannot be
            shared by the processes.
    """
    accelerator = make_accelerator()
    check_batch_size(batches.batch_size)
    model.to(accelerator.device).train()
    stacked = isinstance(model, StackedNetworks)
    if not stacked:  # whose weights have an axis more than the format knows
        model.to(memory_format=torch.channels_last)
    if settings.freeze_batch_norm:
        _freeze_batch_norm_(model)
    optimizer = torch.optim.SGD(
        _parameter_groups(model, settings),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
        fused=True,  # on two CPU cores a tenth of the time: 2.8 ms a step of Ghost-VGG-16, not 26
    )
    average = WeightAverage(model, settings.ema_decay) if settings.ema_decay else None
    run = _Run(model, optimizer, average, _recorded(settings, batches), dict(identity or {}), TrainResult())
    if checkpoint is not None and (state := load_checkpoint(checkpoint, run.settings, run.identity)):
        run.restore(state)
        if progress and accelerator.is_main_process:
            print(f"{description}: going on from step {run.result.steps}", file=sys.stderr, flush=True)
    if teacher is not None:
        teacher.to(accelerator.device).eval()
        if not isinstance(teacher, StackedNetworks):
            teacher.to(memory_format=torch.channels_last)
    wrapped, wrapped_optimizer = accelerator.prepare(model, optimizer)
    chief = accelerator.is_main_process
    session = _Session(
        run,
        watch or Watch(),
        Path(checkpoint) if checkpoint is not None and chief else None,
        in_step,
        after_step,
        progress and chief,
        description,
    )
    with feature_match(model, teacher, settings.feature_layers) as features:
        if settings.compile:
            if features is not None:
                # code that was compiled for such a network without hooks would be taken again: they are not guarded
                torch.compiler.reset()
            # a CUDA graph writes into the same memory each time, where gradients of earlier pieces would be kept
            graphs = accelerator.device.type == "cuda" and settings.accumulation_steps == 1
            wrapped = _compiled(wrapped, graphs)
            teacher = None if teacher is None else _compiled(teacher, graphs)
        if objective is None:
            objective = (
                StackedClassification(settings, teacher)
                if stacked
                else Classification(settings, teacher, features)
            )
        _steps(session, _Step(wrapped, wrapped_optimizer, objective, settings, accelerator), batches)
    share_buffers_(model)
    if average is not None:
        model.load_state_dict(average.state)
    model.eval()
    return run.result


@dataclass
class _Step:
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
                with self._norms():
                    loss = self.objective(self.model, _placed(part, device), _placed(answers, device)) * share
                self.accelerator.backward(loss)
            total += loss.detach()
        if self.settings.gradient_clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
        self.optimizer.step()
        return mean_over_processes(total)

    def _norms(self) -> contextlib.AbstractContextManager[Any]:
        """Return what the forward pass runs in; between steps the network is as it was given, and can be saved."""
        if self.settings.compile or self.accelerator.device.type != "cpu":
            return contextlib.nullcontext()
        return fast_narrow_norms(self.model)


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


@dataclass
class _Session:
    """A run as this process sees it: what it writes, shows and looks at between steps."""

    run: _Run
    watch: Watch
    checkpoint: Path | None
    in_step: Callable[[float], None] | None
    after_step: StepHook | None
    progress: bool
    description: str
    saved: float = field(default_factory=time.monotonic)
    recent: list[float] = field(default_factory=list)

    def save(self) -> None:
        if self.checkpoint is not None:
            save_checkpoint(self.checkpoint, self.run.state())
            self.saved = time.monotonic()

    def log(self, values: dict[str, float]) -> None:
        if self.watch.log is not None and share_of_processes()[0] == 0:
            self.watch.log(self.run.result.steps, values)

    def record(self, loss: float, rate: float, total: int) -> None:
        """Take a step's loss into the curve, which has about a hundred points."""
        result = self.run.result
        self.recent.append(loss)
        if result.steps % max(1, total // 100) == 0 or result.steps == total:
            mean = sum(self.recent) / len(self.recent)
            result.curve.append({"step": result.steps, "loss": mean, "learning_rate": rate})
            self.log({"train/loss": mean, "train/learning_rate": rate})
            self.recent.clear()

    def look(self, total: int, batches_per_epoch: int, checkpoint_seconds: float) -> None:
        """Evaluate and save where it is time to."""
        if self.watch.is_due(self.run.result.steps, total, batches_per_epoch):
            first = not self.run.result.evaluations
            self.evaluate(batches_per_epoch)
            if (
                first
            ):  # its best network is on disk, and without a checkpoint would be taken for another run's
                self.save()
        if time.monotonic() - self.saved >= checkpoint_seconds:
            self.save()

    def evaluate(self, batches_per_epoch: int) -> None:
        """Measure the network as it would be used; the best one so far is handed on."""
        run, watch = self.run, self.watch
        assert watch.held_out is not None  # for the type checker
        share_buffers_(run.model)
        with run.average.applied_to(run.model) if run.average else contextlib.nullcontext():
            found = watch.measure(run.model, watch.held_out, progress=self.progress)
            values = found.to_dict()
            best = values[watch.score] > run.result.best(watch.score)
            if best and watch.on_best is not None and share_of_processes()[0] == 0:
                watch.on_best(run.model, found)
        epoch = run.result.steps / batches_per_epoch
        run.result.evaluations.append({"step": run.result.steps, "epoch": epoch, **values})
        shown = {key: value for key, value in values.items() if isinstance(value, float) and key != "seconds"}
        self.log({f"held_out/{key}": value for key, value in shown.items()})


def _steps(session: _Session, step_fn: _Step, batches: Batches) -> None:
    run, settings, share = session.run, step_fn.settings, share_of_processes()
    total = max(1, round(settings.epochs * len(batches)))
    factor = make_schedule(
        settings.schedule, total, warmup_fraction=settings.warmup_fraction, milestones=settings.milestones
    )
    result = run.result
    begun, before = time.monotonic(), result.seconds
    bar = Progress(
        session.description, total=total, unit="steps", start=result.steps, enabled=session.progress
    )
    with bar, Interrupts(say=session.progress) as interrupts:
        try:
            while result.steps < total:
                epoch, start = divmod(result.steps, len(batches))
                device = step_fn.accelerator.device
                for images, labels in batches.epoch(epoch, start=start, share=share, device=device):
                    with interrupts.put_off():
                        seed_step(batches.seed, result.steps)
                        rate = settings.learning_rate * factor(result.steps)
                        loss = step_fn(images, labels, rate)
                        if not math.isfinite(loss):
                            raise InputError(
                                f"the loss is {loss} at step {result.steps}; lower `learning_rate` (={rate:.3g})"
                            )
                        if session.in_step is not None:
                            session.in_step(rate)
                        if run.average is not None:
                            run.average.update(run.model)
                        result.steps += 1
                        result.seconds = before + time.monotonic() - begun
                        session.record(loss, rate, total)
                        bar.update(1, f"loss {loss:.3f}, rate {rate:.3g}")
                        session.look(total, len(batches), settings.checkpoint_seconds)
                    if session.after_step is not None:
                        session.after_step(result.steps)
                    if result.steps >= total:
                        break
        except KeyboardInterrupt:
            if not interrupts.within_step:  # else one step's statistics would be saved with another's weights
                session.save()
            raise


def _compiled(model: nn.Module, graphs: bool) -> Any:
    """Return a compiled form that shares the model's weights, its kernels launched as CUDA graphs where asked for."""
    return torch.compile(model, mode="reduce-overhead" if graphs else "default")


def _freeze_batch_norm_(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _parameter_groups(model: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    vector = 2 if isinstance(model, StackedNetworks) else 1  # axes of a norm's weight, or of a bias
    return [
        {"params": [p for p in parameters if p.ndim > vector], "weight_decay": settings.weight_decay},
        {
            "params": [p for p in parameters if p.ndim <= vector],
            "weight_decay": settings.weight_decay if settings.decay_norms else 0.0,
        },
    ]


def _recorded(settings: TrainSettings, batches: Batches) -> dict[str, Any]:
    """Return what a resumed run must share with the first one; speed and how often it is saved may change."""
    values = {
        key: list(value) if isinstance(value, tuple) else value for key, value in asdict(settings).items()
    }
    for key in ("checkpoint_seconds", "compile"):
        del values[key]
    for key, plain in (
        ("nesterov", True),
        ("decay_norms", False),
        ("gradient_clip", 0.0),
    ):  # checkpoints older than these keys go on
        if values[key] == plain:
            del values[key]
    recorded = {**values, "batch_size": batches.batch_size, "seed": batches.seed, "batches": len(batches)}
    seeds = getattr(batches, "seeds", None)  # of networks that are trained together
    return recorded if seeds is None else {**recorded, "seeds": list(seeds)}
