"""Channels picked by number, written so that OpenVINO computes them rightly.

OpenVINO 2026.4 folds a Gather over channels between two convolutions into the weights of the second one, by the wrong
permutation: any such network answers wrongly, also from an ONNX file. Where the axis is counted from behind (-3 instead
of 1) it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ghostnet.deploy.passes.stand_ins import StandIns

_FEW = 64


class ChannelsPicked(StandIns):
    """While a network is traced, `picked` picks channels of maps `(N, C, H, W)` in place of `index_select`."""

    def picked(self, maps: Tensor, index: Tensor) -> Tensor:
        """Return channels `index` of `maps`, in another way than along axis 1."""
        raise NotImplementedError

    def called(self, func: Callable[..., Any], args: Sequence[Any], given: dict[str, Any]) -> Any:
        """Call the function, or what stands for it."""
        if func in (torch.index_select, torch.Tensor.index_select):
            maps: Any = given.get("input", args[0] if args else None)
            dim: Any
            index: Any
            dim, index = (*args[1:], *(given[key] for key in ("dim", "index") if key in given))
            if maps.dim() == 4 and dim in (1, -3):
                return self.picked(maps, index)
        return super().called(func, args, given)


class FromBehind(ChannelsPicked):
    """Channels are picked along axis -3."""

    def picked(self, maps: Tensor, index: Tensor) -> Tensor:
        """Return channels `index` of `maps`."""
        return maps.index_select(-3, index)


class FewByProducts(FromBehind):
    """Few channels are picked by a 1x1 convolution with ones and zeros: the same values, as far as they are finite.

    OpenVINO computes convolutions in blocks of channels, and leaves these for a Gather and takes them up again behind
    it. Where there are many channels that is quicker than the products.
    """

    def picked(self, maps: Tensor, index: Tensor) -> Tensor:
        """Return channels `index` of `maps`."""
        given = int(maps.shape[1])
        if max(given, len(index)) > _FEW or not maps.is_floating_point():
            return super().picked(maps, index)
        ones = torch.eye(given, dtype=maps.dtype, device=maps.device)
        return F.conv2d(maps, ones[index][:, :, None, None])


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
