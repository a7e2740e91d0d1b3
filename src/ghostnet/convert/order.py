"""Absorbs the channel order of converted layers into the layers that read them, where that is exact.

A matched Ghost convolution gives its channels in another order than the dense one did and carries an index
to undo that. Where its maps reach only layers that can be permuted (its batch norm, plain or primary
convolutions, linear layers) through operations that treat each channel alone, the index is dropped and those
layers are permuted. Left out: residual additions, concatenation, slicing, grouped readers: the index stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from ghostnet.convert.channelwise import call_step, reads_shape_only, role_of
from ghostnet.convert.graph import holds_its_values, trace_graphs
from ghostnet.nn.ghost_conv import GhostConv2d


@dataclass
class Readers:
    """The modules that one layer's channels reach: what to permute when its order is dropped."""

    norms: set[str] = field(default_factory=set)
    convolutions: set[str] = field(default_factory=set)
    linears: set[str] = field(default_factory=set)

    @property
    def paths(self) -> set[str]:
        """All of them."""
        return self.norms | self.convolutions | self.linears


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
        readers = _find_readers(model, graphs, name)
        if readers is None or module.channel_order is None:
            continue
        _permute_(model, readers, torch.argsort(module.channel_order), module.out_channels)
        module.set_channel_order_(None)
        for edit in recorded:
            if edit["path"] == name and edit["kind"] == "ghost_conv2d":
                edit["config"] = module.config()
        absorbed.append(name)
    return absorbed


def _find_readers(model: nn.Module, graphs: list[fx.Graph], name: str) -> Readers | None:
    """Collect what reads a layer's channels in every graph; None if something there mixes or picks channels."""
    readers = Readers()
    reached = []
    for graph in graphs:
        found = _follow(model, graph, name)
        if found is None:
            return None
        reached.append(found.paths)
        readers.norms |= found.norms
        readers.convolutions |= found.convolutions
        readers.linears |= found.linears
    if not readers.paths or not all(own_their_weights(model, graphs, readers.paths).values()):
        return None
    for graph, paths in zip(graphs, reached, strict=True):
        calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
        # a reader that also runs on other maps would be permuted for those too
        if any(calls[path] != (1 if path in paths else 0) for path in readers.paths):
            return None
    return readers


def own_their_weights(model: nn.Module, graphs: list[fx.Graph], paths: Iterable[str]) -> dict[str, bool]:
    """Say of modules whether nothing else has their parameters, in another place or by name.

    Args:
        model: the network.
        graphs: from `trace_graphs`.
        paths: of the modules.
    """
    owners = Counter(id(value) for module in model.modules() for value in module._parameters.values())
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    reads = [str(node.target) for graph in graphs for node in graph.nodes if node.op == "get_attr"]
    attributes = {target.rpartition(".")[0] for target in reads}
    modules = {path: model.get_submodule(path) for path in paths}
    return {
        path: places[id(module)] == 1
        and path not in attributes
        and all(owners[id(parameter)] == 1 for parameter in module.parameters())
        for path, module in modules.items()
    }


def _follow(model: nn.Module, graph: fx.Graph, name: str) -> Readers | None:
    """Walk from the layer's node to all of its readers; None where a node mixes or picks channels."""
    channels = model.get_submodule(name).out_channels
    readers = Readers()
    starts = [node for node in graph.nodes if node.op == "call_module" and node.target == name]
    if len(starts) > 1:
        return None
    waiting = [(user, node, False) for node in starts for user in node.users]
    same_batch = set(starts)
    while waiting:
        node, source, flat = waiting.pop()
        if reads_shape_only(node):
            continue
        if node.op == "call_module":
            step = _step_module(model.get_submodule(str(node.target)), str(node.target), flat, readers)
        else:
            step = call_step(node, source, flat=flat, same_batch=same_batch)
        if step is None:
            return None
        same_batch.add(node)
        if step != "end":
            waiting.extend((user, node, step == "flat") for user in node.users)
    return readers if _sizes_fit(model, readers, int(channels)) else None  # type: ignore[arg-type]


def _step_module(module: nn.Module, path: str, flat: bool, readers: Readers) -> str | None:
    """Return "maps", "flat" or "end" for a module that can follow, None for one that cannot."""
    role = role_of(module, flat=flat)
    if role == "norm":
        readers.norms.add(path)
        return "maps"
    if role in ("mixing", "linear"):
        (readers.linears if flat else readers.convolutions).add(path)
        return "end"
    if role == "alone":
        return "flat" if flat else "maps"
    return "flat" if role == "flatten" else None


def _sizes_fit(model: nn.Module, readers: Readers, channels: int) -> bool:
    norms = [model.get_submodule(path) for path in readers.norms]
    convolutions = [model.get_submodule(path) for path in readers.convolutions]
    linears = [model.get_submodule(path) for path in readers.linears]
    return (
        all(norm.num_features == channels and holds_its_values(norm) for norm in norms)
        and all(
            module.in_channels == channels and "weight" in _first_layer(module)._parameters
            for module in convolutions
        )
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
