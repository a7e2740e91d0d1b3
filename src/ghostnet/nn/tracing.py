"""A network as a graph of one image batch: `torch.fx`, with a forward's other arguments at their defaults."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx, nn

_FACTS = {"size", "dim", "numel", "stride", "element_size", "is_contiguous", "get_device"}


def asks_for_facts(node: fx.Node) -> bool:
    """Tell whether a node reads a tensor's shape or kind and not its values."""
    asks = node.target is getattr and node.args[1] in ("shape", "dtype", "device", "ndim")
    return asks or (node.op == "call_method" and node.target in _FACTS)


def is_number(node: fx.Node) -> bool:
    """Tell whether a node is a size, or computed of sizes by Python's operators."""
    if asks_for_facts(node):
        return True
    computes = node.op == "call_function" and getattr(node.target, "__module__", "") == "_operator"
    return computes and all(is_number(source) for source in node.all_input_nodes)


class TensorProxy(fx.Proxy):
    """Stands for a tensor, also to code that asks whether it is one.

    fx's own proxy is no `Tensor`, so that a forward goes the way of inputs that are none. What stands for a size is
    none here, either.
    """

    _is_param = False  # what PyTorch asks of everything that is a tensor

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return TensorProxy if is_number(self.node) else Tensor


class Tracer(fx.Tracer):
    """A tracer whose proxies are `TensorProxy`."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return TensorProxy(node, self)

    def create_arg(self, a: Any) -> Any:
        # fx itself would ask for tensors first, and keep the proxy as a constant
        return a.node if isinstance(a, fx.Proxy) else super().create_arg(a)


def trace(tracer: fx.Tracer, model: nn.Module) -> fx.Graph:
    """Trace a network as a call with one argument runs it.

    Left to itself fx takes every argument for a value that is known later, so that `if mask is None` goes the way of a
    mask that nobody gives.

    Args:
        tracer: says which modules stay whole.
        model: whose forward takes images and, perhaps, more; one that was set on the instance counts.

    Returns:
        A graph with one placeholder.

    Raises:
        ValueError: the forward reads a second argument that has no default.
        Exception: whatever the forward raises on what stands for the images.

    Example:
        >>> [node.op for node in trace(fx.Tracer(), nn.Sequential(nn.ReLU())).nodes]
        ['placeholder', 'call_module', 'output']
    """
    with _one_that_fx_takes(tracer, model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fx cannot check at run time that some defaults were not replaced
        forward = getattr(type(model), tracer.traced_func_name)
        _self, _images, *others = inspect.signature(forward).parameters.values()
        defaults: dict[str, Any] = {
            parameter.name: parameter.default
            for parameter in others
            if parameter.default is not inspect.Parameter.empty
        }
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


@contextlib.contextmanager
def _one_that_fx_takes(tracer: fx.Tracer, model: nn.Module) -> Iterator[None]:
    """Give the class of a model a method that is the forward set on the instance: fx asks the class alone."""
    own, kind = vars(model).get("forward"), type(model)
    if own is None:
        yield
        return

    def forward(_self: nn.Module, images: Any) -> Any:
        return own(images)

    # under a name of its own, since what was set may well call the class's forward
    tracer.traced_func_name = "_forward_of_instance"
    model.__class__ = type(kind.__name__, (kind,), {tracer.traced_func_name: forward})
    try:
        yield
    finally:
        model.__class__ = kind


def _erase_with_users(node: fx.Node) -> None:
    """Take out a default's placeholder and fx's check, which reads it alone, that it was not replaced."""
    for user in list(node.users):
        _erase_with_users(user)
    node.graph.erase_node(node)
