"""What the nodes of a traced network do, as far as the rewrites need to know.

`per_channel_unary` are operations that treat every channel alone and by the same rule, so that they act on each part
of a concatenation. Left out: operations that look across channels (softmax, layer norm) or reshape them.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ghostnet.nn.dfc_attention import halved

ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.GELU, nn.LeakyReLU, nn.Sigmoid, nn.Hardsigmoid, nn.Tanh),
    *(nn.ELU, nn.CELU, nn.SELU, nn.Mish, nn.Hardtanh, nn.Softplus, nn.LogSigmoid, nn.Softsign),
)
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.ZeroPad2d)

_SHAPE = "ghostnet_shape"
_FUNCTIONS: set[Any] = {
    F.relu,
    F.relu6,
    F.silu,
    F.hardswish,
    F.gelu,
    F.leaky_relu,
    F.hardsigmoid,
    F.elu,
    F.mish,
}
_FUNCTIONS |= {torch.relu, torch.sigmoid, torch.tanh, F.hardtanh}
_RESIZING = {F.max_pool2d, torch.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d}
_RESIZING |= {F.interpolate, halved}
_METHODS = {"relu", "sigmoid", "tanh", "contiguous"}
_ARITHMETIC = {operator.add, operator.mul, operator.sub, operator.truediv}


def module_of(traced: fx.GraphModule, node: object) -> nn.Module | None:
    """Return the module that a node calls, or None."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    return traced.get_submodule(str(node.target))


def plain_module(module: nn.Module | None, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> bool:
    """Tell whether `module` is of exactly such a type, without hooks or parametrised weights."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return (
        type(module) in kinds
        and module is not None
        and not hasattr(module, "parametrizations")
        and not module._forward_hooks
        and not module._forward_pre_hooks
    )


def per_channel_unary(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a node treats every channel of its first argument alone and by the same rule."""
    if not node.args or not isinstance(node.args[0], fx.Node):
        return with_number(node)
    if node.op == "call_module":
        module = module_of(traced, node)
        return plain_module(module, (*ACTIVATIONS, *POOLS)) and not getattr(module, "return_indices", False)
    if node.target in ("clamp", torch.clamp):  # bounds that are tensors may differ from channel to channel
        return len(node.all_input_nodes) == 1
    if node.op == "call_method":
        return node.target in _METHODS or _spatial_mean(node)
    if node.target in _FUNCTIONS or node.target in _RESIZING:
        return not node.kwargs.get("return_indices", False)
    return with_number(node) or _spatial_mean(node)


def elementwise_unary(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a node treats every number of its first argument alone and by the same rule."""
    if node.op == "call_module":
        return plain_module(module_of(traced, node), ACTIVATIONS)
    resizes = node.target in _RESIZING or _spatial_mean(node)
    return not resizes and bool(node.args) and per_channel_unary(traced, node)


def with_number(node: fx.Node) -> bool:
    """Tell whether a node is a sum, product, … of a tensor and a plain number."""
    if node.op != "call_function" or node.target not in _ARITHMETIC or len(node.args) != 2 or node.kwargs:
        return False
    return sum(isinstance(argument, (int, float)) for argument in node.args) == 1


def _spatial_mean(node: fx.Node) -> bool:
    if node.target not in ("mean", torch.mean):
        return False
    axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    return isinstance(axes, (tuple, list)) and sorted(axis % 4 for axis in axes) == [2, 3]


def pools_to_one(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a node makes one pixel of a map: a global pooling that keeps the axes."""
    module = module_of(traced, node)
    if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):
        return module.output_size in (1, (1, 1)) and not getattr(module, "return_indices", False)
    return (
        node.target in ("mean", torch.mean)
        and node.args[1:] in (((2, 3),), ([2, 3],), ((-2, -1),), ((2, 3), True))
        and bool(node.kwargs.get("keepdim", len(node.args) > 2))
    )


def only_user(node: fx.Node) -> fx.Node | None:
    """Return the one node that reads `node`, or None where there are more, or none."""
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def is_binary(node: fx.Node, kind: Callable[..., Any]) -> bool:
    """Tell whether a node is `kind` (such as `operator.add`) of two tensors."""
    return (
        node.op == "call_function"
        and node.target is kind
        and len(node.args) == 2
        and not node.kwargs
        and all(isinstance(argument, fx.Node) for argument in node.args)
    )


def cat_inputs(node: fx.Node) -> list[fx.Node] | None:
    """Return what a node concatenates over the channels, or None where it does something else."""
    if node.op != "call_function" or node.target is not torch.cat:
        return None
    tensors = node.args[0] if node.args else node.kwargs.get("tensors")
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if axis not in (1, -3) or not isinstance(tensors, (list, tuple)) or not tensors:
        return None
    return [tensor for tensor in tensors if isinstance(tensor, fx.Node)]


def channel_range(node: fx.Node, channels: int) -> range | None:
    """Return the channels that a node such as `x[:, :n]` takes of `channels`, or None where it does something else."""
    if node.op != "call_function" or node.target is not operator.getitem or len(node.args) != 2:
        return None
    key = node.args[1]
    if not isinstance(key, tuple) or not 2 <= len(key) <= 4 or not all(isinstance(one, slice) for one in key):
        return None
    if any(one != slice(None) for index, one in enumerate(key) if index != 1):
        return None
    bounds = key[1]
    if not all(bound is None or isinstance(bound, int) for bound in (bounds.start, bounds.stop, bounds.step)):
        return None
    return range(*bounds.indices(channels)) if bounds.step in (None, 1) else None


def out_of_place(module: nn.Module) -> nn.Module:
    """Return `module`, or a copy of it that does not overwrite its input."""
    if not getattr(module, "inplace", False):
        return module
    fresh = copy.deepcopy(module)
    fresh.inplace = False  # type: ignore[assignment]
    return fresh


def add_module(traced: fx.GraphModule, name: str, module: nn.Module) -> str:
    """Hang `module` into the network under a free name like `name` and return that name."""
    chosen = _free_name(traced, name)
    traced.add_submodule(chosen, module.eval())
    return chosen


def add_constant(traced: fx.GraphModule, name: str, values: torch.Tensor) -> str:
    """Put values that are no weights into the network under a free name like `name` and return that name."""
    chosen = _free_name(traced, name)
    traced.register_buffer(chosen, values)
    return chosen


def exchange_module_(traced: fx.GraphModule, node: fx.Node, module: nn.Module) -> None:
    """Let `node` call `module`: in its old module's place, or beside that where the graph reads its weights too."""
    path = str(node.target)
    if any(
        other.op == "get_attr" and str(other.target).startswith(f"{path}.") for other in traced.graph.nodes
    ):
        node.target = add_module(traced, path, module)
    else:
        traced.set_submodule(path, module)


def reordered(traced: fx.GraphModule, maps: fx.Node, channels: Sequence[int]) -> fx.Node:
    """Insert a node that takes `channels` of `maps` in that order and return it."""
    reference = next(traced.parameters(), torch.zeros(()))
    order = torch.tensor(channels, dtype=torch.long, device=reference.device)
    name = add_constant(traced, "channel_order", order)
    return traced.graph.call_function(torch.index_select, (maps, 1, traced.graph.get_attr(name)))


def _free_name(traced: fx.GraphModule, name: str) -> str:
    stem = name.replace(".", "_")
    number = 0
    while hasattr(traced, chosen := f"{stem}_{number}" if number else stem):
        number += 1
    return chosen


class _ShapeNotes(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            n.meta[_SHAPE] = tuple(result.shape)
        return result


def note_shapes(traced: fx.GraphModule, example: torch.Tensor) -> None:
    """Run the network once and leave each tensor's shape at its node, for `shape_of`."""
    with torch.no_grad():
        _ShapeNotes(traced.eval()).run(example)


def shape_of(node: object) -> tuple[int, ...] | None:
    """Return the shape that `note_shapes` left at a node; None where there is none."""
    return node.meta.get(_SHAPE) if isinstance(node, fx.Node) else None


def finished(traced: fx.GraphModule) -> fx.GraphModule:
    """Drop what nothing reads and return the network, ready to run."""
    traced.graph.eliminate_dead_code()
    traced.graph.lint()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced
