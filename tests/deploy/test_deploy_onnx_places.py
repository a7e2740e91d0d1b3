"""Few channels that are picked or padded become 1x1 convolutions with the same values; whatever else it is stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from inside_onnxruntime import operators_in_blocks  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import ghostnet  # noqa: E402
from ghostnet.deploy import Limits, export, load, quantize  # noqa: E402
from ghostnet.deploy.passes.onnx_places import place_by_products_  # noqa: E402

PADS = [0, 2, 0, 0, 0, 3, 0, 0]
LAST = np.iinfo(np.int64).max


def graph_of(
    nodes: list[Any],
    channels: int = 4,
    made: int | None = None,
    kind: int = TensorProto.FLOAT,
    **constants: Any,
) -> Any:
    """Return a model from "maps" through `nodes`, each named by what it makes, to "out"."""
    sizes = {"maps": ["n", channels, 6, 6], "step": ["n", channels, "h", "w"], "out": ["n", made, "h", "w"]}
    values = {name: helper.make_tensor_value_info(name, kind, size) for name, size in sizes.items()}
    graph = helper.make_graph(
        nodes,
        "places",
        [values["maps"]],
        [values["out"]],
        [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
        value_info=[values["step"]],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def answers(model: Any) -> np.ndarray:
    (value,) = model.graph.input
    channels = value.type.tensor_type.shape.dim[1].dim_value
    kind = np.float64 if value.type.tensor_type.elem_type == TensorProto.DOUBLE else np.float32
    maps = np.random.default_rng(0).standard_normal((2, channels, 6, 6)).astype(kind)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"maps": maps})[0]
    return found


def pool(kind: str = "AveragePool", kernel: int = 1, **facts: Any) -> Any:
    return helper.make_node(kind, ["maps"], ["step"], kernel_shape=[kernel] * 2, strides=[2, 2], **facts)


def padded(source: str = "step", *inputs: str, **facts: Any) -> Any:
    return helper.make_node("Pad", [source, "pads", *inputs], ["out"], **facts)


def gathered(axis: int) -> Any:
    return helper.make_node("Gather", ["maps", "index"], ["out"], axis=axis)


SLICED = helper.make_node("Slice", ["maps", "starts", "ends", "axes", "steps"], ["step"])
STEPS = {"starts": [0, 0], "ends": [LAST, LAST], "axes": [2, -1], "steps": [2, 3]}


@pytest.mark.parametrize(
    ("model", "left"),
    [
        (lambda: graph_of([gathered(1)], index=[3, 0, 0]), ["Conv"]),
        (lambda: graph_of([gathered(-3)], index=[-1, 1]), ["Conv"]),
        (lambda: graph_of([gathered(1)], 64, index=list(range(63, -1, -1))), ["Conv"]),
        (lambda: graph_of([padded("maps")], pads=PADS), ["Conv"]),
        (lambda: graph_of([padded("maps", "none")], pads=PADS, none=np.float32(0)), ["Conv"]),
        (lambda: graph_of([pool(), padded()], pads=PADS), ["Conv"]),
        (lambda: graph_of([pool("MaxPool"), padded()], pads=[0, 0, 0, 0, 0, 4, 0, 0]), ["Conv"]),
        (lambda: graph_of([SLICED, padded()], pads=PADS, **STEPS), ["Conv"]),
        (lambda: graph_of([pool(kernel=2), padded()], pads=PADS), ["AveragePool", "Conv"]),
        (lambda: graph_of([SLICED, padded()], pads=PADS, **STEPS | {"starts": [1, 0]}), ["Slice", "Conv"]),
        (lambda: graph_of([SLICED, padded()], pads=PADS, **STEPS | {"ends": [3, LAST]}), ["Slice", "Conv"]),
        (lambda: graph_of([SLICED, padded()], pads=PADS, **STEPS | {"axes": [0, 2]}), ["Slice", "Conv"]),
    ],
    ids=[
        "picked", "from_behind", "most", "padded", "with_zero", "pooled", "one_side", "sliced",
        "means", "second_pixels", "part", "images_sliced",
    ],
)  # fmt: skip
def test_a_convolution_gives_the_same_values(model: Callable[[], Any], left: list[str]) -> None:
    proto = model()
    wanted = answers(proto)
    assert place_by_products_(proto) == 1
    onnx.checker.check_model(proto)
    assert [node.op_type for node in proto.graph.node] == left
    np.testing.assert_array_equal(answers(proto), wanted)
    read = {name for node in proto.graph.node for name in node.input}
    assert {value.name for value in proto.graph.initializer} <= read


@pytest.mark.parametrize(
    "model",
    [
        lambda: graph_of([gathered(2)], index=[3, 0]),
        lambda: graph_of([gathered(1)], 65, index=[3, 0]),
        lambda: graph_of([gathered(1)], index=[0] * 65),
        lambda: graph_of([gathered(1)], kind=TensorProto.DOUBLE, index=[3, 0]),
        lambda: graph_of([padded("maps")], pads=[0, 2, 1, 0, 0, 3, 0, 0]),
        lambda: graph_of([padded("maps")], pads=[0, -1, 0, 0, 0, 3, 0, 0]),
        lambda: graph_of([padded("maps", "one")], pads=PADS, one=np.float32(1)),
        lambda: graph_of([padded("maps", mode="reflect")], pads=[0, 2, 0, 0, 0, 2, 0, 0]),
        lambda: graph_of([padded("maps", "", "axes")], pads=[1, 1], axes=[1]),
        lambda: graph_of([padded("maps")], 508, pads=PADS),
    ],
    ids=["rows", "many", "many_made", "float64", "border", "cropped", "ones", "reflected", "axes", "wide"],
)
def test_whatever_else_it_is_stays(model: Callable[[], Any]) -> None:
    proto = model()
    before = proto.SerializeToString()
    assert place_by_products_(proto) == 0
    assert proto.SerializeToString() == before


def test_a_step_that_somebody_else_reads_stays() -> None:
    nodes = [
        pool(),
        helper.make_node("Pad", ["step", "pads"], ["placed"]),
        helper.make_node("GlobalAveragePool", ["step"], ["mean"]),
        helper.make_node("Pad", ["mean", "pads"], ["placed_mean"]),
        helper.make_node("Add", ["placed", "placed_mean"], ["out"]),
    ]
    proto = graph_of(nodes, pads=PADS)
    wanted = answers(proto)
    assert place_by_products_(proto) == 1  # nobody says how many channels "mean" has
    assert [node.op_type for node in proto.graph.node] == [
        "AveragePool",
        "Conv",
        "GlobalAveragePool",
        "Pad",
        "Add",
    ]
    np.testing.assert_array_equal(answers(proto), wanted)


def test_a_graph_with_branches_stays() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["step"], ["same"])],
        "branch",
        [],
        [helper.make_tensor_value_info("same", TensorProto.FLOAT, None)],
    )
    nodes = [
        pool(),
        helper.make_node("Pad", ["step", "pads"], ["out"]),
        helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch),
    ]
    proto = graph_of(nodes, pads=PADS, yes=True)
    before = proto.SerializeToString()
    assert place_by_products_(proto) == 0
    assert proto.SerializeToString() == before


class Sliced(nn.Module):
    """The shortcut of CIFAR-10's ResNets as most write it."""

    def forward(self, maps: Tensor) -> Tensor:
        return F.pad(maps[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 1, 2), nn.Conv2d(32, 32, 1)
        self.shortcut = Sliced()

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.narrow(images))
        maps = F.relu(self.wide(maps) + self.shortcut(maps))
        return F.relu(self.last(maps) + maps).mean((2, 3))


@pytest.mark.parametrize("optimized", [True, False])
def test_sums_behind_a_padded_shortcut_stay_in_the_blocked_layout(tmp_path: Path, optimized: bool) -> None:
    path = tmp_path / "net.onnx"
    report = export(Block().eval(), "onnx", path, input_size=(3, 18, 18), optimized=optimized)
    assert report.operators.get("Pad", 0) == (not optimized)  # a plain export is PyTorch's
    inside = operators_in_blocks(path)
    assert ("Add" in inside) == (not optimized)
    assert inside.count("ReorderOutput") == 1 or not optimized


def test_the_packaged_network_picks_and_pads_nothing(tmp_path: Path) -> None:
    network = ghostnet.load("resnet56.ghost")
    report = export(network, "onnx", tmp_path / "net.onnx", input_size=(3, 32, 32))
    assert not {"Gather", "Pad"} & report.operators.keys()


def test_int8_files_have_them_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "net.onnx"
    quantize(
        Block().eval(),
        "onnx",
        path,
        torch.randn(16, 3, 18, 18),
        input_size=(3, 18, 18),
        limits=Limits(min_agreement=0),
    )
    assert not any(node.op_type == "Pad" for node in onnx.load(str(path)).graph.node)
    assert load(path).predict(np.zeros((1, 3, 18, 18), dtype=np.float32)).shape == (1, 32)
