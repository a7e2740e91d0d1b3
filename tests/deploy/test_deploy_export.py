"""Exports agree with PyTorch in ONNX Runtime, are whole or absent, and refuse bad input in one line."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ghostnet.deploy import benchmark, export, load
from ghostnet.errors import InputError
from ghostnet.nn import GhostConv2d

for library in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(library)


def network() -> nn.Module:
    norm = nn.BatchNorm2d(8)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.3, 1.3)
    layer = GhostConv2d(3, 8, 3, padding=1)
    layer.set_channel_order_(torch.randperm(8))
    return nn.Sequential(layer, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    model, path = network(), tmp_path_factory.mktemp("export") / "net.onnx"
    report = export(model, "onnx", path, input_size=(3, 16, 16), metadata={"origin": "test"})
    assert report.relative_error < 1e-5
    assert report.bytes == path.stat().st_size
    assert "BatchNormalization" not in report.operators
    assert "relative error" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["target"] == "onnx"
    return model, path


def test_the_file_computes_what_the_model_computes(exported: tuple[nn.Module, Path]) -> None:
    model, path = exported
    session = load(path, threads=1)
    images = np.random.default_rng(3).standard_normal((5, 3, 16, 16), dtype=np.float32)
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(session.predict(images), expected, atol=1e-5)
    assert session.input_size == (3, 16, 16)
    assert session.metadata["origin"] == "test"
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "net.onnx",
        "net.onnx.json",
    ]  # no leftovers


def test_the_exporter_reads_the_sources_of_its_operators_once(
    exported: tuple[nn.Module, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxscript._internal import ast_utils

    read: list[object] = []
    given = ast_utils.get_src_and_ast
    monkeypatch.setattr(
        ast_utils, "get_src_and_ast", lambda function: read.append(function) or given(function)
    )
    export(exported[0], "onnx", tmp_path / "again.onnx", input_size=(3, 16, 16))
    assert len(read) < 50  # of several hundred


def test_benchmark_is_side_by_side(exported: tuple[nn.Module, Path]) -> None:
    _, path = exported
    result = benchmark({"one": path, "two": load(path)}, input_size=(3, 16, 16), min_seconds=0.01)
    assert [row.name for row in result.rows] == ["one", "two"]
    assert result.rows[0].ratio == 1.0
    assert result.rows[1].ratio == pytest.approx(result.rows[1].median_ms / result.rows[0].median_ms)
    assert result.rows[0].bytes == path.stat().st_size
    assert "time ratio" in str(result)
    assert json.loads(json.dumps(result.to_dict()))["threads"] == 1


def test_predict_refuses_what_does_not_fit(exported: tuple[nn.Module, Path]) -> None:
    session = load(exported[1])
    with pytest.raises(InputError, match="needs a float32 numpy array, not float64"):
        session.predict(np.zeros((1, 3, 16, 16)))
    with pytest.raises(InputError, match=r"shape \(1, 3, 8, 8\) does not fit"):
        session.predict(np.zeros((1, 3, 8, 8), dtype=np.float32))


def test_an_existing_file_needs_force(exported: tuple[nn.Module, Path]) -> None:
    before = exported[1].read_bytes()
    with pytest.raises(InputError, match="--force"):
        export(network(), "onnx", exported[1], input_size=(3, 16, 16))
    assert exported[1].read_bytes() == before


def test_parity_above_the_tolerance_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="differs from PyTorch by"):
        export(network(), "onnx", tmp_path / "net.onnx", input_size=(3, 16, 16), tolerance=1e-12)
    assert list(tmp_path.iterdir()) == []


def test_bad_requests_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(InputError, match="unknown export target 'onxx'; did you mean 'onnx'"):
        export(network(), "onxx", path)
    with pytest.raises(InputError, match="tolerance"):
        export(network(), "onnx", path, tolerance=float("nan"))
    with pytest.raises(InputError, match=r"does not run with input_size \(4, 16, 16\)"):
        export(network(), "onnx", path, input_size=(4, 16, 16))
    with pytest.raises(
        InputError, match=r"shape \(1, 2, 4\) \(output_1\); the first axis must be the images"
    ):
        export(nn.GRU(4, 4), "onnx", path, input_size=(2, 4))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # noqa: ARG005
    with pytest.raises(InputError, match=r'pip install "ghostnet\[export\]"'):
        export(network(), "onnx", path)
    assert list(tmp_path.iterdir()) == []


def test_unusable_files_are_refused(exported: tuple[nn.Module, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(exported[1].read_bytes()[:-40])
    with pytest.raises(InputError, match="not a usable ONNX file"):
        load(broken)
    with pytest.raises(InputError, match="there is no file"):
        load(tmp_path / "absent.onnx")
    with pytest.raises(InputError, match=r"threads \(=0\)"):
        load(exported[1], threads=0)
    with pytest.raises(InputError, match="nothing to benchmark"):
        benchmark({}, input_size=(3, 16, 16))
    with pytest.raises(InputError, match=r"batch \(=0\)"):
        benchmark({"a": exported[1]}, input_size=(3, 16, 16), batch=0)
