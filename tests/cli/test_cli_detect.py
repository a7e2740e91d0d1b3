"""`ghostnet detect` from end to end on ten real images: train, eval, predict, export, bench."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from ghostnet import cli

_CELLS = Path(__file__).parents[1] / "detect" / "cells"
_SHORT = (
    *(
        "train_split=cells.json",
        "held_out_split=cells.json",
        "backbone=ghostnet_050",
        "freeze_batch_norm=false",
    ),
    *("frozen_stages=0", "min_size=96", "max_size=128", "epochs=1", "batch_size=5", "evaluate_every=0"),
    *("untrained=false", "bf16=false", "name=short", "score_threshold=0.0"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    assert cli.run(["detect", "train", "bccd_light", "--data", str(_CELLS), "--out", str(out), *_SHORT]) == 0
    return out / "short-seed0.safetensors"


@pytest.mark.parametrize("name", ["timm:tf_mobilenetv3_small_minimal_100", "torchvision:resnet18"])
def test_backbones_of_libraries_are_taken_by_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ghostnet.models import create_outside

    weights = tmp_path / "mine.pth"
    torch.save(create_outside(name).state_dict(), weights)
    common = ["detect", "train", "bccd_light", "--data", str(_CELLS), *_SHORT, f"weights={weights}"]
    assert cli.run([*common, f"backbone={name}", "--out", str(tmp_path)]) == 0
    assert cli.run(["detect", "predict", str(tmp_path / "short-seed0.safetensors"), str(_CELLS)]) == 0
    recipe = json.loads((tmp_path / "short-seed0.json").read_text())["recipe"]
    if name.startswith("timm"):  # its own normalisation, not ImageNet's
        from ghostnet.detect import load_detector

        assert load_detector(tmp_path / "short-seed0.safetensors").settings.mean == (0.5, 0.5, 0.5)
    assert recipe["backbone"] == name
    capsys.readouterr()
    assert (
        cli.run([*common, f"backbone={name}", "backbone_args={width=2}", "--out", str(tmp_path / "b")]) == 2
    )
    assert "`backbone_args` is for networks of the zoo" in capsys.readouterr().err
    assert cli.run([*common, "backbone=torch.nn:Identity", "--out", str(tmp_path / "b")]) == 2
    assert "torch.nn:Identity cannot be a backbone" in capsys.readouterr().err


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["detect", "train", "--list", "--json"]) == 0
    assert "retinanet_ghostnet_110" in json.loads(capsys.readouterr().out)


def test_what_the_help_shows_is_not_refused_for_want_of_weights() -> None:
    from ghostnet.cli.reference import command_reference
    from ghostnet.recipes.detection import load_detection_recipe

    guide = Path(__file__).parents[2] / "docs" / "detection.md"
    shown = command_reference() + guide.read_text(encoding="utf-8")
    found = re.findall(r"^ *(?:torchrun .* -m )?ghostnet detect train (\w.*)$", shown, re.M)
    assert len(found) >= 4
    for line in found:
        name, *rest = shlex.split(line)
        recipe = load_detection_recipe(name, [word for word in rest if "=" in word])
        frozen = recipe.detector_settings({}).freeze_batch_norm
        assert recipe.start or recipe.weights or not frozen, line


def test_the_guides_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "detection.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "detection.md", "exec"), {})
    assert "'32': (1, 128, 7, 7)" in capsys.readouterr().out


def test_a_detector_and_its_results_file_are_measured_alike(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, found = str(_CELLS / "cells.json"), tmp_path / "found.json"
    arguments = ["detect", "eval", str(trained), "--data", data, "--out", str(found), "--json"]
    assert cli.run(arguments) == 0
    one = json.loads(capsys.readouterr().out)
    assert cli.run(["detect", "eval", "--results", str(found), "--data", data, "--json"]) == 0
    two = json.loads(capsys.readouterr().out)
    assert {**one, "seconds": 0.0} == two
    assert two["images"] == 10
    assert cli.run(["detect", "eval", "--results", str(found), "--data", data]) == 0
    assert "Platelets" in capsys.readouterr().out
    assert cli.run(arguments) == 2
    assert "pass --force" in capsys.readouterr().err
    measured = ["detect", "eval", "--results", str(found), "--data", data]
    for idle, use in (
        (["--split", "test"], "sets whose images are read"),
        (["--bad-boxes", "error"], "sets whose images are read"),
        (["--out", str(tmp_path / "more.json")], "measuring a detector"),
        (["--batch-size", "4"], "measuring a detector"),
        (["--workers", "1"], "measuring a detector"),
        (["--force"], "--out"),
    ):
        assert cli.run([*measured, *idle]) == 2
        assert f"{idle[0]} is for {use}, and has no effect here" in capsys.readouterr().err


def test_training_measures_whole_images_as_eval_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, found = str(tmp_path), tmp_path / "found.json"
    arguments = ["detect", "train", "bccd_light", "--data", str(_CELLS), "--out", out, *_SHORT, "longest=64"]
    assert cli.run(arguments) == 0
    saved, data = str(tmp_path / "short-seed0.safetensors"), str(_CELLS / "cells.json")
    assert cli.run(["detect", "eval", saved, "--data", data, "--out", str(found), "--batch-size", "1"]) == 0
    capsys.readouterr()
    one = json.loads((tmp_path / "short-seed0.results.json").read_text(encoding="utf-8"))
    two = json.loads(found.read_text(encoding="utf-8"))
    assert len(one) == len(two) > 100
    for key, apart in (("score", 0.002), ("bbox", 0.5)):
        values = [sorted(np.ravel([result[key] for result in results])) for results in (one, two)]
        np.testing.assert_allclose(*values, atol=apart)


def test_the_message_on_a_bad_box_names_what_the_verb_understands(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = json.loads((_CELLS / "cells.json").read_text(encoding="utf-8"))
    value["annotations"][0]["bbox"][3] = 0
    data = tmp_path / "cells"
    data.mkdir()
    (data / "cells.json").write_text(json.dumps(value), encoding="utf-8")
    for picture in _CELLS.glob("*.jpg"):
        (data / picture.name).write_bytes(picture.read_bytes())
    place = str(data / "cells.json")
    assert cli.run(["detect", "eval", str(trained), "--data", place]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith(
        "and height 0, which must be above 0; correct it, or leave such boxes out with --bad-boxes drop"
    )
    assert cli.run(["detect", "eval", str(trained), "--data", place, "--bad-boxes", "drop"]) == 0
    capsys.readouterr()
    arguments = [
        "detect",
        "train",
        "bccd_light",
        "--data",
        str(data),
        "--out",
        str(tmp_path),
        *_SHORT,
        "bad_boxes=error",
    ]
    assert cli.run(arguments) == 2
    assert capsys.readouterr().err.strip().endswith("leave such boxes out with bad_boxes=drop")


def test_pictures_and_json(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn, coco = tmp_path / "drawn", tmp_path / "found.json"
    arguments = ["detect", "predict", str(trained), str(_CELLS), "--out", str(drawn), "--coco", str(coco)]
    assert cli.run([*arguments, "--least-score", "0"]) == 0
    assert "BloodImage_00007.jpg" in capsys.readouterr().out
    assert len(list(drawn.glob("*_boxes.jpg"))) == 10
    value = json.loads(coco.read_text())
    assert len(value["images"]) == 10
    assert value["annotations"]
    assert cli.run(arguments) == 2
    assert "pass --force" in capsys.readouterr().err
    assert cli.run(["detect", "predict", str(trained), str(_CELLS), "--least-score", "3"]) == 2
    assert "the least score (=3.0)" in capsys.readouterr().err


def test_equal_names_in_folders_are_measured_as_what_they_are(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = json.loads((_CELLS / "cells.json").read_text(encoding="utf-8"))
    for number, image in enumerate(value["images"]):
        target = tmp_path / "images" / "ba"[number % 2] / f"{number // 2}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((_CELLS / image["file_name"]).read_bytes())
        image["file_name"] = f"{target.parent.name}/{target.name}"
    data, found = tmp_path / "cells.json", tmp_path / "found.json"
    data.write_text(json.dumps(value), encoding="utf-8")
    folder = str(tmp_path / "images")
    assert (
        cli.run(["detect", "predict", str(trained), folder, "--least-score", "0", "--coco", str(found)]) == 0
    )
    assert json.loads(found.read_text())["images"][0]["file_name"] == "a/0.jpg"
    capsys.readouterr()
    scores = []
    for what in ([str(trained)], ["--results", str(found)]):
        assert cli.run(["detect", "eval", *what, "--data", str(data), "--json"]) == 0
        scores.append({**json.loads(capsys.readouterr().out), "seconds": 0})
    assert scores[0]["AR100"] == pytest.approx(scores[1]["AR100"], abs=0.02)


def test_export_and_bench(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "short.onnx"
    assert cli.run(["detect", "export", str(trained), "-o", str(path), "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)["agreement"]["onnxruntime"]
    assert found["without_partner"] == 0
    assert ("no box was compared" in said.err) == (found["boxes"] == 0)
    boxes = []
    for name in (str(trained), str(path)):
        assert cli.run(["detect", "predict", name, str(_CELLS), "--least-score", "0", "--json"]) == 0
        boxes.append(json.loads(capsys.readouterr().out)["annotations"])
        assert cli.run(["detect", "eval", name, "--data", str(_CELLS / "cells.json"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["images"] == 10
    assert [box["score"] for box in boxes[1]] == pytest.approx([box["score"] for box in boxes[0]], abs=1e-3)
    for line, message in (
        (["bench", str(path)], "short.onnx is an exported detector; use ghostnet detect bench"),
        (["eval", str(path), "--data", "."], "short.onnx is an exported detector; use ghostnet detect bench"),
        (["detect", "export", str(path), "-o", "x.onnx"], "name the saved detector (.safetensors)"),
        (
            ["detect", "export", str(trained), "-o", "x.xml"],
            "x.xml must end in .onnx, which is what is written",
        ),
        (["detect", "export", "ghostnet_050", "-o", "x.onnx"], "ghostnet_050 is a backbone, not a saved"),
        (
            ["detect", "eval", "ghostnet_050", "--data", str(_CELLS / "cells.json")],
            "ghostnet_050 is a backbone",
        ),
    ):
        assert cli.run(line) == 2, line
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert message in said[0]
    result = tmp_path / "speed.json"
    arguments = ["detect", "bench", str(path), "--seconds", "0.01", "--result", str(result), "--json"]
    assert cli.run(arguments) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["name"], row["ratio"], row["bytes"]) == ("short", 1, path.stat().st_size)
    assert "AP" not in row
    assert json.loads(result.read_text())["metrics"]["rows"] == [row]
    cells = ["--data", str(_CELLS / "cells.json")]
    assert cli.run(["detect", "eval", str(path), *cells, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert cli.run(["detect", "bench", str(path), "--seconds", "0.01", *cells]) == 0
    header, _, line = capsys.readouterr().out.splitlines()[:3]
    assert header.split()[-4:] == ["MB", "AP", "AP50", "AP75"]
    assert line.split()[-3:] == [f"{100 * measured[name]:.1f}" for name in ("AP", "AP50", "AP75")]
    assert cli.run(["detect", "bench", "retinanet:ghostnet_050", *cells]) == 2
    assert "was not trained on 'Platelets'" in capsys.readouterr().err
    assert cli.run(["detect", "bench", str(path), "--split", "test"]) == 2
    assert "--split is for --data" in capsys.readouterr().err
    assert cli.run(["detect", "bench", str(path), "--plain"]) == 2
    assert "--plain is for KIND:BACKBONE" in capsys.readouterr().err
    boxes = tmp_path / "boxes.json"
    boxes.write_bytes((_CELLS / "cells.json").read_bytes())
    line = ["detect", "bench", str(path), "--data", str(boxes), "--result", str(boxes), "--force"]
    assert cli.run(line) == 2
    assert "is read here and would be lost" in capsys.readouterr().err


@pytest.mark.slow
def test_fresh_detectors_are_rewritten_unless_asked_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    from ghostnet.detect import export_detector, fresh_detector

    as_it_is = export_detector(fresh_detector("retinanet:ghostnet_050"), tmp_path / "x.onnx").bytes
    sizes = []
    for plain in ([], ["--plain"]):
        line = ["detect", "bench", "retinanet:ghostnet_050", "--seconds", "0.01", *plain, "--json"]
        assert cli.run(line) == 0
        (row,) = json.loads(capsys.readouterr().out)["rows"]
        assert row["name"] == "retinanet_ghostnet_050"
        sizes.append(row["bytes"])
    assert sizes[1] == as_it_is
    assert sizes[0] != as_it_is


def _in_int8(trained: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Return what asks for int8 in `folder`, and the options that name 20 images there."""
    photos = folder / "photos"
    photos.mkdir()
    for number in range(20):
        (photos / f"{number}.jpg").write_bytes((_CELLS / "BloodImage_00007.jpg").read_bytes())
    arguments = ["detect", "export", str(trained), "-o", str(folder / "short.onnx"), "--precision", "int8"]
    return arguments, ["--calibration", str(photos), "--least-score", "0.01", "--min-agreement", "0"]


@pytest.mark.slow
def test_export_in_int8(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "short.onnx"
    arguments, calibration = _in_int8(trained, tmp_path)
    assert cli.run([*arguments, *calibration, "--calibration-images", "17", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert "quantising with 17 calibration images" in said.err
    assert (found["images"], found["precision"]) == (17, "int8")
    assert found["bytes"] == path.stat().st_size < found["float_bytes"]
    assert cli.run(["detect", "eval", str(path), "--data", str(_CELLS / "cells.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 10


def test_what_export_in_int8_cannot_be(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    arguments, calibration = _in_int8(trained, tmp_path)
    for line, message in (
        (arguments, "int8 needs images to calibrate on: give --calibration FOLDER"),
        ([*arguments, "--calibration", str(tmp_path / "none")], "there is no image"),
        ([*arguments, *calibration, "--calibration-images", "3"], "3 calibration images are too few"),
        ([*arguments, *calibration, "--calibration-images", "0"], "--calibration-images (=0) must be"),
        ([*arguments, *calibration, "--min-agreement", "2"], "min_agreement (=2.0) must be between 0 and 1"),
        ([*arguments, *calibration, "--plain"], "--plain is for --precision fp32"),
        ([*arguments[:-1], "int4"], "unknown precision of detectors 'int4'"),
        ([*arguments[:-2], "--weight-bits", "8"], "--weight-bits is for --precision int8"),
    ):
        assert cli.run([*line, "--force"]) == 2, line
        said_lines = capsys.readouterr().err.splitlines()
        assert len(said_lines) == 1, said_lines
        assert message in said_lines[0]


def test_classifiers_are_no_detectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import ghostnet

    path = tmp_path / "classifier.safetensors"
    ghostnet.save(ghostnet.create_model("ghostnet_050"), path)
    assert cli.run(["detect", "predict", str(path), str(_CELLS)]) == 2
    assert "holds a classifier, no detector" in capsys.readouterr().err
