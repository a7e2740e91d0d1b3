"""Spatial means become GlobalAveragePool, other means stay, and the graph computes the same."""

import json

import numpy as np
import pytest
from torch import nn

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402

from ghostnet.deploy import export  # noqa: E402
from ghostnet.deploy.passes.onnx_pooling import with_global_pools_  # noqa: E402
from ghostnet.nn import SqueezeExcite  # noqa: E402


def graph_of(axes: list[int], keepdims: int, rank: int = 4) -> "onnx.ModelProto":
    shape = [2, 3, 5, 7][:rank]
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=keepdims)
    constant = helper.make_tensor("axes", TensorProto.INT64, [len(axes)], axes)
    left = [f"d{axis}" for axis in range(rank if keepdims else rank - len(axes))]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, left)]
    graph = helper.make_graph([node], "mean", inputs, outputs, [constant])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model: "onnx.ModelProto", images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images})[0]


@pytest.mark.parametrize(
    ("axes", "keepdims", "rank", "changed"),
    [([2, 3], 1, 4, 1), ([-1, -2], 1, 4, 1), ([2, 3], 0, 4, 0), ([1, 2], 1, 4, 0), ([-2, -1], 1, 3, 0)],
)
def test_only_spatial_means_that_keep_their_axes_change(
    axes: list[int], keepdims: int, rank: int, changed: int
) -> None:
    model = graph_of(axes, keepdims, rank)
    images = np.random.default_rng(0).standard_normal([2, 3, 5, 7][:rank], dtype=np.float32)
    before = run(model, images)
    assert with_global_pools_(model.graph) == changed
    assert (model.graph.node[0].op_type == "GlobalAveragePool") == bool(changed)
    onnx.checker.check_model(model)
    np.testing.assert_allclose(run(model, images), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimized", [True, False])
def test_exports_pool_globally_unless_they_are_plain(tmp_path, optimized):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), SqueezeExcite(4))
    report = export(network, "onnx", tmp_path / "net.onnx", input_size=(3, 8, 8), optimized=optimized)
    assert report.operators.get("GlobalAveragePool", 0) == optimized
    assert report.operators.get("ReduceMean", 0) == (not optimized)
    names = json.loads((tmp_path / "net.onnx.json").read_text())["passes"]
    assert ("fold_batch_norm" in names) if optimized else names is None
