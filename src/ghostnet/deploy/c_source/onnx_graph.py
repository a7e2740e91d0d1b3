"""A walk over an ONNX graph of fixed sizes: its constants, its shapes, and which names are the same map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ghostnet.deploy.c_source.layers import Channels, Layer, Network, Size

_Read = Callable[["Reader", Any], None]
READERS: dict[str, _Read] = {}


def reads(*names: str) -> Callable[[_Read], _Read]:
    """Register a function as the one that reads nodes of these operators."""

    def keep(function: _Read) -> _Read:
        READERS.update(dict.fromkeys(names, function))
        return function

    return keep


class NoSuchLayerError(ValueError):
    """A node that has no kernel; the message says which."""

    def __init__(self, node: Any, why: str = "") -> None:
        super().__init__(f"{node.op_type}{f' ({why})' if why else ''}")
        self.node = node


class Reader:
    """One walk over a graph.

    Attributes:
        constants: values by name.
        shapes: of all values that ONNX's inference knows, by name.
        layers: what was read so far.
        sizes: of the maps that are read or made so far, by name.
    """

    def __init__(self, proto: Any) -> None:
        import onnx

        self._onnx = onnx
        graph = onnx.shape_inference.infer_shapes(proto).graph
        self.constants: dict[str, np.ndarray] = {
            value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer
        }
        self.shapes: dict[str, tuple[int, ...]] = {
            value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
            for value in (*graph.value_info, *graph.input, *graph.output)
        }
        self.same: dict[str, str] = {}  # names of what is the same map
        self.layers: list[Layer] = []
        self.sizes: dict[str, Size] = {}
        given = [value.name for value in graph.input if value.name not in self.constants]
        self.images, self.outputs = given[0], [value.name for value in graph.output]
        self.sizes[self.images] = self.size(self.images)
        self._nodes = list(graph.node)

    def read(self, readers: Mapping[str, _Read]) -> Network:
        """Return the graph as layers, each node read by the function of its operator."""
        for place, node in enumerate(self._nodes):
            if all(not name or name in self.constants for name in node.input):
                self._fold(node)
            elif node.op_type == "Reshape" and self._is_shuffle(place):
                self._shuffle(place)
            elif node.output[0] not in self.same and node.output[0] not in self.sizes:
                if node.op_type not in readers:
                    raise NoSuchLayerError(node)
                readers[node.op_type](self, node)
        constant = next((name for name in self.outputs if name in self.constants), None)
        if constant is not None:
            raise ValueError(f"the output {constant} is a constant")
        scores = [self.name(name) for name in self.outputs]
        shapes = {name: self.shapes[name][1:] for name in self.outputs}
        return Network(self.layers, self.images, scores, shapes, self.sizes)

    # -- what a node says --

    def attributes(self, node: Any) -> dict[str, Any]:
        """Return what a node states by name."""
        return {given.name: self._onnx.helper.get_attribute_value(given) for given in node.attribute}

    def constant(self, node: Any, place: int) -> np.ndarray | None:
        """Return a constant input; None where it is left out."""
        if place >= len(node.input) or not node.input[place]:
            return None
        if node.input[place] not in self.constants:
            raise NoSuchLayerError(node, f"input {place + 1} is no constant")
        return self.constants[node.input[place]]

    def source(self, node: Any, place: int = 0) -> str:
        """Return the map that a node reads."""
        return self.name(node.input[place])

    def result(self, node: Any) -> str:
        """Return the name of a node's output, whose size is noted."""
        self.sizes[node.output[0]] = self.size(node.output[0], node)
        return str(node.output[0])

    def alias(self, node: Any) -> None:
        """The output is the input, in other words."""
        self.same[node.output[0]] = self.source(node)

    def name(self, name: str) -> str:
        """Return the name under which a value is known as a map."""
        return self.same.get(name, name)

    def size(self, name: str, node: Any = None) -> Size:
        """Return what ONNX says of a map's size; `node` is whose result it is."""
        shape = self.shapes.get(name, ())
        if len(shape) == 2:
            shape = (*shape, 1, 1)
        if len(shape) != 4 or shape[0] != 1 or any(size < 1 for size in shape):
            if node is None:
                raise ValueError(f"the shape {shape} of {name}")
            raise NoSuchLayerError(node, f"result of shape {shape}")
        return shape[1], shape[2], shape[3]

    def _fold(self, node: Any) -> None:
        from onnx.reference import ReferenceEvaluator

        inputs = {name: self.constants[name] for name in node.input if name}
        found = ReferenceEvaluator(node).run(None, inputs)
        self.constants.update(zip(node.output, map(np.asarray, found), strict=True))

    # -- channel shuffles: three nodes that are one layer --

    def _is_shuffle(self, place: int) -> bool:
        trio = self._nodes[place : place + 3]
        return (
            [node.op_type for node in trio] == ["Reshape", "Transpose", "Reshape"]
            and trio[1].input[0] == trio[0].output[0]
            and trio[2].input[0] == trio[1].output[0]
            and len(self.shapes.get(trio[0].output[0], ())) == 5
            and list(self.attributes(trio[1])["perm"]) == [0, 2, 1, 3, 4]
            and self.shapes[trio[0].input[0]] == self.shapes[trio[2].output[0]]
        )

    def _shuffle(self, place: int) -> None:
        first, middle, last = self._nodes[place : place + 3]
        groups = self.shapes[first.output[0]][1]
        channels = self.sizes[self.source(first)][0]
        index = np.arange(channels).reshape(groups, -1).T.ravel()
        self.layers.append(Channels(self.source(first), self.result(last), index))
        for node in (first, middle):
            self.same[node.output[0]] = self.source(first)  # done with
