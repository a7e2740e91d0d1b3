"""The main job on real input: the packaged CIFAR-10 network converted, fine-tuned, exported and timed.

Every stage leaves its file in the output folder, so an interrupted demo goes on where it stopped. The page itself is
made by `report` from what is written here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ghostnet import data, deploy, models
from ghostnet.errors import InputError
from ghostnet.files import refuse_unwritable
from ghostnet.measure import profile
from ghostnet.measure.features import feature_maps
from ghostnet.recipes.feature_pictures import draw_maps
from ghostnet.recipes.result import make_result, source_commit, write_json
from ghostnet.recipes.schema import Recipe, load_recipe
from ghostnet.recipes.sets import batches_of
from ghostnet.recipes.train import run_recipe

_RECIPES = {"dense init": "demo_dense_init", "random init": "demo_random_init"}
_INPUT_SIZE = (3, 32, 32)


def run_demo(
    out_dir: str | Path,
    *,
    seed: int = 0,
    data_root: str | None = None,
    progress: bool = True,
    overrides: tuple[str, ...] = (),
    force: bool = False,
) -> dict[str, Any]:
    """Convert, fine-tune, export and time the packaged network; write `demo.json` and what it names.

    Args:
        out_dir: gets the networks, exports, pictures and `demo.json`.
        seed: of the random initialisation, shuffling and augmentation.
        data_root: where CIFAR-10 is, if not in the cache.
        progress: show progress on standard error.
        overrides: `key=value` applied to both recipes (tests shorten them).
        force: run again what an earlier demo left finished.

    Returns:
        What `demo.json` holds: rows (accuracy, params, MACs, latency), curves, seconds of each stage.

    Raises:
        InputError: CIFAR-10 cannot be had, or an override is wrong.
    """
    out = Path(out_dir)
    refuse_unwritable(out)
    started = time.monotonic()
    source_commit()
    recipes = {key: load_recipe(name, [*overrides, f"seed={seed}"]) for key, name in _RECIPES.items()}
    runs = {key: _finished_or_run(recipe, out, data_root, progress, force) for key, recipe in recipes.items()}
    first = recipes["dense init"]
    dense = models.create_model(first.model, weights=first.weights)
    ghost = models.load(out / f"{first.name}-seed{seed}.safetensors")
    networks = {"dense": dense, "ghost": ghost}
    latency = _exported_and_timed(networks, out)
    dataset = data.load_cifar10(data_root, progress=progress)
    image = next(iter(batches_of(dataset, first, training=False)))[0][:1]
    layer = _first_ghost_layer(ghost)
    for key, network in networks.items():
        maps = feature_maps(network, layer, image)[0]
        draw_maps(dataset.test_images[0], maps, out / f"{key}.png", title=f"{key}: {layer}")
    result = make_result(
        "demo",
        metrics={},
        seconds=time.monotonic() - started,
        seed=seed,
        recipe={key: recipe.model_dump() for key, recipe in recipes.items()},
    )
    result.update(_summary(runs, networks, latency, first.model))
    write_json(out / "demo.json", result)
    return result


def _finished_or_run(
    recipe: Recipe, out: Path, data_root: str | None, progress: bool, force: bool
) -> dict[str, Any]:
    path = out / f"{recipe.name}-seed{recipe.seed}.json"
    if path.exists() and not force:
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            known = found["recipe"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is no whole record of a run; run the demo again with --force"
            ) from error
        if known == json.loads(json.dumps(recipe.model_dump())):
            return found
    return run_recipe(recipe, out, data_root=data_root, progress=progress, force=True)


def _exported_and_timed(networks: Mapping[str, nn.Module], out: Path) -> dict[str, float]:
    """Return the median latency of each network in milliseconds (ONNX Runtime, one thread, batch 1)."""
    paths = {}
    for name, network in networks.items():
        paths[name] = out / f"{name}.onnx"
        deploy.export(network, "onnx", paths[name], input_size=_INPUT_SIZE, force=True)
    timed = deploy.benchmark(paths, input_size=_INPUT_SIZE, threads=1, cold_starts=0)
    return {row.name: row.median_ms for row in timed.rows}


def _first_ghost_layer(ghost: nn.Module) -> str:
    return next(edit["path"] for edit in ghost.ghostnet_edits if edit["kind"] == "ghost_conv2d")  # type: ignore[union-attr]


def _summary(
    runs: Mapping[str, dict[str, Any]],
    networks: Mapping[str, nn.Module],
    latency: Mapping[str, float],
    model: str,
) -> dict[str, Any]:
    counts = {name: profile(network, _INPUT_SIZE) for name, network in networks.items()}
    stages = runs["dense init"]["metrics"]["stages"]
    random_stages = runs["random init"]["metrics"]["stages"]
    measured = [
        ("dense", "dense", stages["dense"]),
        ("ghost, as converted", "ghost", stages["as converted"]),
        ("ghost, fine-tuned", "ghost", runs["dense init"]["metrics"]),
        ("ghost, random init", "ghost", random_stages["as converted"]),
        ("ghost, random init, same fine-tune", "ghost", runs["random init"]["metrics"]),
    ]
    rows = [
        {
            "name": name,
            "top1": accuracy["top1"],
            "top5": accuracy["top5"],
            "params": counts[which].params,
            "macs": counts[which].macs,
            "latency_ms": latency[which],
            "latency_ratio": latency[which] / latency["dense"],
        }
        for name, which, accuracy in measured
    ]
    return {
        "model": model,
        "rows": rows,
        "theoretical_speedup": counts["dense"].macs / counts["ghost"].macs,
        "measured_speedup": latency["dense"] / latency["ghost"],
        "curves": {key: run["metrics"]["curve"] for key, run in runs.items()},
        "stages_seconds": {key: run["seconds"] for key, run in runs.items()},
        "feature_maps": {"dense": "dense.png", "ghost": "ghost.png"},
    }
