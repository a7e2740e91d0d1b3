"""Channels picked by number, written so that OpenVINO computes them rightly.

OpenVINO 2026.4 folds a Gather over channels between two convolutions into the weights of the second one, by the wrong
permutation: any such network answers wrongly, also from an ONNX file. Where the axis is counted from behind (-3 instead
of 1) it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class FromBehind(TorchFunctionMode):
    """While a network is traced, channels of maps `(N, C, H, W)` are picked along axis -3 instead of 1."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function, `index_select` over channels with the other axis."""
        given = dict(kwargs or {})
        if func in (torch.index_select, torch.Tensor.index_select):
            names = ("input", "dim", "index")
            given |= dict(zip(names, args, strict=False))
            maps: Any = given["input"]
            return maps.index_select(
                -3 if maps.dim() == 4 and given["dim"] == 1 else given["dim"], given["index"]
            )
        return func(*args, **given)


def count_from_behind_(proto: Any) -> int:
    """Let each Gather over the channels of maps name axis -3, in place, and return how many there were.

    Args:
        proto: an `onnx.ModelProto`.

    Example:
        >>> count_from_behind_(onnx.load("net.onnx"))  # doctest: +SKIP
    """
    graph = proto.graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    found = 0
    for node in graph.node:
        axis = next((one for one in node.attribute if one.name == "axis"), None)
        if node.op_type == "Gather" and axis is not None and axis.i == 1 and ranks.get(node.input[0]) == 4:
            axis.i = -3
            found += 1
    return found
