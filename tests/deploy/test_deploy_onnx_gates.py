"""Gates are spread where the maps' sizes are known, other products stay, and the graph computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import nn

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from inside_onnxruntime import operators_in_blocks  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402

from ghostnet.deploy import export, load, quantize  # noqa: E402
from ghostnet.deploy.passes.onnx_gates import gather_gates_, spread_gates_  # noqa: E402
from ghostnet.nn import SqueezeExcite  # noqa: E402


def product(first: list[int | str], second: list[int | str]) -> onnx.ModelProto:
    shapes = {"a": first, "b": second, "out": ["n", "c", "h", "w"]}
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()
    }
    node = helper.make_node("Mul", ["a", "b"], ["out"])
    graph = helper.make_graph([node], "product", [values["a"], values["b"]], [values["out"]])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(
    ("first", "second", "spread"),
    [
        (["n", 4, 5, 7], ["n", 4, 1, 1], 1),
        (["n", 4, 1, 1], ["n", 4, 5, 7], 1),
        (["n", 4, 5, 7], ["n", 4, 5, 7], 0),
        (["n", 4, 1, 1], ["n", 4, 1, 1], 0),
        (["n", 4, 5, 7], ["n", 4, 1, 7], 0),
        (["n", 4, "h", "w"], ["n", 4, 1, 1], 0),
    ],
)
def test_only_factors_of_one_pixel_beside_larger_maps_are_spread(
    first: list[int | str], second: list[int | str], spread: int
) -> None:
    model = product(first, second)
    before = model.SerializeToString()
    sizes = {"n": 2, "h": 3, "w": 3}
    feeds = {
        name: np.random.default_rng(0).standard_normal(
            [sizes.get(axis, axis) for axis in shape], dtype=np.float32
        )  # type: ignore[call-overload]
        for name, shape in (("a", first), ("b", second))
    }
    assert spread_gates_(model) == spread
    onnx.checker.check_model(model)
    assert sum(node.op_type == "Resize" for node in model.graph.node) == spread
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, feeds)[0], feeds["a"] * feeds["b"])
    assert gather_gates_(model) == spread
    assert model.SerializeToString() == before


@pytest.mark.parametrize("optimized", [True, False])
def test_exports_spread_gates_unless_they_are_plain(tmp_path: Path, optimized: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 3), SqueezeExcite(16), nn.Conv2d(16, 16, 1), SqueezeExcite(16))
    path = tmp_path / "net.onnx"
    report = export(network, "onnx", path, input_size=(3, 8, 8), optimized=optimized)
    assert report.operators.get("Resize", 0) == 2 * optimized
    constants = [value.name for value in onnx.load(str(path)).graph.initializer]
    assert sum("gate_scales" in name for name in constants) == optimized  # one for both: the maps are alike


def test_onnx_runtime_stays_in_its_blocked_layout(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 3), SqueezeExcite(16, reduction_ratio=1.0), nn.Conv2d(16, 16, 1))
    path = tmp_path / "net.onnx"
    export(network, "onnx", path, input_size=(3, 8, 8))
    assert load(path).predict(np.zeros((1, 3, 8, 8), dtype=np.float32)).shape == (1, 16, 6, 6)
    inside = operators_in_blocks(path)
    assert inside.count("ReorderOutput") == 1  # at the end only


def test_int8_files_have_no_spread_gates(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 3), SqueezeExcite(16), nn.Conv2d(16, 16, 1))
    images = np.random.default_rng(0).standard_normal((16, 3, 8, 8), dtype=np.float32)
    quantize(network, "onnx", tmp_path / "net.onnx", images, input_size=(3, 8, 8))
    kinds = [node.op_type for node in onnx.load(str(tmp_path / "net.onnx")).graph.node]
    assert "Mul" in kinds
    assert "Resize" not in kinds
