"""A table's runs in order: which are done, what each needs first, and how long it takes on this machine.

Left out: which rows a table has (`report.exhibits` knows) and printing.
"""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ghostnet import data, models
from ghostnet.convert import ghostify, prune
from ghostnet.errors import InputError
from ghostnet.files import atomic_write
from ghostnet.measure import environment, profile
from ghostnet.models.weights import open_weights
from ghostnet.recipes.identity import first_difference
from ghostnet.recipes.result import make_result, write_json
from ghostnet.recipes.schema import Recipe
from ghostnet.recipes.sets import batches_of
from ghostnet.recipes.side_by_side import run_side_by_side
from ghostnet.recipes.together import run_together
from ghostnet.recipes.train import run_recipe
from ghostnet.recipes.variants import VARIANTS, load_variant
from ghostnet.train import fit, other_run

_TRAIN_IMAGES = 50_000
_INPUT_SIZE = (3, 32, 32)
_TIMED_STEPS = 3


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan.

    Attributes:
        recipe: resolved.
        result: where its result belongs, below the results folder.
        done: the result is there.
    """

    recipe: Recipe
    result: Path
    done: bool

    @property
    def name(self) -> str:
        """Recipe and seed; no other run of a plan has the same."""
        return f"{self.recipe.name}-seed{self.recipe.seed}"

    @property
    def needs(self) -> list[str]:
        """Names of the runs whose networks this one starts or learns from."""
        references = (self.recipe.weights, self.recipe.teacher)
        return [f"{name[1:]}-seed{self.recipe.seed}" for name in references if name.startswith("@")]

    @property
    def steps(self) -> int:
        """Optimiser steps, those of a sparsity training included."""
        extra = self.recipe.sparsity_epochs if self.recipe.method == "sss" else 0.0
        return max(1, round((self.recipe.epochs + extra) * (_TRAIN_IMAGES // self.recipe.batch_size)))


def make_plan(
    entries: Sequence[tuple[str, str]],
    results: str | Path,
    *,
    seeds: int = 1,
    dense: str | None = None,
    compiled: bool = False,
) -> list[PlannedRun]:
    """List runs in the order in which they can run: a network that another needs comes first.

    Args:
        entries: pairs of recipe and variant; doubles count once.
        results: folder of the results.
        seeds: how many seeds, from 0.
        dense: weights of the trained dense network, see `load_variant`.
        compiled: train with `torch.compile`, whatever the recipes say.

    Raises:
        InputError: `seeds` below 1, or an unknown recipe.
    """
    if seeds < 1:
        raise InputError(f"`seeds` (={seeds}) must be an integer >= 1")
    ordered: dict[tuple[str, str, int], PlannedRun] = {}

    def add(recipe_name: str, variant: str, seed: int) -> None:
        if (recipe_name, variant, seed) in ordered:
            return
        recipe = load_variant(recipe_name, variant, dense=dense, seed=seed)
        recipe = recipe.model_copy(update={"compile": True}) if compiled else recipe
        for reference in (recipe.weights, recipe.teacher):
            if reference.startswith("@"):
                add(*_split(reference[1:]), seed)
        path = Path(results) / recipe.exhibit / f"{recipe.name}-seed{seed}.json"
        ordered[recipe_name, variant, seed] = PlannedRun(recipe, path, path.is_file())

    for seed in range(seeds):
        for recipe_name, variant in entries:
            add(recipe_name, variant, seed)
    return list(ordered.values())


def _split(name: str) -> tuple[str, str]:
    """Split a resolved name into recipe and variant."""
    stem, _, ending = name.rpartition("_")
    return (stem, ending) if stem and ending in VARIANTS else (name, "")


def check_jobs(jobs: int, *, together: bool = False) -> None:
    """Raise where runs cannot be shared out like that.

    Raises:
        InputError: `jobs` below 1, or above it with `together`.
    """
    if jobs < 1:
        raise InputError(f"`jobs` (={jobs}) must be an integer >= 1")
    if together and jobs > 1:
        raise InputError("`together` trains seeds in one process and `jobs` in several; give one of them")


def run_plan(
    planned: Sequence[PlannedRun],
    out: str | Path,
    *,
    data_root: str | None = None,
    progress: bool = True,
    jobs: int = 1,
    together: bool = False,
) -> None:
    """Run what is not done; an interrupted run goes on from its checkpoint.

    Args:
        planned: from `make_plan`.
        out: folder of networks, results and checkpoints.
        data_root: where CIFAR-10 is, if not in the cache.
        progress: show it on standard error.
        jobs: runs at a time, each in a process with its share of the cores.
        together: the seeds of a recipe as one stacked network, in this process; see `run_together`.

    Raises:
        InputError: weights or a network that a run needs are missing, a result in `out` is of another recipe, `jobs`
            below 1 or above it with `together`, or a run failed beside others.
    """
    check_jobs(jobs, together=together)
    left = [run for run in planned if not run.done]
    for run in left:
        _check_result(run, Path(out) / run.result.name)
        _check_weights(run.recipe)
    if together:
        _finish_together(left, Path(out), data_root, progress)
        return
    work = functools.partial(_finish, out=Path(out), data_root=data_root, progress=progress)
    if jobs > 1 and len(left) > 1:
        run_side_by_side(left, work, jobs)
        return
    for run in left:
        work(run)


def _finish(run: PlannedRun, *, out: Path, data_root: str | None, progress: bool) -> None:
    """Run one and put its result where it belongs."""
    own = out / run.result.name
    if not own.is_file():
        run_recipe(run.recipe, out, data_root=data_root, progress=progress)
    with atomic_write(run.result) as temporary:
        shutil.copyfile(own, temporary)


def _finish_together(left: Sequence[PlannedRun], out: Path, data_root: str | None, progress: bool) -> None:
    """Run the seeds of each recipe as one; a plan names each recipe's needs before it, in every seed."""
    groups: dict[str, list[PlannedRun]] = {}
    for run in left:
        groups.setdefault(run.recipe.name, []).append(run)
    for group in groups.values():
        fresh = [run.recipe for run in group if not (out / run.result.name).is_file()]
        if fresh:
            run_together(fresh, out, data_root=data_root, progress=progress)
        for run in group:
            _finish(run, out=out, data_root=data_root, progress=progress)


def _check_result(run: PlannedRun, own: Path) -> None:
    """Raise where a run's result lies in the output folder already and is of another recipe, a shortened one say."""
    if not own.is_file():
        return
    wanted = json.loads(json.dumps(run.recipe.model_dump()))
    try:
        found = dict(json.loads(own.read_text(encoding="utf-8"))["recipe"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{own} is no result of a run; delete it or name another folder") from error
    key = first_difference(found, wanted)
    if key is not None:
        raise other_run(own, key, found[key], wanted[key])


def _check_weights(recipe: Recipe) -> None:
    """Read what a recipe starts or learns from, fetched if need be, before anything runs.

    Raises:
        InputError: no such file or tag, or one that cannot be read.
        DownloadError: published weights that cannot be fetched.
    """
    for network, weights in ((recipe.model, recipe.weights), (recipe.teacher, recipe.teacher_weights)):
        if weights and not weights.startswith("@"):
            open_weights(network, weights)


def network_of(recipe: Recipe) -> tuple[nn.Module, nn.Module | None]:
    """Return a network of a recipe's shape with random weights, and its teacher's; nothing is read.

    For methods that choose over all layers the shape is that of L1 norm at the same MACs, and for measured ratios that
    of the one ratio that comes nearest.
    """
    args: dict[str, Any] = dict(recipe.model_args)
    model = dense = models.create_model(recipe.model, **args).eval()
    if recipe.method != "ghost":
        model, _ = prune(dense, "l1", macs=recipe.macs, streams=bool(recipe.streams))
    elif recipe.converts:
        ratio = recipe.convert_ratio if recipe.allocation == "uniform" else round(1 / recipe.macs)
        model, _ = ghostify(dense, ratio=ratio, cheap_kernel_size=recipe.cheap_kernel_size, init="random")
    if recipe.teacher.startswith("@"):
        return model, models.create_model(load_variant(*_split(recipe.teacher[1:])).model)
    return model, dense if recipe.teacher == "dense" else _zoo(recipe.teacher)


def _zoo(name: str) -> nn.Module | None:
    return models.create_model(name) if name in models.list_models() else None


def step_seconds(recipe: Recipe) -> float:
    """Time optimiser steps of a recipe on this machine: the median of three, after one that is not counted."""
    count = recipe.batch_size * (_TIMED_STEPS + 1)
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(count) % 10
    batches = batches_of(data.Cifar10(images, labels, images, labels), recipe, training=True)
    model, teacher = network_of(recipe)
    ticks: list[float] = []
    settings = recipe.model_copy(update={"epochs": 1.0}).settings()
    fit(
        model,
        batches,
        settings,
        teacher=teacher,
        after_step=lambda _step: ticks.append(time.perf_counter()),
        progress=False,
    )
    return statistics.median(after - before for before, after in itertools.pairwise(ticks))


def cached_step_seconds(recipe: Recipe, cache: str | Path) -> float:
    """Return `step_seconds`, measured once for each recipe, processor and number of threads.

    Args:
        recipe: to time.
        cache: JSON file of earlier measurements.
    """
    key = f"{recipe.name}{' compiled' if recipe.compile else ''}{_on_this_machine()}"
    path = Path(cache)
    known = _read_seconds(path)
    if key not in known:
        known[key] = step_seconds(recipe)
        write_json(path, known)
    return known[key]


def known_step_seconds(cache: str | Path) -> dict[str, float]:
    """Return, by recipe, what `cached_step_seconds` has measured on this machine so far."""
    path, ending = Path(cache), _on_this_machine()
    known = _read_seconds(path)
    return {key.removesuffix(ending): value for key, value in known.items() if key.endswith(ending)}


def _read_seconds(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): float(value) for key, value in found.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} holds no measured seconds; delete it, and they are measured again"
        ) from error


def _on_this_machine() -> str:
    place = environment()
    return f" on {place.get('gpu') or place.get('cpu')}, {torch.get_num_threads()} threads"


def count_networks(entries: Sequence[tuple[str, str]], results: str | Path) -> Path:
    """Write parameters and MACs of recipes' networks, so that tables can show them for rows that were not run.

    Networks pruned over all layers at once (SSS, Taylor) are left out: their shape is known after the choice only.

    Args:
        entries: pairs of recipe and variant.
        results: folder of the results.

    Returns:
        The file.
    """
    started = time.monotonic()
    counts = {}
    for name in sorted({name for name, _ in entries}):
        recipe = load_variant(name)
        if recipe.method in ("sss", "taylor"):
            continue
        counted = profile(network_of(recipe)[0], _INPUT_SIZE)
        counts[name] = {"params": counted.params, "macs": counted.macs}
    path = Path(results) / "cifar10" / "counts.json"
    record = make_result(
        "cifar10_counts",
        metrics={"counts": counts},
        seconds=time.monotonic() - started,
        seed=0,
        recipe={"name": "counts"},
    )
    write_json(path, record)
    return path
