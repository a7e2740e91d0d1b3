"""Channels picked by number or set between channels of zeros, as 1x1 convolutions of zeros and ones in an ONNX graph.

ONNX Runtime computes convolutions in blocks of channels, and adds a shortcut to what a convolution makes while it
writes it. It has no Gather and no Pad in that layout: it leaves the blocks for them, and where they lie in front of a
sum, all sums of the residual stream behind it are computed apart and out of the blocks, two changes of layout each. A
convolution keeps all of that away, and few channels take few products: ResNet-56 takes 0.92 of its plain export's time
(results/processors/amx_streams_resnet56.json). Acts on the finished graph, in which the weights can be constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# channels on either side: beyond, products take longer than a Gather; a stream has one Pad, which holds up more
_MOST_PICKED = 64
_MOST_PADDED = 512
_MAPS = 4  # axes


def place_by_products_(proto: Any) -> int:
    """Replace Gather and Pad over few channels of maps, in place, and return how many there were.

    Values stay exactly the same as far as they are finite. A step over pixels in front of a Pad (a pooling of one
    pixel, a Slice), as in the parameter-free shortcuts of ResNets, becomes the stride of the convolution. A graph with
    branches, in which more may be read than its own nodes say, stays as it is.

    Args:
        proto: an `onnx.ModelProto` whose maps have known numbers of channels.

    Example:
        >>> place_by_products_(onnx.load("net.onnx"))  # doctest: +SKIP
    """
    from onnx import helper, numpy_helper

    graph = proto.graph
    if any(
        attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute
    ):
        return 0
    known = _Graph(graph)
    replaced = 0
    for node in list(graph.node):
        places = known.places(node)
        if places is None:
            continue
        source, strides = node.input[0], [1, 1]
        while node.op_type == "Pad" and (step := known.step(source)) is not None:
            strides = [ours * theirs for ours, theirs in zip(strides, step, strict=True)]
            source = known.made_by[source].input[0]
        weight = (places[:, None] == np.arange(known.channels[source])).astype(np.float32)
        name = f"{node.output[0]}_places"
        graph.initializer.append(numpy_helper.from_array(weight[:, :, None, None], name))
        node.op_type = "Conv"
        del node.input[:], node.attribute[:]
        node.input.extend((source, name))
        node.attribute.append(helper.make_attribute("strides", strides))
        replaced += 1
    _drop_unread_(graph)
    return replaced


class _Graph:
    """What is known of a graph before it is changed: constants, channels of float32 maps, who makes what."""

    def __init__(self, graph: Any) -> None:
        from onnx import TensorProto, numpy_helper

        self.constants: dict[str, NDArray[Any]] = {
            value.name: numpy_helper.to_array(value)
            for value in graph.initializer
            if len(value.dims) <= 1  # weights are of no interest here
        }
        self.channels: dict[str, int] = {}
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            axes = kind.shape.dim
            if kind.elem_type == TensorProto.FLOAT and len(axes) == _MAPS and axes[1].dim_value > 0:
                self.channels[value.name] = axes[1].dim_value
        self.made_by = {name: node for node in graph.node for name in node.output}

    def places(self, node: Any) -> NDArray[np.int64] | None:
        """Return which channel of its input each of a node's output is, -1 for zeros; None if it is something else."""
        given = self.channels.get(node.input[0]) if node.op_type in ("Gather", "Pad") else None
        if given is None:
            return None
        picks = node.op_type == "Gather"
        found = self._picked(node, given) if picks else self._padded(node, given)
        most = _MOST_PICKED if picks else _MOST_PADDED
        return None if found is None or max(given, len(found)) > most else found

    def _picked(self, node: Any, given: int) -> NDArray[np.int64] | None:
        index = self.constants.get(node.input[1])
        if index is None or index.ndim != 1 or _attributes(node).get("axis", 0) not in (1, 1 - _MAPS):
            return None
        return np.where(index < 0, index + given, index).astype(np.int64)

    def _padded(self, node: Any, given: int) -> NDArray[np.int64] | None:
        if _attributes(node).get("mode", b"constant") != b"constant" or "".join(node.input[3:]):
            return None
        widths = self.constants.get(node.input[1])
        value = self.constants.get(node.input[2], 1) if "".join(node.input[2:3]) else 0
        if widths is None or np.any(value) or np.any(widths < 0):
            return None
        before, after = int(widths[1]), int(widths[1 + _MAPS])
        if widths.sum() != before + after:
            return None
        return np.concatenate([np.full(before, -1), np.arange(given), np.full(after, -1)]).astype(np.int64)

    def step(self, name: str) -> list[int] | None:
        """Return the steps down and across of what makes maps of every so-manieth pixel."""
        node = self.made_by.get(name)
        if node is None or node.input[0] not in self.channels:
            return None
        if node.op_type in ("AveragePool", "MaxPool"):
            return _step_of_pool(_attributes(node))
        return self._step_of_slice(node) if node.op_type == "Slice" else None

    def _step_of_slice(self, node: Any) -> list[int] | None:
        facts = [self.constants.get(name) for name in node.input[1:]]
        if len(facts) != 4 or any(fact is None for fact in facts):
            return None
        starts, ends, axes, steps = (np.atleast_1d(fact).tolist() for fact in facts)  # type: ignore[arg-type]
        found = [1] * _MAPS
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            if start != 0 or end < np.iinfo(np.int32).max or step < 1:
                return None
            found[axis] *= step
        return found[2:] if found[:2] == [1, 1] else None


def _step_of_pool(facts: Mapping[str, Any]) -> list[int] | None:
    usual = {"pads": [0] * _MAPS, "ceil_mode": 0, "dilations": [1, 1], "auto_pad": b"NOTSET"}
    plain = all(facts.get(name, value) == value for name, value in usual.items())
    strides: list[int] = list(facts.get("strides", [1, 1]))
    return strides if plain and facts["kernel_shape"] == [1, 1] else None


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _drop_unread_(graph: Any) -> None:
    """Drop steps over pixels, and constants, that nothing else reads."""
    while True:
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        idle = [node for node in graph.node if not read.intersection(node.output)]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    constants = [value for value in graph.initializer if value.name in read]
    del graph.initializer[:]
    graph.initializer.extend(constants)
