"""Which convolutions make what a network answers: scores of classes for each pixel, boxes, an image.

A cheap filter makes a map from another one. That is fine for features, of which later layers see all, and not for
scores: those of one class would be a filtered copy of those of another.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

_MOVING = {
    torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze, torch.cat,
    torch.sigmoid, torch.tanh, torch.softmax, torch.relu, torch.mean, torch.clamp, F.interpolate, F.relu, F.relu6,
    F.sigmoid, F.tanh, F.softmax, F.log_softmax, F.hardsigmoid, F.adaptive_avg_pool2d, F.avg_pool2d, F.pixel_shuffle,
    F.dropout, F.pad,
}  # fmt: skip
_MOVING_METHODS = {
    "flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "contiguous", "sigmoid", "tanh",
    "softmax", "relu", "mean", "clamp", "float",
}  # fmt: skip


def answering(graph: fx.Graph, model: nn.Module) -> set[str]:
    """Return the convolutions whose results reach the network's answer through no other layer with weights.

    Args:
        graph: of the model, from `convert.graph.trace_layers`.
        model: the network.

    Returns:
        Names of modules. One whose result is read by a layer with weights, too, or added to another map, is none.
    """
    found: dict[fx.Node, bool] = {}  # whether all that a node gives goes into the answer as it is
    names: set[str] = set()
    for node in reversed(graph.nodes):
        to_answer = node.op == "output" or (bool(node.users) and all(found[user] for user in node.users))
        is_convolution = node.op == "call_module" and isinstance(
            model.get_submodule(str(node.target)), _ConvNd
        )
        if is_convolution and to_answer:
            names.add(str(node.target))
        found[node] = to_answer and (node.op == "output" or _moves(node, model))
    return names


def _moves(node: fx.Node, model: nn.Module) -> bool:
    """Whether a node moves, resizes or squashes the values of one map."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        return not any(True for _ in module.parameters()) and not any(True for _ in module.buffers())
    if node.op == "call_method":
        return node.target in _MOVING_METHODS
    return node.op == "call_function" and (
        node.target in _MOVING or getattr(node.target, "__name__", "") == "getitem"
    )
