"""Gates in an ONNX graph spread over the maps that they scale, so that ONNX Runtime stays in its blocked layout.

ONNX Runtime multiplies in that layout only where both factors have the same shape, the batch included: with an open
batch this helps once the session fixes it (`SessionOptions.add_free_dimension_override_by_name("batch", 1)`, which
`deploy.load` does for single images). Acts on the finished graph, as PyTorch has no exported form of it that survives.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_SCALES = "gate_scales_"  # names of the constants that say how often


def spread_gates_(proto: Any) -> int:
    """Repeat factors of one pixel to the size of the other factor, in place, and return how many there were.

    Args:
        proto: an `onnx.ModelProto` whose maps have known sizes.

    Example:
        >>> spread_gates_(onnx.load("net.onnx"))  # doctest: +SKIP
    """
    import onnx
    from onnx import helper, numpy_helper

    sizes = _spatial_sizes(onnx.shape_inference.infer_shapes(proto).graph)
    graph = proto.graph
    nodes, spread = [], 0
    names = {value.name for value in graph.initializer}
    for node in graph.node:
        gate = _gate(node, sizes, names)
        if gate is not None:
            height, width = sizes[node.input[1 - gate]]
            scales = f"{_SCALES}{height}x{width}"
            if scales not in names:
                names.add(scales)
                values = np.array([1, 1, height, width], dtype=np.float32)
                graph.initializer.append(numpy_helper.from_array(values, scales))
            wide = f"{node.output[0]}_gate"
            nodes.append(
                helper.make_node(
                    "Resize",
                    [node.input[gate], "", scales],
                    [wide],
                    name=wide,
                    mode="nearest",
                    nearest_mode="floor",
                    coordinate_transformation_mode="asymmetric",
                )
            )
            node.input[gate] = wide
            spread += 1
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return spread


def gather_gates_(proto: Any) -> int:
    """Undo `spread_gates_`, in place, and return how many there were: 8-bit operators gain nothing by it.

    Args:
        proto: an `onnx.ModelProto`.
    """
    graph = proto.graph
    scales = {value.name for value in graph.initializer if value.name.startswith(_SCALES)}
    spread = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Resize" and len(node.input) > 2 and node.input[2] in scales
    }
    kept = [node for node in graph.node if not (node.output and node.output[0] in spread)]
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = spread.get(name, name)
    del graph.node[:]
    graph.node.extend(kept)
    constants = [value for value in graph.initializer if value.name not in scales]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    return len(spread)


def _spatial_sizes(graph: Any) -> dict[str, tuple[int, int]]:
    """Return height and width of each map with four axes whose sizes are known."""
    sizes = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        axes = value.type.tensor_type.shape.dim
        if len(axes) == 4 and axes[2].dim_value > 0 and axes[3].dim_value > 0:
            sizes[value.name] = (axes[2].dim_value, axes[3].dim_value)
    return sizes


def _gate(node: Any, sizes: dict[str, tuple[int, int]], constants: set[str]) -> int | None:
    """Return which input of a product is one pixel where the other is a larger map; None where there is none."""
    if node.op_type != "Mul" or any(name not in sizes or name in constants for name in node.input):
        return None
    one = [sizes[name] == (1, 1) for name in node.input]
    return one.index(True) if sum(one) == 1 else None
