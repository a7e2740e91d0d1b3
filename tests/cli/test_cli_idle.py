"""An option that nothing in a call would read is refused, before anything slow is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from ghostnet.cli.app import run

_CASES = {
    "export resnet9_050 -o x.onnx --max-drop 2": "--max-drop is for --precision int8",
    "export resnet9_050 -o x.onnx --min-agreement 0.9": "--min-agreement is for --precision int8",
    "export resnet9_050 -o x.onnx --calibration-images 64": "--calibration-images is for --precision int8",
    "convert resnet9_050 -o x.safetensors --images 64": "--images is for --calibration",
    "convert resnet9_050 -o x.safetensors --normalisation cifar10": "--normalisation is for --calibration",
    "convert resnet9_050 -o x.safetensors --data-dir d": "--data-dir is for --calibration cifar10",
    "convert resnet9_050 -o x.safetensors --seed 1": "--seed is for --init random and pruning methods",
    "convert resnet9_050 -o x.safetensors --multiple 8": "--multiple is for pruning methods",
    "convert resnet9_050 -o x.safetensors --init random --streams": "--streams is for --init dense and pruning methods",
    "convert resnet9_050 -o x.safetensors --method l1 --ratio 4": "--ratio is for --method ghost",
    "convert resnet9_050 -o x.safetensors --method l1 --form ghostnet": "--form is for --method ghost",
    "convert resnet9_050 -o x.safetensors --method l1 --layers a": "--layers is for --method ghost",
    "eval resnet9_050 --image-size 64": "--image-size is for --data FOLDER",
    "eval resnet9_050 --workers 2": "--workers is for --data FOLDER",
    "eval resnet9_050 --data {folder} --data-dir d": "--data-dir is for --data cifar10",
    "features resnet9_050 {image} --ratio 3": "--ratio is for --scores",
    "features resnet9_050 {image} --scores --top 3": "--top is for one layer's pairs, without --scores",
    "features resnet9_050 {image} --scores --layer a": "--layer is for one layer, without --scores or with --out",
    "features resnet9_050 {image} --beside resnet9_050": "--beside is for pictures, with --out FOLDER",
    "train --data {folder} --data-dir d": '--data-dir is for recipes with data = "cifar10"',
    "convert resnet9_050 -o out.safetensors --keep-plain": "--keep-plain is for --calibration",
    "convert a.pth -o b.pth --calibration {folder} --init random --keep-plain": "--keep-plain is for --init dense",
    "data cifar10 --rounds 2": "--rounds is for `ghostnet data speed`",
    "data shards {folder} out --per-class 9": "--per-class is for `ghostnet data cifar10`",
    "data speed {folder} --images-per-shard 9": "--images-per-shard is for `ghostnet data shards`",
    "reproduce table1 --jobs 2 --list": "--jobs is for table3, table4, table5, short and short_sweep",
    "reproduce table5 --dense f --list": "--dense is for short and short_sweep",
    "reproduce table5 --force --list": "--force is for exhibits without training",
    "reproduce table1 --layer a --list": "--layer is for table2, figure1, figure4 and figure5",
}


@pytest.mark.parametrize("line", _CASES)
def test_options_without_effect_are_refused(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "one.png").write_bytes(b"")
    given = line.format(folder=tmp_path / "images", image=tmp_path / "one.png")
    assert run(given.split()) == 2
    error = capsys.readouterr().err
    assert error == f"ghostnet: {_CASES[line]}, and has no effect here; leave it out\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "one.png"]


def test_defaults_are_not_taken_for_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reproduce", "table1", "--show"]) == 0
    assert "Table 1" in capsys.readouterr().out
