"""Making a traced network free of in-place work: every operation returns a new tensor, and readers read that.

What writes into a tensor that shares its memory with another one (a view, a slice) is not rewritten: that a later
reader of the other one sees the change is not in the graph, and such a network counts as one that cannot be followed.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ghostnet.deploy.passes.operations import add_module, finished, module_of, out_of_place, plain_module
from ghostnet.nn.tracing import asks_for_facts, is_number

NO_WORK_IN_EVAL = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout}
_PLAIN_FORMS: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.imul: operator.mul,
    operator.isub: operator.sub,
    operator.itruediv: operator.truediv,
    torch.add: operator.add,
    torch.mul: operator.mul,
    torch.sub: operator.sub,
    torch.div: operator.truediv,
    torch.concat: torch.cat,
    torch.concatenate: torch.cat,
}
_PLAIN_METHODS: dict[str, Callable[..., Any]] = {
    **{"add": operator.add, "mul": operator.mul},
    **{"relu": torch.relu, "sigmoid": torch.sigmoid, "clamp": torch.clamp},
}

_OPERATORS = {operator.iadd, operator.imul, operator.isub, operator.itruediv}
_VIEWS = {
    "view",
    "reshape",
    "flatten",
    "unflatten",
    "permute",
    "transpose",
    "swapaxes",
    "t",
    "narrow",
    "select",
}
_VIEWS |= {
    "chunk",
    "split",
    "tensor_split",
    "unbind",
    "getitem",
    "squeeze",
    "unsqueeze",
    "expand",
    "expand_as",
}
_VIEWS |= {"view_as", "reshape_as", "detach", "contiguous", "movedim", "moveaxis", "unfold", "diagonal", "to"}
_VIEWS |= {"float", "double", "half", "type", "type_as", "cpu", "ravel", "split_with_sizes", "as_strided"}
_VIEW_MODULES = (nn.Flatten, nn.Unflatten)


class NotFollowedError(Exception):
    """The graph does not tell what the network computes."""


def without_in_place_work(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network with every in-place operation replaced, and operations that do nothing in eval mode dropped.

    What reads a tensor after it was overwritten reads the result of the overwriting node from then on; nothing may be
    taken for dead before, since `relu_(x)` as a statement has no reader of its own.

    Raises:
        NotFollowedError: it writes into a part of a tensor (`x[:, 0] = y`), or into a tensor whose memory another one
            shares that is read afterwards.
    """
    for node in list(traced.graph.nodes):
        if node.target is operator.setitem:
            raise NotFollowedError(f"{node} writes into a part of a tensor")
        _write_elsewhere(traced, node)
        _plain_form(node)
        source = node.args[0] if node.args else None
        if isinstance(source, fx.Node) and _does_nothing(traced, node):
            node.replace_all_uses_with(source)
            traced.graph.erase_node(node)
    return finished(traced)


def _does_nothing(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_function" and node.target in _DROPOUTS:
        return node.kwargs.get("training") is False or (len(node.args) > 2 and node.args[2] is False)
    return plain_module(module_of(traced, node), NO_WORK_IN_EVAL)


def _write_elsewhere(traced: fx.GraphModule, node: fx.Node) -> None:
    """Make a node return what it would have written, and let later readers of what it overwrote read that."""
    module = module_of(traced, node)
    written = node.args[0] if node.args else node.kwargs.get("input")
    if isinstance(node.kwargs.get("out"), fx.Node):
        written = node.kwargs["out"]
        node.kwargs = {name: value for name, value in node.kwargs.items() if name != "out"}
    elif bool(getattr(module, "inplace", False)) and module is not None:
        node.target = add_module(traced, str(node.target), out_of_place(module))
    elif not (_switched_off(node) or _renamed(node) or node.target in _OPERATORS):
        return
    if not isinstance(written, fx.Node) or is_number(written):  # `h += 1` gives the name to another number
        return
    later = _nodes_behind(node)
    shared = _sharing_memory(traced, written) - {written}
    for other in later:
        if not shared.isdisjoint(other.all_input_nodes) and not asks_for_facts(other):
            raise NotFollowedError(f"{node} writes into memory that {other} reads under another name")
        if written in other.all_input_nodes:
            other.replace_input_with(written, node)


def _nodes_behind(node: fx.Node) -> list[fx.Node]:
    nodes = list(node.graph.nodes)
    return nodes[nodes.index(node) + 1 :]


def _switched_off(node: fx.Node) -> bool:
    """Turn `inplace=True` of a function off, wherever it stands, and tell whether it was on."""
    if node.op != "call_function":
        return False
    if node.kwargs.get("inplace"):
        node.kwargs = {name: value for name, value in node.kwargs.items() if name != "inplace"}
        return True
    position = _position_of_inplace(node.target)
    if position is None or len(node.args) <= position or not node.args[position]:
        return False
    rest = node.args[position + 1 :]
    node.args = (*node.args[:position], False, *rest) if rest else node.args[:position]
    return True


def _position_of_inplace(function: Any) -> int | None:
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # written in C++: those have no such switch
        return None
    return names.index("inplace") if "inplace" in names else None


def _renamed(node: fx.Node) -> bool:
    """Give `relu_` its name without the underscore where there is one, and tell whether it works in place."""
    if node.op not in ("call_method", "call_function"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if not name.endswith("_") or name.endswith("__"):
        return False
    plain = name[:-1]
    if node.op == "call_method" and hasattr(torch.Tensor, plain):
        node.target = plain
    elif node.op == "call_function":
        node.target = next(
            (getattr(owner, plain) for owner in (torch, F) if hasattr(owner, plain)), node.target
        )
    return True


def _sharing_memory(traced: fx.GraphModule, start: fx.Node) -> set[fx.Node]:
    """Return the nodes whose tensors may lie in the memory of a node's tensor, that node included."""
    found, pending = {start}, [(start, start)]
    while pending:
        node, reached_from = pending.pop()
        near = [user for user in node.users if _is_view(traced, user) and not _beside(user, reached_from)]
        near += [source for source in node.all_input_nodes[:1] if _is_view(traced, node)]
        pending += [(other, node) for other in near if other not in found]
        found.update(near)
    return found


def _beside(node: fx.Node, other: fx.Node) -> bool:
    """Tell whether two nodes are different chunks of one tensor, which do not overlap."""
    keys = [one.args[1] for one in (node, other) if one.target is operator.getitem]
    return len(keys) == 2 and all(type(key) is int for key in keys) and len(set(keys)) == 2


def _is_view(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(module_of(traced, node), _VIEW_MODULES)
    if node.op not in ("call_method", "call_function"):
        return False
    if node.target is getattr:
        return node.args[1] in ("data", "T", "mT", "H", "mH")
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name in _VIEWS


def _plain_form(node: fx.Node) -> None:
    if node.kwargs:
        return
    if node.op == "call_function":
        node.target = _PLAIN_FORMS.get(node.target, node.target)
    elif node.op == "call_method" and str(node.target) in _PLAIN_METHODS:
        node.op, node.target = "call_function", _PLAIN_METHODS[str(node.target)]
