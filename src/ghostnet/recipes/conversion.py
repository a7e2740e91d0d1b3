"""Conversion as a recipe says it: Ghost convolutions or pruning, with the images, labels or training that it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ghostnet.convert import ConversionReport, ghostify, prune, sensitivity
from ghostnet.data import Batches
from ghostnet.recipes.schema import Recipe
from ghostnet.recipes.sets import Sets
from ghostnet.train import TrainSettings, fit

AfterStep = Callable[[float], None]


def convert_network(
    dense: nn.Module,
    recipe: Recipe,
    sets: Sets,
    *,
    checkpoint: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> tuple[nn.Module, ConversionReport]:
    """Make a network cheaper by the recipe's method.

    Args:
        dense: the trained network; it is not changed.
        recipe: gives method, ratio or share of MACs, calibration images and the sparsity training.
        sets: the data of the run.
        checkpoint: where an interrupted sparsity training goes on from, see `fit`.
        identity: what that checkpoint must share with the run.
        progress: show on standard error how far measuring, fitting or training is.
    """
    calibration = sets.calibration()
    if recipe.method == "ghost":
        ratio: int | dict[str, int] = recipe.convert_ratio
        if recipe.allocation == "measured":
            measured = sensitivity(
                dense,
                calibration,
                cheap_kernel_size=recipe.cheap_kernel_size,
                macs=recipe.macs,
                progress=progress,
            )
            ratio = measured.ratios(recipe.macs)
        return ghostify(
            dense,
            ratio=ratio,
            cheap_kernel_size=recipe.cheap_kernel_size,
            init=recipe.convert_init,
            calibration=calibration,
            streams=False if recipe.feature_layers else recipe.streams,  # maps keep the teacher's order
            progress=progress,
        )
    return prune(
        dense,
        recipe.method,
        macs=recipe.macs,
        calibration=calibration,
        sparsify=sparsity_training(
            recipe, sets.training, checkpoint=checkpoint, identity=identity, progress=progress
        ),
        seed=recipe.seed,
        streams=bool(recipe.streams),
        match_norms=False,  # the methods as they were published; what follows trains
    )


def sparsity_training(
    recipe: Recipe,
    batches: Batches,
    *,
    checkpoint: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Callable[[nn.Module, AfterStep], None]:
    """Return what `prune(..., "sss", sparsify=...)` needs: the one training loop at a constant rate, with labels alone.

    Args:
        recipe: gives `sparsity_epochs`, `sparsity_learning_rate`, momentum and weight decay.
        batches: the training set.
        checkpoint: file to go on from and to write as `fit` does; whoever has saved the pruned network removes it.
        identity: what the checkpoint must share with the run.
        progress: show it on standard error.
    """
    rate = recipe.sparsity_learning_rate
    settings = TrainSettings(
        epochs=recipe.sparsity_epochs,
        learning_rate=rate,
        schedule="constant",
        warmup_fraction=0.0,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        decay_norms=recipe.decay_norms,
        bf16=recipe.bf16,
    )

    def train(model: nn.Module, after_step: AfterStep) -> None:
        fit(
            model,
            batches,
            settings,
            checkpoint=checkpoint,
            identity=identity,
            in_step=after_step,
            progress=progress,
            description=f"{recipe.name}: sparsity",
        )

    return train
