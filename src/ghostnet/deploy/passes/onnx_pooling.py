"""Global means in an ONNX graph as the operator that ONNX Runtime computes in its blocked layout.

PyTorch writes `x.mean((2, 3))` and global average pooling as ReduceMean, for which ONNX Runtime lays the maps out anew;
GlobalAveragePool is the same function and needs no new layout. Acts on the finished graph, since PyTorch has no way to
ask for the operator.
"""

from __future__ import annotations

from typing import Any


def with_global_pools_(graph: Any) -> int:
    """Replace spatial ReduceMean nodes that keep their axes, in place, and return how many there were.

    Args:
        graph: an `onnx.GraphProto` with four-dimensional maps.

    Example:
        >>> with_global_pools_(onnx.load("net.onnx").graph)  # doctest: +SKIP
    """
    from onnx import numpy_helper

    constants = {value.name: value for value in graph.initializer}
    changed = 0
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) != 2 or node.input[1] not in constants:
            continue
        axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        if sorted(axes) not in ([2, 3], [-2, -1]) or attributes.get("keepdims", 1) != 1:
            continue
        if sorted(axes) == [-2, -1] and _rank(graph, node.input[0]) != 4:
            continue
        node.op_type = "GlobalAveragePool"
        del node.input[1:]
        del node.attribute[:]
        changed += 1
    return changed


def _rank(graph: Any, name: str) -> int | None:
    """Return how many axes a value has where the graph says so."""
    for value in (*graph.value_info, *graph.input):
        if value.name == name and value.type.tensor_type.HasField("shape"):
            return len(value.type.tensor_type.shape.dim)
    return None
