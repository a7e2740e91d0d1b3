"""Exact rewrites of a trained network for inference: a new network, the same function.

Batch norms are folded (`fold.py`), an activation behind a Ghost convolution moves into it, Identity and
Dropout go. Where `torch.fx` traces the model, the data flow decides what follows what; where it does not,
only neighbours inside `nn.Sequential` are touched. With an input size the result is compared with the
original.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ghostnet.deploy.fold import DeployedGhostConv2d, deployed_ghost, folded, is_foldable, is_ghost
from ghostnet.errors import InputError
from ghostnet.nn import GhostConv2d, ReparamConv2d, fuse_reparameterised

_NO_WORK_IN_EVAL = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
RELATIVE_TOLERANCE = 1e-5


def optimize(model: nn.Module, *, input_size: Sequence[int] | None = None) -> nn.Module:
    """Return a faster network that computes the same as `model` in eval mode; `model` is untouched.

    Args:
        model: any module.
        input_size: shape of one input without the batch; when given, both are compared on random input.

    Returns:
        A new network in eval mode (a `torch.fx.GraphModule` where the model traces).

    Raises:
        InputError: `model` is no module.
        RuntimeError: the results differ by more than 1e-5 of the largest output; nothing is returned then.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        >>> any(isinstance(part, nn.BatchNorm2d) for part in optimize(net).modules())
        False
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"optimize needs a torch.nn.Module, not {type(model).__name__}; build the model first"
        )
    working = copy.deepcopy(model).eval()
    if any(isinstance(module, ReparamConv2d) for module in working.modules()):
        working = fuse_reparameterised(working)  # eight convolutions become one
    graph = _traced(working)
    result = _optimized_by_order(working) if graph is None else _optimized_by_graph(graph)
    result = _with_deployed_ghosts(result).eval()
    if input_size is not None:
        _check_equal(model, result, tuple(input_size))
    return result


class _Tracer(fx.Tracer):
    """Keeps Ghost convolutions whole; their folding is a matter of the module, not of its operations."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, GhostConv2d) or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module) -> fx.GraphModule | None:
    try:
        return fx.GraphModule(model, _Tracer().trace(model))
    except Exception:  # tracing runs arbitrary code on proxies, so anything may be raised
        return None


def _optimized_by_graph(traced: fx.GraphModule) -> fx.GraphModule:
    calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    for node in list(traced.graph.nodes):
        if _module(traced, node) is None:
            _absorb_functional_relu(traced, node, calls)
            continue
        _rewrite(traced, node, calls)
    traced.graph.lint()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _rewrite(traced: fx.GraphModule, node: fx.Node, calls: Counter[Any]) -> None:
    module = _module(traced, node)
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or module is None:
        return
    if isinstance(module, _NO_WORK_IN_EVAL):
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)
        return
    before = _module(traced, source)
    if before is None or len(source.users) > 1 or calls[source.target] > 1:
        return
    if is_foldable(before, module):
        traced.set_submodule(str(source.target), folded(before, module))
    elif _takes_activation(before, module):
        _set_activation_(before, module)
    else:
        return
    node.replace_all_uses_with(source)
    traced.graph.erase_node(node)


def _absorb_functional_relu(traced: fx.GraphModule, node: fx.Node, calls: Counter[Any]) -> None:
    is_relu = node.target in (F.relu, torch.relu) or (node.op == "call_method" and node.target == "relu")
    source = node.args[0] if is_relu and node.args else None
    if not isinstance(source, fx.Node) or len(source.users) > 1 or calls[source.target] > 1:
        return
    before = _module(traced, source)
    if before is not None and _takes_activation(before, nn.ReLU()):
        _set_activation_(before, nn.ReLU())
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)


def _module(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def _takes_activation(module: nn.Module, activation: nn.Module) -> bool:
    elementwise = type(activation) in (
        nn.ReLU,
        nn.ReLU6,
        nn.SiLU,
        nn.Hardswish,
        nn.GELU,
        nn.LeakyReLU,
        nn.Sigmoid,
    )
    return (
        elementwise and isinstance(module, DeployedGhostConv2d) and isinstance(module.activation, nn.Identity)
    )


def _set_activation_(module: nn.Module, activation: nn.Module) -> None:
    fresh = copy.deepcopy(activation)
    if hasattr(fresh, "inplace"):
        fresh.inplace = False  # type: ignore[assignment]  # the cheap operation still reads y
    module.activation = fresh


def _optimized_by_order(model: nn.Module) -> nn.Module:
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for parent in list(model.modules()):
        if type(parent) is not nn.Sequential:
            continue
        names = list(parent._modules)
        for first, second in itertools.pairwise(names):
            before, after = parent._modules[first], parent._modules[second]
            if before is None or after is None or uses[id(before)] > 1 or uses[id(after)] > 1:
                continue
            if is_foldable(before, after):
                parent._modules[first], parent._modules[second] = folded(before, after), nn.Identity()
    return model


def _with_deployed_ghosts(model: nn.Module) -> nn.Module:
    if isinstance(model, GhostConv2d) and is_ghost(model):
        return deployed_ghost(model)
    replaced: dict[int, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, GhostConv2d) and is_ghost(child):
                if id(child) not in replaced:
                    replaced[id(child)] = deployed_ghost(child)
                parent._modules[name] = replaced[id(child)]
    return model


def random_input(model: nn.Module, shape: Sequence[int]) -> torch.Tensor:
    """Return reproducible random input of `shape` on the model's device and in its dtype."""
    tensors = (tensor for tensor in model.parameters() if tensor.is_floating_point())
    reference = next(tensors, torch.zeros(()))
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return values.to(reference)


def relative_error(reference: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference divided by the largest reference value (NaN counts as infinite)."""
    difference = (reference.double() - other.double()).abs().max().item()
    error = difference / max(reference.abs().max().item(), 1e-12)
    return error if error == error else float("inf")


@torch.no_grad()
def _check_equal(model: nn.Module, result: nn.Module, input_size: tuple[int, ...]) -> None:
    original = copy.deepcopy(model).eval()
    example = random_input(model, (2, *input_size))
    expected, found = original(example), result(example)
    if not isinstance(expected, torch.Tensor):
        return
    error = relative_error(expected, found)
    if error > RELATIVE_TOLERANCE:
        raise RuntimeError(f"the optimised network differs by {error:.1e} (limit {RELATIVE_TOLERANCE:.0e})")
