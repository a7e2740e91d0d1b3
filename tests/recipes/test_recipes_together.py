"""Seeds of a recipe as one network: records and networks of each, resumed runs, and what runs one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ghostnet
from ghostnet import InputError, cli, data
from ghostnet.recipes import Recipe, load_recipe, run_recipe, run_together


@pytest.fixture(autouse=True)
def small_cifar10(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8), np.arange(40) % 10
    dataset = data.Cifar10(images[:32], labels[:32], images[:20], labels[:20])
    monkeypatch.setattr(data, "load_cifar10", lambda *_args, **_kwargs: dataset)


def seeds(name: str, count: int = 2, **changes: Any) -> list[Recipe]:
    recipe = load_recipe(name)
    # with larger steps rounding alone drives two runs of such narrow networks apart
    small = {
        "learning_rate": 0.002,
        "epochs": 2.0,
        "batch_size": 16,
        "calibration_images": 16,
        "weights": "",
        "bf16": False,
    }
    small["model_args"] = {**recipe.model_args, "width_mult": 0.25}
    return [recipe.model_copy(update={**small, "seed": seed, **changes}) for seed in range(count)]


@pytest.mark.parametrize(
    "name", ["short_ghost_resnet20", pytest.param("short_ghost_resnet20_converted", marks=pytest.mark.slow)]
)
def test_each_seed_gets_what_it_gets_alone(name: str, tmp_path: Path) -> None:
    recipes = seeds(name, init="random")
    if name.endswith("converted"):
        dense = ghostnet.create_model("resnet20", width_mult=0.25)
        ghostnet.save(dense, tmp_path / "dense.safetensors")
        changes = {"teacher": "dense", "start": str(tmp_path / "dense.safetensors")}
        recipes = [recipe.model_copy(update=changes) for recipe in recipes]
    found = run_together(recipes, tmp_path / "together", progress=False)
    for recipe, result in zip(recipes, found, strict=True):
        alone = run_recipe(recipe, tmp_path / "alone", progress=False)
        assert result["metrics"]["together"] == [0, 1]
        assert result["seed"] == recipe.seed
        for key in ("macs", "params", "steps", "count"):
            assert result["metrics"][key] == alone["metrics"][key]
        assert result["metrics"]["loss"] == pytest.approx(alone["metrics"]["loss"], rel=1e-2)
        stem = f"{recipe.name}-seed{recipe.seed}"
        written = json.loads((tmp_path / "together" / f"{stem}.json").read_text())
        assert written["metrics"] == json.loads(json.dumps(result["metrics"]))
        one = ghostnet.load(tmp_path / "together" / f"{stem}.safetensors")
        other = ghostnet.load(tmp_path / "alone" / f"{stem}.safetensors")
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(one(images), other(images), rtol=1e-2, atol=1e-2)
    left = sorted(path.suffix for path in (tmp_path / "together").iterdir())
    assert left == [".json", ".json", ".safetensors", ".safetensors"]


def test_what_does_not_stack_runs_one_by_one(tmp_path: Path) -> None:
    found = run_together(seeds("short_ghost_resnet20", evaluate_every=1.0), tmp_path, progress=False)
    assert all("together" not in result["metrics"] for result in found)
    assert [len(result["metrics"]["evaluations"]) for result in found] == [2, 2]


def test_bad_groups_are_refused(tmp_path: Path) -> None:
    first, second = seeds("short_ghost_resnet20")
    for recipes, message in (
        ([], "there is no recipe to run"),
        ([first, first], "need a seed each"),
        ([first, second.model_copy(update={"epochs": 3.0})], "may differ in their seed alone"),
        ([load_recipe("fine_tune").model_copy(update={"data": "images/"})], "is not on CIFAR-10"),
    ):
        with pytest.raises(InputError, match=message):
            run_together(recipes, tmp_path, progress=False)
    run_recipe(first, tmp_path, progress=False)
    with pytest.raises(InputError, match="exists"):
        run_together([first, second], tmp_path, progress=False)


def test_reproduce_trains_seeds_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["reproduce", "short", "--only", "short_resnet20", "--seeds", "2", "--together", "--json"]
    arguments += ["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    dense = tmp_path / "dense.safetensors"
    ghostnet.save(ghostnet.create_model("resnet20"), dense)
    arguments += ["--dense", str(dense)]
    assert cli.run([*arguments, "--jobs", "2"]) == 2
    assert "`together` trains seeds in one process and `jobs` in several" in capsys.readouterr().err
