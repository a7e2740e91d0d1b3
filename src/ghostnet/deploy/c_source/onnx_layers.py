"""An ONNX graph of fixed sizes, read as `layers.Network`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ghostnet.deploy.c_source.layers import (
    Activation,
    Channels,
    Concatenation,
    Convolution,
    Elementwise,
    Network,
    Planes,
    Pool,
    Sampling,
    Softmax,
)
from ghostnet.deploy.c_source.onnx_graph import READERS, NoSuchLayerError, Reader, reads
from ghostnet.deploy.c_source.onnx_resizing import padding, pair

_UNARY = {
    "Relu": "RELU", "Sigmoid": "SIGMOID", "Tanh": "TANH", "Erf": "ERF", "Exp": "EXP",
    "Sqrt": "SQRT", "Abs": "ABS", "Neg": "NEGATIVE", "Reciprocal": "RECIPROCAL", "Log": "LOG", "Ceil": "CEIL",
    "Floor": "FLOOR", "Mish": "MISH",
}  # fmt: skip
_BINARY = {
    "Add": "ADD", "Sub": "SUBTRACT", "Mul": "MULTIPLY", "Div": "DIVIDE", "Max": "MAXIMUM", "Min": "MINIMUM",
}  # fmt: skip
_SWAPPED = {"ADD", "MULTIPLY", "MAXIMUM", "MINIMUM"}  # kinds whose operands may change places


def network_of(proto: Any) -> Network:
    """Return an ONNX graph as layers.

    Args:
        proto: a model with one input `(1, C, H, W)`, all sizes fixed.

    Raises:
        NoSuchLayerError: a node that has no kernel.
    """
    return Reader(proto).read(READERS)


@reads("Conv")
def _conv(reader: Reader, node: Any) -> None:
    weight, bias, given = reader.constant(node, 1), reader.constant(node, 2), reader.attributes(node)
    if weight is None or weight.ndim != 4:
        raise NoSuchLayerError(node, "not in two dimensions")
    reader.layers.append(
        Convolution(
            reader.source(node),
            reader.result(node),
            weight,
            np.zeros(len(weight), np.float32) if bias is None else bias,
            pair(given.get("strides", (1, 1))),
            padding(reader, node),
            pair(given.get("dilations", (1, 1))),
            given.get("group", 1),
        )
    )


@reads("Gemm", "MatMul")
def _matrix(reader: Reader, node: Any) -> None:
    weight, given = reader.constant(node, 1), reader.attributes(node)
    assert weight is not None
    vector = len(reader.shapes[node.input[0]]) == 2
    if (
        not vector
        or weight.ndim != 2
        or given.get("transA")
        or given.get("alpha", 1) != 1
        or given.get("beta", 1) != 1
    ):
        raise NoSuchLayerError(node, "not a vector times a constant matrix")
    weight = weight if given.get("transB") else weight.T
    bias = reader.constant(node, 2) if node.op_type == "Gemm" else None
    bias = (
        np.zeros(len(weight), np.float32) if bias is None else np.broadcast_to(bias.ravel(), (len(weight),))
    )
    reader.layers.append(_linear(reader.source(node), reader.result(node), weight, bias))


def _linear(source: str, result: str, weight: np.ndarray, bias: np.ndarray) -> Convolution:
    return Convolution(source, result, weight[:, :, None, None], bias, (1, 1), (0, 0, 0, 0), (1, 1), 1)


@reads("BatchNormalization")
def _batch_norm(reader: Reader, node: Any) -> None:
    scale, bias, mean, variance = (
        np.asarray(reader.constant(node, place), np.float64) for place in range(1, 5)
    )
    factor = scale / np.sqrt(variance + reader.attributes(node).get("epsilon", 1e-5))
    scaled = f"{node.output[0]}.scaled"
    result = reader.result(node)
    reader.sizes[scaled] = reader.sizes[result]
    reader.layers.append(Elementwise("MULTIPLY", reader.source(node), factor.astype(np.float32), scaled))
    reader.layers.append(Elementwise("ADD", scaled, (bias - mean * factor).astype(np.float32), result))


@reads(*_UNARY)
def _unary(reader: Reader, node: Any) -> None:
    _activate(reader, node, Activation(_UNARY[node.op_type]))


@reads("LeakyRelu", "Elu", "HardSigmoid", "HardSwish", "Clip", "Pow")
def _activation(reader: Reader, node: Any) -> None:
    given = reader.attributes(node)
    if node.op_type == "LeakyRelu":
        found = Activation("LEAKY_RELU", given.get("alpha", 0.01))
    elif node.op_type == "Elu":
        found = Activation("ELU", given.get("alpha", 1.0))
    elif node.op_type == "HardSigmoid":
        found = Activation("HARD_SIGMOID", given.get("alpha", 0.2), given.get("beta", 0.5))
    elif node.op_type == "HardSwish":
        found = Activation("HARD_SWISH", 1 / 6, 0.5)
    elif node.op_type == "Pow":
        power = reader.constant(node, 1)
        if power is None or power.size != 1 or power.item() not in (2, 0.5):
            raise NoSuchLayerError(node, "of another power than 2 and 0.5")
        found = Activation("SQUARE" if power.item() == 2 else "SQRT")
    else:
        low, high = reader.constant(node, 1), reader.constant(node, 2)
        limits = [-math.inf if low is None else low.item(), math.inf if high is None else high.item()]
        found = Activation("CLIP", *limits)
    _activate(reader, node, found)


def _activate(reader: Reader, node: Any, activation: Activation) -> None:
    reader.layers.append(Elementwise("FIRST", reader.source(node), None, reader.result(node), activation))


@reads("PRelu")
def _prelu(reader: Reader, node: Any) -> None:
    slope, result = reader.constant(node, 1), reader.result(node)
    assert slope is not None
    slope = _spread(reader, node, slope, result)
    above, below, scaled = (f"{node.output[0]}.{part}" for part in ("above", "below", "scaled"))
    for name in (above, below, scaled):
        reader.sizes[name] = reader.sizes[result]
    source = reader.source(node)
    reader.layers.append(Elementwise("FIRST", source, None, above, Activation("RELU")))
    reader.layers.append(Elementwise("FIRST", source, None, below, Activation("CLIP", -math.inf, 0.0)))
    reader.layers.append(Elementwise("MULTIPLY", below, slope, scaled))
    reader.layers.append(Elementwise("ADD", above, scaled, result))


@reads(*_BINARY)
def _binary(reader: Reader, node: Any) -> None:
    if len(node.input) != 2:
        raise NoSuchLayerError(node, f"of {len(node.input)} inputs")
    kind, result = _BINARY[node.op_type], reader.result(node)
    first, second = node.input
    if first in reader.constants or _smaller(reader, first, second):
        if kind not in _SWAPPED:
            kind, first, second = _reversed(reader, node)
        else:
            first, second = second, first
    source = reader.name(first)
    if reader.sizes[source] != reader.sizes[result]:
        raise NoSuchLayerError(node, "both inputs are spread")
    if second in reader.constants:
        operand: str | np.ndarray = _spread(reader, node, reader.constants[second], result)
    else:
        operand = reader.name(second)
        channels, height, width = reader.sizes[operand]
        whole = reader.sizes[result]
        if channels not in (1, whole[0]) or (height, width) not in ((1, 1), whole[1:]):
            raise NoSuchLayerError(node, "an input is spread along one side")
    reader.layers.append(Elementwise(kind, source, operand, result))


def _smaller(reader: Reader, first: str, second: str) -> bool:
    if second in reader.constants:
        return False
    return math.prod(reader.sizes[reader.name(first)]) < math.prod(reader.sizes[reader.name(second)])


def _reversed(reader: Reader, node: Any) -> tuple[str, str, str]:
    """Return `a - b` as `-b + a`, or `a / b` as `1 / b * a`, for an `a` that is spread over `b`."""
    changed = f"{node.output[0]}.changed"
    subtracts = node.op_type == "Sub"
    source = reader.name(node.input[1])
    reader.sizes[changed] = reader.sizes[source]
    kind = "NEGATIVE" if subtracts else "RECIPROCAL"
    reader.layers.append(Elementwise("FIRST", source, None, changed, Activation(kind)))
    return "ADD" if subtracts else "MULTIPLY", changed, node.input[0]


def _spread(reader: Reader, node: Any, value: np.ndarray, result: str) -> np.ndarray:
    """Return a constant as `(C,)` or `(1,)`."""
    channels = reader.sizes[result][0]
    dimensions = len(reader.shapes[result])
    shape = (1,) * (dimensions - value.ndim) + value.shape
    if value.size == 1:
        return value.reshape(1).astype(np.float32)
    if value.size == channels and shape[1] == channels:
        return value.reshape(channels).astype(np.float32)
    raise NoSuchLayerError(node, f"with a constant of shape {value.shape}")


@reads("Concat")
def _concat(reader: Reader, node: Any) -> None:
    if reader.attributes(node)["axis"] not in (1, 1 - len(reader.shapes[node.output[0]])):
        raise NoSuchLayerError(node, "along another axis than the channels")
    if any(name in reader.constants for name in node.input):
        raise NoSuchLayerError(node, "with a constant")
    reader.layers.append(Concatenation([reader.name(name) for name in node.input], reader.result(node)))


@reads("Slice")
def _slice(reader: Reader, node: Any) -> None:
    source = reader.source(node)
    starts, ends, axes, steps = (reader.constant(node, place) for place in range(1, 5))
    assert starts is not None
    assert ends is not None
    axes = np.arange(starts.size) if axes is None else axes % len(reader.shapes[node.input[0]])
    steps = np.ones(starts.size, np.int64) if steps is None else steps
    taken = [np.arange(size) for size in reader.sizes[source]]
    for axis, start, end, step in zip(
        axes.tolist(), starts.tolist(), ends.tolist(), steps.tolist(), strict=True
    ):
        if axis == 0:
            raise NoSuchLayerError(node, "along the batch")
        taken[axis - 1] = taken[axis - 1][start:end:step]
    _take(reader, node, source, *taken)


def _take(
    reader: Reader, node: Any, source: str, channels: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> None:
    size, result = reader.sizes[source], reader.result(node)
    sampled = (len(rows), len(columns)) != size[1:]
    if sampled:
        name = result if len(channels) == size[0] else f"{result}.sampled"
        reader.sizes[name] = size[0], len(rows), len(columns)
        reader.layers.append(Sampling(source, name, rows, columns))
        source = name
    if len(channels) != size[0] or not sampled:
        reader.layers.append(Channels(source, result, channels))


@reads("Split")
def _split(reader: Reader, node: Any) -> None:
    if reader.attributes(node).get("axis", 0) not in (1, 1 - len(reader.shapes[node.input[0]])):
        raise NoSuchLayerError(node, "along another axis than the channels")
    begin = 0
    for name in node.output:
        reader.sizes[name] = reader.size(name, node)
        count = reader.sizes[name][0]
        reader.layers.append(Channels(reader.source(node), name, np.arange(begin, begin + count)))
        begin += count


@reads("Gather")
def _gather(reader: Reader, node: Any) -> None:
    index = reader.constant(node, 1)
    if index is None or index.ndim != 1 or reader.attributes(node).get("axis", 0) != 1:
        raise NoSuchLayerError(node, "along another axis than the channels")
    source = reader.source(node)
    index = np.where(index < 0, index + reader.sizes[source][0], index)
    reader.layers.append(Channels(source, reader.result(node), index))


@reads("Softmax", "LogSoftmax")
def _softmax(reader: Reader, node: Any) -> None:
    if reader.attributes(node).get("axis", -1) not in (1, 1 - len(reader.shapes[node.input[0]])):
        raise NoSuchLayerError(node, "along another axis than the channels")
    reader.layers.append(Softmax(reader.source(node), reader.result(node), node.op_type == "LogSoftmax"))


@reads("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax")
def _global_pool(reader: Reader, node: Any) -> None:
    source = reader.source(node)
    height, width = reader.sizes[source][1:]
    if node.op_type.startswith("Reduce"):
        given = reader.attributes(node)
        axes = reader.constant(node, 1)
        listed = sorted(axis % 4 for axis in (given.get("axes", ()) if axes is None else axes.tolist()))
        if listed == [1] and len(reader.shapes[node.input[0]]) == 4 and node.op_type == "ReduceMean":
            _mean_of_channels(reader, node, source)
            return
        if listed != [2, 3] or len(reader.shapes[node.input[0]]) != 4:
            raise NoSuchLayerError(node, "over other axes than height and width")
    is_max = node.op_type.endswith("Max") or node.op_type == "GlobalMaxPool"
    window = height, width
    reader.layers.append(Pool(source, reader.result(node), is_max, window, window, (0, 0, 0, 0)))


def _mean_of_channels(reader: Reader, node: Any, source: str) -> None:
    channels = reader.sizes[source][0]
    weight = np.full((1, channels), 1 / channels, np.float32)
    reader.layers.append(_linear(source, reader.result(node), weight, np.zeros(1, np.float32)))


@reads("AveragePool", "MaxPool")
def _window_pool(reader: Reader, node: Any) -> None:
    given = reader.attributes(node)
    if len(node.output) > 1 and node.output[1]:
        raise NoSuchLayerError(node, "with the places of its maxima")
    if set(given.get("dilations", (1, 1))) != {1}:
        raise NoSuchLayerError(node, "dilated")
    kernel = pair(given["kernel_shape"])
    reader.layers.append(
        Pool(
            reader.source(node),
            reader.result(node),
            node.op_type == "MaxPool",
            kernel,
            pair(given.get("strides", (1, 1))),
            padding(reader, node),
            bool(given.get("count_include_pad", 0)),
        )
    )


@reads("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(reader: Reader, node: Any) -> None:
    source = reader.source(node)
    before, after = reader.sizes[source], reader.size(node.output[0], node)
    if before == after:
        reader.alias(node)
    elif after == (math.prod(before), 1, 1):
        reader.layers.append(Planes(source, reader.result(node)))
    else:
        raise NoSuchLayerError(node, f"{before} to {after}")


@reads("Identity", "Dropout")
def _nothing(reader: Reader, node: Any) -> None:
    reader.alias(node)
