"""Recipes of detectors: all load, wrong ones are told, a short run leaves what it promises and can be resumed."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from ghostnet import InputError, detect
from ghostnet.data import DetectionBatches, read_coco
from ghostnet.models import list_models
from ghostnet.recipes.detection import (
    build_detector,
    list_detection_recipes,
    load_detection_recipe,
    run_detection,
)
from ghostnet.train import TrainSettings, Watch, fit

_CELLS = Path(__file__).parents[1] / "detect" / "cells"
_SHORT = (
    *(
        "train_split=cells.json",
        "held_out_split=cells.json",
        "backbone=ghostnet_050",
        "freeze_batch_norm=false",
    ),
    *(
        "frozen_stages=0",
        "min_size=96",
        "max_size=128",
        "epochs=2",
        "batch_size=5",
        "evaluate_every=1",
        "bf16=false",
    ),
)


def _recipe(*overrides):
    return load_detection_recipe("bccd_light", [f'data="{_CELLS}"', *_SHORT, *overrides])


def test_every_recipe_loads_and_names_a_model():
    names = list_detection_recipes()
    assert len(names) >= 15
    for name in names:
        recipe = load_detection_recipe(name)
        assert recipe.name == name
        assert recipe.backbone in list_models()
        assert recipe.detector_settings({}).light == recipe.light


def test_the_papers_setting():
    for kind in detect.KINDS:
        for network in ("ghostnet_110", "mobilenetv2_100", "mobilenetv3_large_100"):
            recipe = load_detection_recipe(f"{kind}_{network}")
            settings = recipe.detector_settings({})
            assert (settings.min_size, settings.max_size, recipe.epochs) == (800, 1333, 12)
            assert (recipe.schedule, recipe.nesterov, settings.freeze_batch_norm) == ("step", False, True)
            assert (recipe.train_split, recipe.held_out_split, recipe.exhibit) == (
                "trainval35k",
                "minival",
                "table8",
            )
    assert load_detection_recipe("retinanet_ghostnet_110").backbone_args == {"rounding": "paper"}


def test_bad_recipes():
    with pytest.raises(InputError, match="unknown recipe 'bccd_lite'; did you mean 'bccd_light'"):
        load_detection_recipe("bccd_lite")
    with pytest.raises(InputError, match=r"unknown key .* 'epochz'; did you mean 'epochs'"):
        load_detection_recipe("bccd_light", ["epochz=1"])
    with pytest.raises(InputError, match=r"`detector` \(='yolo'\)"):
        load_detection_recipe("bccd_light", ["detector=yolo"])
    with pytest.raises(InputError, match=r"`gradient_clip` \(=-1.0\)"):
        load_detection_recipe("bccd_light", ["gradient_clip=-1"])
    with pytest.raises(InputError, match=r"`gradient_clip` \(=inf\): Input should be a finite number"):
        load_detection_recipe("bccd_light", ["gradient_clip=inf"])
    with pytest.raises(InputError, match=r"`max_size` \(=10\)"):
        load_detection_recipe("bccd_light", ["max_size=10"])
    with pytest.raises(InputError, match="freezes the batch norms of a backbone without weights"):
        build_detector(load_detection_recipe("bccd_light"), ["a"])


def test_a_run_leaves_what_it_promises(tmp_path, capsys):
    result = run_detection(_recipe("untrained=true"), tmp_path, progress=False)
    capsys.readouterr()
    stem = tmp_path / "bccd_light-seed0"
    metrics = json.loads(Path(f"{stem}.json").read_text())["metrics"]
    assert metrics == json.loads(json.dumps(result["metrics"]))
    assert {*detect.STATS} <= {*metrics} & {*metrics["untrained"]}
    assert (metrics["steps"], metrics["train_images"], len(metrics["evaluations"])) == (4, 10, 2)
    assert metrics["trunk_macs_224"] > 30e6
    assert str(_CELLS.parent) not in Path(f"{stem}.json").read_text()
    assert not Path(f"{stem}.checkpoint").exists()
    model = detect.load_detector(f"{stem}.safetensors")
    again = detect.evaluate_detector(
        model, DetectionBatches(read_coco(_CELLS / "cells.json"), 4, longest=320)
    )
    assert again.stats["AP"] == pytest.approx(metrics["AP"], abs=1e-6)
    truth = read_coco(_CELLS / "cells.json").to_coco()
    assert detect.score_file(truth, f"{stem}.results.json").stats == pytest.approx(again.stats, abs=1e-6)
    assert Path(f"{stem}.best.safetensors").exists()
    with pytest.raises(InputError, match="pass --force"):
        run_detection(_recipe(), tmp_path, progress=False)


@pytest.mark.parametrize("kind", detect.KINDS)
def test_a_resumed_run_ends_with_the_same_weights(kind, small_detector_of, tmp_path):
    def run(checkpoint, stop=None):
        model = small_detector_of(kind)
        batches = DetectionBatches(read_coco(_CELLS / "cells.json"), 5, training=True)
        torch.manual_seed(0)  # Faster R-CNN samples proposals

        def after(step):
            if step == stop:
                raise KeyboardInterrupt

        settings = TrainSettings(
            epochs=2, learning_rate=0.01, bf16=False, accumulation_steps=2, gradient_clip=5.0
        )
        fit(
            model,
            batches,
            settings,
            objective=detect.DetectionObjective(),
            watch=Watch(),
            checkpoint=checkpoint,
            after_step=after,
            progress=False,
        )
        return model.state_dict()

    whole = run(tmp_path / "a.checkpoint")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b.checkpoint", stop=3)
    resumed = run(tmp_path / "b.checkpoint")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.fixture
def small_detector_of():
    def make(kind):
        recipe = _recipe(f"detector={kind}")
        return build_detector(recipe, ["Platelets", "RBC", "WBC"])

    return make


@pytest.mark.slow
@pytest.mark.parametrize("kind", detect.KINDS)
def test_eight_real_images_are_learnt_by_heart(kind, tmp_path):
    """Every layer learns: both detectors find nearly every cell of eight images after a few minutes."""
    folder = tmp_path / "cells"
    shutil.copytree(_CELLS, folder)
    content = json.loads((folder / "cells.json").read_text())
    content["images"] = content["images"][:8]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    (folder / "cells.json").write_text(json.dumps(content))
    changes = [
        f"detector={kind}",
        f'data="{folder}"',
        "min_size=240",
        "max_size=320",
        "epochs=300",
        "batch_size=8",
    ]
    changes += ["mirror=false", "evaluate_every=0", "learning_rate=0.03", "untrained=false", "bf16=true"]
    result = run_detection(_recipe(*changes), tmp_path, progress=True)
    assert result["metrics"]["AP50"] >= 0.95
