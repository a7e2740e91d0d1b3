"""A network as a graph of one image batch: `torch.fx`, with a forward's other arguments at their defaults."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from torch import fx, nn


def trace(tracer: fx.Tracer, model: nn.Module) -> fx.Graph:
    """Trace a network as a call with one argument runs it.

    Left to itself fx takes every argument for a value that is known later, so that `if mask is None` goes the way of a
    mask that nobody gives.

    Args:
        tracer: says which modules stay whole.
        model: whose forward takes images and, perhaps, more.

    Returns:
        A graph with one placeholder.

    Raises:
        ValueError: the forward reads a second argument that has no default.
        Exception: whatever the forward raises on what stands for the images.

    Example:
        >>> [node.op for node in trace(fx.Tracer(), nn.Sequential(nn.ReLU())).nodes]
        ['placeholder', 'call_module', 'output']
    """
    _self, _images, *others = inspect.signature(type(model).forward).parameters.values()
    defaults: dict[str, Any] = {
        parameter.name: parameter.default
        for parameter in others
        if parameter.default is not inspect.Parameter.empty
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fx cannot check at run time that some defaults were not replaced
        graph = tracer.trace(model, concrete_args=defaults or None)
    _, *placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for node in placeholders:
        if str(node.target).rpartition("_")[0] in defaults:
            _erase_with_users(node)
        elif not node.users:
            graph.erase_node(node)
        else:
            raise ValueError(f"forward needs `{node.target}` beside the images")
    return graph


def _erase_with_users(node: fx.Node) -> None:
    """Take out a default's placeholder and fx's check, which reads it alone, that it was not replaced."""
    for user in list(node.users):
        _erase_with_users(user)
    node.graph.erase_node(node)
