"""Run a detector's recipe: boxes, backbone, detector, the one loop and COCO's evaluation meet here.

Under `torchrun` every process runs this; the first one writes the files.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ghostnet import data, detect, models
from ghostnet.errors import InputError
from ghostnet.measure import profile
from ghostnet.recipes.detection.schema import DetectionRecipe
from ghostnet.recipes.detection.table8 import answered_rows
from ghostnet.recipes.identity import boxes_of, identity_of
from ghostnet.recipes.result import make_result, source_commit, write_json
from ghostnet.recipes.train import refuse_earlier, refuse_later
from ghostnet.train import TrainResult, Watch, fit, join_processes, tensorboard_log

_COUNTED = 224  # pixels a side of the image that Table 8 counts backbones at
_EVALUATION_BATCH = 8


def build_detector(recipe: DetectionRecipe, classes: list[str], *, trained: bool = True) -> detect.Detector:
    """Return the detector that a recipe starts from.

    Args:
        recipe: says which.
        classes: names of the classes to detect.
        trained: False draws the backbone's weights anew.

    Raises:
        InputError: weights that cannot be used, or none and batch norms that are frozen as they were drawn.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if recipe.start:
            backbone = models.load(recipe.start)
        elif (outside := models.outside_of(recipe.backbone)) is not None:
            backbone = _from_library(recipe, outside)
        else:
            weights = recipe.weights or None
            backbone = models.create_model(recipe.backbone, weights=weights, **recipe.backbone_args)  # type: ignore[arg-type]
    said = data.image_info(backbone)
    settings = recipe.detector_settings(said)
    if settings.freeze_batch_norm and not (recipe.start or recipe.weights):
        raise InputError(
            f"recipe {recipe.name} freezes the batch norms of a backbone without weights; give weights=FILE (or "
            "start=FILE, a saved network), or freeze_batch_norm=false to train from nothing"
        )
    if not trained:
        _forget_(backbone, recipe.seed)
    return detect.create_detector(backbone, classes, settings, seed=recipe.seed)


def _from_library(recipe: DetectionRecipe, outside: models.Outside) -> nn.Module:
    if outside.library is None:
        raise InputError(
            f"{outside.builder} cannot be a backbone: a detector's file says how it is built anew, and runs no code"
        )
    if recipe.backbone_args:
        raise InputError(f"`backbone_args` is for networks of the zoo; {outside.builder} takes none")
    return models.create_outside(recipe.backbone, recipe.weights or None)


def _forget_(backbone: nn.Module, seed: int) -> None:
    """Draw every weight anew, as the layers themselves would."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in backbone.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()


def run_detection(
    recipe: DetectionRecipe, out_dir: str | Path, *, progress: bool = True, force: bool = False
) -> dict[str, Any]:
    """Train a detector as a recipe says, going on from a checkpoint in `out_dir` if there is one.

    Args:
        recipe: from `load_detection_recipe`.
        out_dir: gets `<name>-seed<k>.safetensors` (the last detector), `.json`, `.results.json` (its detections on the
            held-out images in COCO's format), `.best.safetensors` where `evaluate_every` is set and, while it runs,
            `.checkpoint`.
        progress: show progress on standard error.
        force: overwrite an earlier result.

    Returns:
        The result record that was written.

    Raises:
        InputError: the result exists and `force` is false, or a set or weights that cannot be used.
    """
    stem = Path(out_dir) / f"{recipe.name}-seed{recipe.seed}"
    result_path, checkpoint = Path(f"{stem}.json"), Path(f"{stem}.checkpoint")
    refuse_earlier(stem, checkpoint, force=force)
    source_commit()
    rank, _ = join_processes()
    chief = rank == 0
    progress = progress and chief
    training = data.open_detection(recipe.data, recipe.train_split, bad_boxes=recipe.bad_boxes)
    held_out = data.open_detection(recipe.data, recipe.held_out_split, bad_boxes=recipe.bad_boxes)
    batches, looks = _batches(recipe, training, held_out.with_classes(training.classes))
    model = build_detector(recipe, training.classes)
    before = _untrained(recipe, looks, progress) if recipe.untrained else {}
    kept = {"recipe": recipe.name}
    busy = time.process_time()
    trained = fit(
        model,
        batches,
        recipe.settings(),
        objective=detect.DetectionObjective(recipe.bf16),
        watch=_watch(recipe, looks, stem, kept, chief),
        checkpoint=checkpoint,
        identity=identity_of(recipe, boxes_of(training)),
        progress=progress,
        description=recipe.name,
    )
    busy = time.process_time() - busy
    results, seconds = detect.detect(model, looks, progress=progress)
    found = detect.score_results(looks.source.to_coco(), results, seconds=round(seconds, 3))
    metrics = {**found.to_dict(), **_counts(model), **_told(trained), **before}
    metrics |= {"train_images": batches.count, "held_out_images": looks.count}
    metrics["processor_seconds"] = round(
        busy, 1
    )  # of this session; a shared machine takes longer by the clock
    if rows := answered_rows(recipe, found.stats["AP"]):
        metrics["rows"] = rows
    result = make_result(
        recipe.exhibit, metrics=metrics, seconds=trained.seconds, seed=recipe.seed, recipe=_shown(recipe)
    )
    if chief:
        if not force:
            refuse_later(result_path, checkpoint)
        info = {**kept, **{key: found.stats[key] for key in ("AP", "AP50")}}
        detect.save_detector(model.cpu(), f"{stem}.safetensors", info=info)
        write_json(f"{stem}.results.json", results)
        write_json(result_path, result)
        checkpoint.unlink(missing_ok=True)
    return result


def _batches(
    recipe: DetectionRecipe, training: data.DetectionSet, held_out: data.DetectionSet
) -> tuple[data.DetectionBatches, data.DetectionBatches]:
    """Return batches to train on and the held-out ones, whose images are whole, as predict and export take them."""
    batches = data.DetectionBatches(
        training,
        recipe.batch_size,
        training=True,
        longest=recipe.longest,
        mirror=recipe.mirror,
        keep_in_memory=recipe.keep_in_memory,
        seed=recipe.seed,
        workers=recipe.workers,
    )
    return batches, data.DetectionBatches(held_out, _EVALUATION_BATCH, workers=recipe.workers)


def _untrained(recipe: DetectionRecipe, looks: data.DetectionBatches, progress: bool) -> dict[str, Any]:
    model = build_detector(recipe, looks.source.classes, trained=False)
    return {"untrained": detect.evaluate_detector(model, looks, progress=progress).to_dict()}


def _watch(
    recipe: DetectionRecipe, looks: data.DetectionBatches, stem: Path, kept: dict[str, Any], chief: bool
) -> Watch:
    log = tensorboard_log(f"{stem}.tensorboard") if recipe.tensorboard and chief else None
    if not recipe.evaluate_every:
        return Watch(log=log)

    def keep(model: nn.Module, found: Any) -> None:
        assert isinstance(model, detect.Detector)  # for the type checker
        detect.save_detector(model, f"{stem}.best.safetensors", info={**kept, "AP": found.stats["AP"]})

    return Watch(looks, recipe.evaluate_every, keep, log, detect.evaluate_detector, "AP")


def _counts(model: detect.Detector) -> dict[str, Any]:
    body = profile(model.network.backbone.body, (3, _COUNTED, _COUNTED))
    return {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "trunk_params": body.params,
        "trunk_macs_224": body.macs,
    }


def _told(trained: TrainResult) -> dict[str, Any]:
    return {
        "steps": trained.steps,
        "train_seconds": round(trained.seconds, 1),
        "curve": trained.curve,
        "evaluations": trained.evaluations,
    }


def _shown(recipe: DetectionRecipe) -> dict[str, Any]:
    """Return the recipe's keys; of paths only the last part, since results are kept where others read them."""
    values = recipe.model_dump()
    for key in ("data", "start", "weights"):
        values[key] = Path(values[key]).name if values[key] else ""
    return values
