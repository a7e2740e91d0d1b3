"""Absorbs the channel order of converted layers into the layers that read them, where that is exact.

A matched Ghost convolution gives its channels in another order than the dense one did and carries an index
to undo that. Where its maps reach only layers that can be permuted (its batch norm, plain or primary
convolutions, linear layers) through operations that treat each channel alone, the index is dropped and those
layers are permuted. Left out: residual additions, concatenation, slicing, grouped readers: the index stays.
"""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ghostnet.convert.gate import gate_of
from ghostnet.convert.graph import (
    ACTIVATIONS,
    FUNCTIONAL_ACTIVATIONS,
    holds_its_values,
    normalises_only,
    trace_graphs,
)
from ghostnet.nn.ghost_conv import GhostConv2d
from ghostnet.nn.narrow import is_batch_norm, is_depthwise
from ghostnet.nn.own_forward import has_own_forward

_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_PER_CHANNEL = (*ACTIVATIONS, *_POOLS, nn.Identity, nn.Dropout, nn.Dropout2d, nn.Upsample, nn.ZeroPad2d)
_ELEMENTWISE = (*ACTIVATIONS, nn.Identity, nn.Dropout)  # what may follow a flattening
_FUNCTIONS = {*FUNCTIONAL_ACTIVATIONS, F.dropout, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d}
_FUNCTIONS |= {F.adaptive_max_pool2d, F.interpolate, F.dropout2d, torch.max_pool2d, torch.sigmoid, torch.tanh}
_ELEMENTWISE_FUNCTIONS = {*FUNCTIONAL_ACTIVATIONS, F.dropout, torch.sigmoid, torch.tanh}
_METHODS = {"relu", "relu_", "sigmoid", "tanh", "contiguous"}


@dataclass
class Readers:
    """The modules that one layer's channels reach: what to permute when its order is dropped, or to prune with it."""

    norms: set[str] = field(default_factory=set)
    convolutions: set[str] = field(default_factory=set)
    linears: set[str] = field(default_factory=set)
    depthwise: set[str] = field(default_factory=set)  # passed through, only where the caller asks for it
    gates: set[str] = field(default_factory=set)  # make a factor for each channel (squeeze-excite); likewise
    squeezes: set[str] = field(
        default_factory=set
    )  # those of the convolutions that read them for a gate alone
    through_depthwise: bool = False

    @property
    def paths(self) -> set[str]:
        """All of them."""
        return self.norms | self.convolutions | self.linears | self.depthwise | self.gates


def absorb_channel_orders_(
    model: nn.Module, edits: list[dict[str, Any]] | None = None, *, example_input: Tensor | None = None
) -> list[str]:
    """Drop the channel order of each Ghost convolution whose readers can be permuted instead, in place.

    The model computes the same function. Without a trace in both modes nothing is changed.

    Args:
        model: a converted network.
        edits: its `ghostnet_edits` (the default); configs of changed layers are brought up to date.
        example_input: `(N, C, H, W)`, for networks that `torch.fx` cannot trace.

    Returns:
        Paths of the layers whose order was absorbed.
    """
    recorded: list[dict[str, Any]] = getattr(model, "ghostnet_edits", []) if edits is None else edits
    ordered = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, GhostConv2d) and module.channel_order is not None
    }
    if not ordered:
        return []
    graphs = trace_graphs(model, example_input)
    if len(graphs) < 2:  # a mode that nobody can see may read the maps elsewhere
        return []
    absorbed = []
    for name, module in ordered.items():
        readers = find_readers(model, graphs, name)
        if readers is None or module.channel_order is None:
            continue
        _permute_(model, readers, torch.argsort(module.channel_order), module.out_channels)
        module.set_channel_order_(None)
        for edit in recorded:
            if edit["path"] == name and edit["kind"] == "ghost_conv2d":
                edit["config"] = module.config()
        absorbed.append(name)
    return absorbed


def find_readers(
    model: nn.Module, graphs: list[fx.Graph], name: str, *, through_depthwise: bool = False
) -> Readers | None:
    """Collect what reads a layer's channels in every graph; None if something there mixes or picks channels.

    Args:
        model: the network.
        graphs: from `trace_graphs`.
        name: path of the convolution whose channels are followed.
        through_depthwise: follow them through depthwise convolutions as well, and past the factors of
            squeeze-excite.
    """
    readers = Readers(through_depthwise=through_depthwise)
    reached = []
    for graph in graphs:
        found = _follow(model, graph, name, through_depthwise)
        if found is None:
            return None
        reached.append(found.paths)
        readers.norms |= found.norms
        readers.convolutions |= found.convolutions
        readers.linears |= found.linears
        readers.depthwise |= found.depthwise
        readers.gates |= found.gates
        readers.squeezes |= found.squeezes
    if not readers.paths or not _own_their_weights(model, graphs, readers.paths):
        return None
    for graph, paths in zip(graphs, reached, strict=True):
        calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
        # a reader that also runs on other maps would be permuted for those too
        if any(calls[path] != (1 if path in paths else 0) for path in readers.paths):
            return None
    return readers


def _own_their_weights(model: nn.Module, graphs: list[fx.Graph], paths: set[str]) -> bool:
    owners = Counter(id(value) for module in model.modules() for value in module._parameters.values())
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    reads = [str(node.target) for graph in graphs for node in graph.nodes if node.op == "get_attr"]
    attributes = {target.rpartition(".")[0] for target in reads}
    for path in paths:
        module = model.get_submodule(path)
        if (
            places[id(module)] > 1
            or path in attributes
            or any(owners[id(p)] > 1 for p in module.parameters())
        ):
            return False
    return True


def _follow(model: nn.Module, graph: fx.Graph, name: str, through_depthwise: bool) -> Readers | None:
    """Walk from the layer's node to all of its readers; None where a node mixes or picks channels."""
    channels = model.get_submodule(name).out_channels
    readers = Readers(through_depthwise=through_depthwise)
    starts = [node for node in graph.nodes if node.op == "call_module" and node.target == name]
    if len(starts) > 1:
        return None
    waiting = [(user, node, False) for node in starts for user in node.users]
    same_batch = set(starts)
    while waiting:
        node, source, flat = waiting.pop()
        if _reads_shape_only(node):
            continue
        gate = None
        if node.op == "call_module":
            step = _step_module(model.get_submodule(str(node.target)), str(node.target), flat, readers)
        else:
            step = _step_call(node, source, flat, same_batch)
            if step is None and through_depthwise and not flat:
                gate = gate_of(model, node, source)
        if gate is not None:
            readers.gates.add(gate.layer)
            readers.squeezes |= {gate.layer, gate.squeeze}
            step = "maps"
        if step is None:
            return None
        same_batch.add(node)
        if step != "end":
            waiting.extend((user, node, step == "flat") for user in node.users)
    readers.squeezes &= readers.convolutions
    return readers if _sizes_fit(model, readers, int(channels)) else None  # type: ignore[arg-type]


def _step_module(module: nn.Module, path: str, flat: bool, readers: Readers) -> str | None:
    """Return "maps", "flat" or "end" for a module that can follow, None for one that cannot."""
    if has_own_forward(module):
        return None
    kind = type(module)
    known_norm = normalises_only(module) or activates_too(module)
    if readers.through_depthwise:  # channels are cut out, not only put in another order
        known_norm = known_norm and is_batch_norm(module)
    if not flat and known_norm:
        readers.norms.add(path)
        return "maps"
    if not flat and kind in (nn.Conv2d, GhostConv2d) and module.groups == 1:
        readers.convolutions.add(path)
        return "end"
    if not flat and readers.through_depthwise and kind is nn.Conv2d and is_depthwise(module):
        readers.depthwise.add(path)
        return "maps"
    if flat and kind is nn.Linear:
        readers.linears.add(path)
        return "end"
    if not flat and kind is nn.Flatten and module.start_dim == 1 and module.end_dim == -1:
        return "flat"
    if kind in (_ELEMENTWISE if flat else _PER_CHANNEL) and not getattr(module, "return_indices", False):
        return "flat" if flat else "maps"
    return None


def activates_too(module: nn.Module) -> bool:
    """Tell whether a module is timm's batch norm with an activation of each channel alone inside."""
    activation = getattr(module, "act", None)
    known = isinstance(activation, (nn.Identity, *ACTIVATIONS)) or type(activation) in _PER_CHANNEL
    return is_batch_norm(module) and type(module) is not nn.BatchNorm2d and known


def _step_call(node: fx.Node, source: fx.Node, flat: bool, same_batch: set[fx.Node]) -> str | None:
    if not node.args or node.args[0] is not source or source in list(node.args)[1:]:
        return None
    if source in node.kwargs.values():
        return None
    same = "flat" if flat else "maps"
    if node.op == "call_function" and node.target in (_ELEMENTWISE_FUNCTIONS if flat else _FUNCTIONS):
        return None if node.kwargs.get("return_indices") else same
    if node.op == "call_method" and node.target in _METHODS:
        return same
    if node.target is F.pad and not flat:
        return same if _pads_sides_alone(node) else None
    named = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    if named == "flatten" and not flat and _arguments(node, "start_dim", "end_dim") in ((1, None), (1, -1)):
        return "flat"
    if named in ("view", "reshape") and not flat and _keeps_batch(node, same_batch):
        return "flat"
    if named == "mean" and not flat:
        return _step_mean(node)
    return None


def _pads_sides_alone(node: fx.Node) -> bool:
    """Tell whether a padding adds no channels: it names two sides or four, the innermost first."""
    (pad,) = _arguments(node, "pad")
    return isinstance(pad, (tuple, list)) and len(pad) <= 4


def _arguments(node: fx.Node, *names: str) -> tuple[Any, ...]:
    given = list(node.args[1:])
    return tuple(
        given[index] if index < len(given) else node.kwargs.get(name) for index, name in enumerate(names)
    )


def _step_mean(node: fx.Node) -> str | None:
    dims, keepdim = _arguments(node, "dim", "keepdim")
    if not isinstance(dims, (list, tuple)) or {int(dim) % 4 for dim in dims} != {2, 3} or len(dims) != 2:
        return None
    return "maps" if keepdim else "flat"


def _keeps_batch(node: fx.Node, same_batch: set[fx.Node]) -> bool:
    """Tell whether `x.view(batch, -1)` gets the batch size from the maps themselves."""
    shape = node.args[1:]
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    if len(shape) != 2 or shape[1] != -1 or not isinstance(shape[0], fx.Node):
        return False
    batch = shape[0]
    if batch.op == "call_method" and batch.target == "size":
        return tuple(batch.args[1:]) == (0,) and batch.args[0] in same_batch
    if batch.op != "call_function" or batch.target is not operator.getitem or batch.args[1] != 0:
        return False
    shape_of = batch.args[0]
    return isinstance(shape_of, fx.Node) and _reads_shape_only(shape_of) and shape_of.args[0] in same_batch


def _reads_shape_only(node: fx.Node) -> bool:
    if node.op == "call_method" and node.target in ("size", "dim"):
        return True
    return node.op == "call_function" and node.target is getattr and node.args[1] in ("shape", "ndim")


def _sizes_fit(model: nn.Module, readers: Readers, channels: int) -> bool:
    norms = all(
        norm.num_features == channels and holds_its_values(norm)
        for norm in (model.get_submodule(path) for path in readers.norms)
    )
    modules = [model.get_submodule(path) for path in readers.convolutions | readers.depthwise]
    convolutions = all(
        module.in_channels == channels and "weight" in _first_layer(module)._parameters for module in modules
    )
    linears = [model.get_submodule(path) for path in readers.linears]
    gates = all(model.get_submodule(path).out_channels == channels for path in readers.gates)
    return (
        norms
        and gates
        and convolutions
        and all(module.in_features % channels == 0 and "weight" in module._parameters for module in linears)  # type: ignore[operator]
    )


def _first_layer(module: nn.Module) -> nn.Module:
    primary: nn.Module = module.primary_conv if isinstance(module, GhostConv2d) else module
    return primary


@torch.no_grad()
def _permute_(model: nn.Module, readers: Readers, order: Tensor, channels: int) -> None:
    """Reorder the readers' channels: new channel k is old channel `order[k]`."""
    for path in readers.norms:
        norm = model.get_submodule(path)
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            if isinstance(values, Tensor):
                values.copy_(values[order.to(values.device)])
    for path in readers.convolutions:
        weight = _first_layer(model.get_submodule(path)).weight
        weight.copy_(weight[:, order.to(weight.device)])  # type: ignore[operator, index, arg-type]
    for path in readers.linears:
        linear = model.get_submodule(path)
        maps = linear.weight.unflatten(1, (channels, -1))  # type: ignore[operator]
        linear.weight.copy_(maps[:, order.to(maps.device)].flatten(1))  # type: ignore[operator]
