"""The one training loop: an optimiser, a schedule, distillation, EMA, resumable checkpoints.

It knows no architecture and no data set, and what is minimised is an `Objective`: classification unless another one is
given. accelerate places model and batches on whatever device there is and runs under `torchrun` (DDP, on one or many
machines): a batch is the batch of all processes, each takes its share, and the first one writes the files. bfloat16
autocast and channels_last are the fast setting on CPUs and GPUs alike.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ghostnet.data import Batches
from ghostnet.errors import InputError
from ghostnet.modes import check_network
from ghostnet.progress import Progress
from ghostnet.train.average import WeightAverage
from ghostnet.train.checkpoint import load_checkpoint
from ghostnet.train.feature_match import feature_match
from ghostnet.train.interrupt import Interrupts
from ghostnet.train.objective import Classification, Objective
from ghostnet.train.optimizer import make_optimizer
from ghostnet.train.processes import (
    check_batch_size,
    make_accelerator,
    seed_step,
    share_buffers_,
    share_of_processes,
)
from ghostnet.train.run import Run, TrainResult, recorded_settings
from ghostnet.train.schedule import make_schedule
from ghostnet.train.session import Session, StepHook
from ghostnet.train.settings import TrainSettings
from ghostnet.train.stacked import StackedClassification, StackedNetworks
from ghostnet.train.step import Step
from ghostnet.train.watch import Watch


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
    """Train a network in place. PyTorch's random state is not used and not changed: dropout follows the batches' seed.

    Args:
        model: `(N, C, H, W) -> (N, classes)`, or what the objective takes; it holds the result, averaged weights where
            EMA is on. `StackedNetworks` trains several as one.
        batches: the training set, shuffled; `StackedBatches` for stacked networks. Of batches of your own that have no
            attribute `shuffled` that is taken for granted.
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
        InputError: a wrapper in place of a network, batches in one order each epoch, an epoch without any, the loss is
            no longer finite, labels are no classes of the network, the checkpoint belongs to another run, or the batch
            size cannot be shared by the processes.
    """
    check_network(model, "fit")
    accelerator = make_accelerator()
    check_batch_size(batches.batch_size)
    _check_shuffled(batches)
    _place_(model, accelerator.device).train()
    if settings.freeze_batch_norm:
        _freeze_batch_norm_(model)
    average = WeightAverage(model, settings.ema_decay) if settings.ema_decay else None
    settled = recorded_settings(settings, batches)
    run = Run(model, make_optimizer(model, settings), average, settled, dict(identity or {}), TrainResult())
    if checkpoint is not None and (state := load_checkpoint(checkpoint, run.settings, run.identity)):
        run.restore(state)
        if progress and accelerator.is_main_process:
            print(f"{description}: going on from step {run.result.steps}", file=sys.stderr, flush=True)
    if teacher is not None:
        _place_(teacher, accelerator.device).eval()
    chief = accelerator.is_main_process
    session = Session(
        run,
        watch or Watch(),
        Path(checkpoint) if checkpoint is not None and chief else None,
        in_step,
        after_step,
        progress and chief,
        description,
    )
    wrapped, optimizer = accelerator.prepare(model, run.optimizer)
    with feature_match(model, teacher, settings.feature_layers) as features:
        if settings.compile:
            wrapped, teacher = _compiled(
                wrapped, teacher, settings, accelerator.device, hooked=features is not None
            )
        if objective is None:
            objective = (
                StackedClassification(settings, teacher)
                if isinstance(model, StackedNetworks)
                else Classification(settings, teacher, features)
            )
        placed = [accelerator.device] if accelerator.device.type == "cuda" else []
        with torch.random.fork_rng(devices=placed):  # each step seeds the generators anew
            _steps(session, Step(wrapped, optimizer, objective, settings, accelerator), batches)
    if average is not None:
        model.load_state_dict(average.state)
    share_buffers_(model)  # each process has averaged the statistics of its own images
    model.eval()
    return run.result


def _check_shuffled(batches: Batches) -> None:
    if not getattr(batches, "shuffled", True) and len(batches) > 1:
        raise InputError(
            "these batches are in the same order each epoch, which is for evaluation; train on shuffled ones "
            "(TensorBatches: shuffle=True, or an augmentation)"
        )


def _place_(model: nn.Module, device: torch.device) -> nn.Module:
    model.to(device)
    if not isinstance(model, StackedNetworks):  # whose weights have an axis more than the format knows
        model.to(memory_format=torch.channels_last)
    return model


def _steps(session: Session, step_fn: Step, batches: Batches) -> None:
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
                device, before_epoch = step_fn.accelerator.device, result.steps
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
                if result.steps == before_epoch:
                    raise InputError(
                        f"epoch {epoch} has no batches from {start} on, and {len(batches)} were promised"
                    )
            session.save()  # what follows may be interrupted, too
        except KeyboardInterrupt:
            if not interrupts.within_step:  # else one step's statistics would be saved with another's weights
                session.save()
            raise


def _compiled(
    model: Any, teacher: nn.Module | None, settings: TrainSettings, device: torch.device, *, hooked: bool
) -> tuple[Any, Any]:
    """Return compiled forms that share the networks' weights; on GPUs their kernels are launched as CUDA graphs."""
    if (
        hooked
    ):  # code that was compiled for such a network without hooks would be taken again: they are not guarded
        torch.compiler.reset()
    # a CUDA graph writes into the same memory each time, where gradients of earlier pieces would be kept
    graphs = device.type == "cuda" and settings.accumulation_steps == 1
    mode = "reduce-overhead" if graphs else "default"
    compiled = [
        None if network is None else torch.compile(network, mode=mode) for network in (model, teacher)
    ]
    return compiled[0], compiled[1]


def _freeze_batch_norm_(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
