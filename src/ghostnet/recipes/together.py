"""The seeds of one recipe trained as one stacked network (`train.StackedNetworks`), each with its own result."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ghostnet import data
from ghostnet.errors import InputError
from ghostnet.recipes.schema import Recipe
from ghostnet.recipes.train import (
    PreparedRun,
    finish,
    prepare,
    refuse_earlier,
    refuse_later,
    run_recipe,
    stem_of,
)
from ghostnet.train import (
    StackedBatches,
    StackedNetworks,
    TrainResult,
    evaluate,
    fit,
    join_processes,
    why_not_stacked,
    why_not_together,
)


def run_together(
    recipes: Sequence[Recipe],
    out_dir: str | Path,
    *,
    data_root: str | None = None,
    progress: bool = True,
    force: bool = False,
) -> list[dict[str, Any]]:
    """Train recipes that differ in their seed alone as one network; results as of `run_recipe`, one a seed.

    What cannot be stacked (networks that pruning gave different shapes, settings that look at one network's gradients)
    is trained one by one. Each record names the seeds that were trained `together`; its `train_seconds` are those of
    all of them, and its curve is their mean.

    Args:
        recipes: on CIFAR-10.
        out_dir: as for `run_recipe`; the checkpoint is `<name>-seeds<k>-<l>.checkpoint`.
        data_root: where CIFAR-10 is, if not in the cache.
        progress: show progress on standard error.
        force: overwrite earlier results.

    Raises:
        InputError: recipes that differ in more than the seed, or are not on CIFAR-10; several processes; else as
            `run_recipe`.
    """
    _check(recipes)
    first, seeds = recipes[0], [recipe.seed for recipe in recipes]
    alone = len(recipes) == 1 or bool(why_not_together(first.settings())) or bool(first.evaluate_every)
    checkpoint = Path(out_dir) / f"{first.name}-seeds{'-'.join(map(str, seeds))}.checkpoint"
    for recipe in recipes:
        own = stem_of(recipe, out_dir, ".checkpoint")
        refuse_earlier(stem_of(recipe, out_dir), own if own.exists() else checkpoint, force=force)
    runs = []
    if not alone:
        common: dict[str, Any] = {"data_root": data_root, "progress": progress}
        runs = [
            prepare(recipe, out_dir, checkpoint=checkpoint if checkpoint.exists() else None, **common)
            for recipe in recipes
        ]
    if alone or why_not_stacked([run.model for run in runs]):
        return [
            run_recipe(recipe, out_dir, data_root=data_root, progress=progress, force=force)
            for recipe in recipes
        ]
    stacked = StackedNetworks([run.model for run in runs])
    training = runs[0].sets.training
    assert isinstance(training, data.TensorBatches)  # CIFAR-10's are
    trained = fit(
        stacked,
        StackedBatches(training, seeds),
        runs[0].recipe.settings(),
        teacher=_teacher(runs),
        checkpoint=checkpoint,
        identity=_identity(runs),
        progress=progress,
        description=f"{first.name}, {len(seeds)} seeds",
    )
    stacked.unstack_([run.model for run in runs])
    device = next(stacked.parameters()).device
    for run in runs:
        run.model.to(device)
    if not force:
        for run in runs:
            refuse_later(run.path(".json"), checkpoint)
    results = [_finished(run, trained, seeds) for run in runs]
    checkpoint.unlink(missing_ok=True)
    return results


def _check(recipes: Sequence[Recipe]) -> None:
    if not recipes:
        raise InputError("there is no recipe to run")
    if len({recipe.seed for recipe in recipes}) < len(recipes):
        raise InputError("recipes that are trained together need a seed each")
    if any(recipe.model_copy(update={"seed": recipes[0].seed}) != recipes[0] for recipe in recipes):
        raise InputError("recipes that are trained together may differ in their seed alone")
    if recipes[0].data != "cifar10":
        raise InputError(f"recipe {recipes[0].name} is not on CIFAR-10; its seeds are trained one by one")
    if join_processes()[1] > 1:
        raise InputError("networks are trained together in one process; run without torchrun")


def _identity(runs: Sequence[PreparedRun]) -> dict[str, Any]:
    """Return what all runs share, and lists of what each has of its own: their starts."""
    each = [run.identity for run in runs]
    shared = {key: value for key, value in each[0].items() if all(one[key] == value for one in each)}
    return {key: shared[key] if key in shared else [one[key] for one in each] for key in each[0]}


def _teacher(runs: Sequence[PreparedRun]) -> nn.Module | None:
    """Return one teacher where all seeds have the same, else theirs stacked."""
    teachers = [run.teacher for run in runs if run.teacher is not None]
    if len(teachers) < len(runs):
        return None
    states = [teacher.state_dict() for teacher in teachers]
    same = all(
        state.keys() == states[0].keys() and all((state[name] == states[0][name]).all() for name in state)
        for state in states
    )
    return copy.deepcopy(teachers[0]) if same else StackedNetworks(teachers)


def _finished(run: PreparedRun, trained: TrainResult, seeds: list[int]) -> dict[str, Any]:
    accuracy = evaluate(run.model.eval(), run.sets.held_out, progress=run.progress)
    return finish(run, dataclasses.replace(trained, evaluations=[]), accuracy, {"together": seeds}, kept=None)
