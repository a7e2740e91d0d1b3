"""What every pass may rely on: batch norms and linear layers as modules, inputs given by place, nothing in place."""

from __future__ import annotations

import inspect
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ghostnet.deploy.passes.in_place import NO_WORK_IN_EVAL, without_in_place_work
from ghostnet.deploy.passes.operations import add_module, cat_inputs, module_of, per_channel_unary
from ghostnet.nn.cheap_operations import AffineOperation, WaveletOperation

_MAKE_MAPS = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, AffineOperation, WaveletOperation)
_KEEP_AXES = {
    *(operator.add, operator.sub, operator.mul, operator.iadd, operator.imul, torch.add, torch.mul),
    *(torch.index_select, F.dropout, F.pad, "add", "add_", "mul", "mul_", "contiguous"),
}


def canonical(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network in the form that the passes read; the same function.

    Raises:
        NotFollowedError: the graph does not tell what the network computes.
    """
    for node in list(traced.graph.nodes):
        _input_by_place(traced, node)
        module: nn.Module | None
        if (
            node.op == "call_function"
            and node.target is F.batch_norm
            and _is_map(traced, next(iter(node.args), None))
        ):
            module = _norm(traced, node)
        elif node.op == "call_function" and node.target in (F.linear, torch._C._nn.linear):
            module = _linear(traced, node)
        else:
            continue
        if module is not None:
            with traced.graph.inserting_before(node):
                name = add_module(traced, node.name, module)
                node.replace_all_uses_with(traced.graph.call_module(name, (node.args[0],)))
    _drop_rank_checks(traced)
    return without_in_place_work(traced)


def _input_by_place(traced: fx.GraphModule, node: fx.Node) -> None:
    """Write `conv(input=x)` and `torch.flatten(input=x)` as `conv(x)` and `torch.flatten(x)`, which passes look for."""
    if node.args or "input" not in node.kwargs or node.op not in ("call_module", "call_function"):
        return
    module = module_of(traced, node)
    called: Any = node.target if module is None else module.forward
    try:
        first = next(iter(inspect.signature(called).parameters), None)
    except (TypeError, ValueError):  # written in C++: what PyTorch calls so comes first there
        first = "input"
    if first == "input":
        kwargs = dict(node.kwargs)
        node.args, node.kwargs = (kwargs.pop("input"),), kwargs


def _drop_rank_checks(traced: fx.GraphModule) -> None:
    """`assert x.ndim == 4` has done its work when the network was traced and is compared on real input."""
    for node in reversed(list(traced.graph.nodes)):
        if node.target is torch._assert and not node.users:
            traced.graph.erase_node(node)


def _is_map(traced: fx.GraphModule, node: object) -> bool:
    """Tell whether a node's value is known to be `(N, C, H, W)`; sizes are not, at this point."""
    if not isinstance(node, fx.Node):
        return False
    if isinstance(module_of(traced, node), _MAKE_MAPS) or node.target is F.conv2d:
        return True
    inputs = cat_inputs(node)
    if inputs is not None:
        return any(_is_map(traced, source) for source in inputs)
    if node.target in _KEEP_AXES or (
        per_channel_unary(traced, node) and node.target not in ("mean", torch.mean)
    ):
        return any(_is_map(traced, source) for source in node.all_input_nodes)
    return isinstance(module_of(traced, node), NO_WORK_IN_EVAL) and _is_map(traced, node.args[0])


def _value(traced: fx.GraphModule, node: object) -> Any:
    if not isinstance(node, fx.Node):
        return node
    return operator.attrgetter(str(node.target))(traced) if node.op == "get_attr" else NotImplemented


def _arguments(node: fx.Node, names: tuple[str, ...]) -> dict[str, Any]:
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _norm(traced: fx.GraphModule, node: fx.Node) -> nn.BatchNorm2d | None:
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    found = {
        name: _value(traced, value) for name, value in _arguments(node, names).items() if name != "input"
    }
    mean, variance = found.get("running_mean"), found.get("running_var")
    weight, bias = found.get("weight"), found.get("bias")
    plain = all(value is None or isinstance(value, torch.Tensor) for value in (weight, bias))
    if found.get("training") is True or not isinstance(mean, torch.Tensor) or not plain:
        return None
    if not isinstance(variance, torch.Tensor) or (weight is None) != (bias is None):
        return None
    norm = nn.BatchNorm2d(mean.numel(), eps=found.get("eps", 1e-5), affine=weight is not None)
    norm.running_mean, norm.running_var = mean.detach().clone(), variance.detach().clone()
    if weight is not None and bias is not None:
        norm.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        norm.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return norm


def _linear(traced: fx.GraphModule, node: fx.Node) -> nn.Linear | None:
    found = _arguments(node, ("input", "weight", "bias"))
    weight, bias = _value(traced, found.get("weight")), _value(traced, found.get("bias"))
    if not isinstance(weight, nn.Parameter) or not (bias is None or isinstance(bias, nn.Parameter)):
        return None
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer
