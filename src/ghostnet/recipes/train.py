"""Run a recipe: data, network, conversion, teacher and loop meet here; the result is JSON beside the saved network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ghostnet import data, models
from ghostnet.errors import InputError
from ghostnet.files import refuse_overwrite
from ghostnet.measure import profile
from ghostnet.recipes.batches import batches_of
from ghostnet.recipes.conversion import convert_network
from ghostnet.recipes.result import make_result, write_json
from ghostnet.recipes.schema import Recipe
from ghostnet.train import evaluate, fit


def build(recipe: Recipe) -> nn.Module:
    """Return the network that a recipe starts from, before any conversion."""
    if recipe.start:
        return models.load(recipe.start)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        args: dict[str, Any] = dict(recipe.model_args)
        return models.create_model(recipe.model, weights=recipe.weights or None, **args)


def _teacher(recipe: Recipe) -> nn.Module | None:
    """Return the network to distil from, unless there is none or it is the one before conversion."""
    if recipe.teacher == "dense" and not recipe.converts:
        raise InputError(
            f"recipe {recipe.name} converts nothing, so `teacher` cannot be 'dense'; name a network"
        )
    if recipe.teacher in ("", "dense"):
        return None
    if recipe.teacher_weights:
        return models.create_model(recipe.teacher, weights=recipe.teacher_weights)
    return models.load(recipe.teacher)


def with_references(recipe: Recipe, out_dir: str | Path) -> Recipe:
    """Return a recipe whose "@name" keys are the files that those recipes left in the output folder.

    Raises:
        InputError: the network is not there yet.
    """
    found = {}
    for key in ("weights", "start", "teacher"):
        value = getattr(recipe, key)
        if value.startswith("@"):
            path = Path(out_dir) / f"{value[1:]}-seed{recipe.seed}.safetensors"
            if not path.is_file():
                raise InputError(
                    f"recipe {recipe.name}: `{key}` (={value!r}) needs {path}; `ghostnet reproduce` runs that first"
                )
            found[key] = str(path)
    return recipe.model_copy(update=found)


def _converted(
    dense: nn.Module, recipe: Recipe, dataset: data.Cifar10, saved: Path, progress: bool
) -> tuple[nn.Module, dict[str, Any]]:
    """Convert `dense`, or take up the conversion that an interrupted run left at `saved`."""
    if saved.exists():
        model = models.load(saved)
        return model, getattr(model, "ghostnet_info", {})
    test = batches_of(dataset, recipe, training=False)
    stages = {"dense": evaluate(dense, test, progress=progress).to_dict()}
    model, report = convert_network(dense, recipe, dataset, progress=progress)
    stages["as converted"] = evaluate(model, test, progress=progress).to_dict()
    info = {"stages": stages, "conversion": report.to_dict()}
    models.save(model, saved, info=info)
    return model, info


def run_recipe(
    recipe: Recipe,
    out_dir: str | Path,
    *,
    data_root: str | None = None,
    progress: bool = True,
    force: bool = False,
) -> dict[str, Any]:
    """Train as a recipe says, going on from a checkpoint in `out_dir` if there is one.

    Args:
        recipe: from `load_recipe`.
        out_dir: gets `<name>-seed<k>.safetensors`, `.json` and, while it runs, `.checkpoint`.
        data_root: where CIFAR-10 is, if not in the cache.
        progress: show progress on standard error.
        force: overwrite an earlier result.

    Returns:
        The result record that was written.

    Raises:
        InputError: the result exists and `force` is false; a teacher or start that cannot be loaded.
    """
    stem = Path(out_dir) / f"{recipe.name}-seed{recipe.seed}"
    result_path, checkpoint = Path(f"{stem}.json"), Path(f"{stem}.checkpoint")
    conversion_path = Path(f"{stem}.converted.safetensors")
    refuse_overwrite(result_path, force=force)
    asked, recipe = (
        recipe,
        with_references(recipe, out_dir),
    )  # results name recipes, not files of this machine
    model, teacher = build(recipe), _teacher(recipe)
    dataset = data.load_cifar10(data_root, progress=progress)
    info: dict[str, Any] = {}
    if recipe.converts:
        teacher = model if recipe.teacher == "dense" else teacher
        model, info = _converted(model, recipe, dataset, conversion_path, progress)
    trained = fit(
        model,
        batches_of(dataset, recipe, training=True),
        recipe.settings(),
        teacher=teacher,
        checkpoint=checkpoint,
        progress=progress,
        description=recipe.name,
    )
    accuracy = evaluate(model, batches_of(dataset, recipe, training=False), progress=progress)
    counts = profile(model, (3, 32, 32))
    metrics = {
        **accuracy.to_dict(),
        "params": counts.params,
        "macs": counts.macs,
        "steps": trained.steps,
        "train_seconds": round(trained.seconds, 1),
        "curve": trained.curve,
        **info,
    }
    result = make_result(
        recipe.exhibit, metrics=metrics, seconds=trained.seconds, seed=recipe.seed, recipe=asked.model_dump()
    )
    kept = {"top1": accuracy.top1, "recipe": recipe.name, "classes": list(data.CIFAR10_CLASSES)}
    models.save(model.cpu(), f"{stem}.safetensors", info=kept)
    write_json(result_path, result)
    checkpoint.unlink(missing_ok=True)
    conversion_path.unlink(missing_ok=True)
    return result
