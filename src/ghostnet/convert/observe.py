"""What each layer of the dense and of the half-converted network sees and gives: `observe`.

Both networks are walked in step, node by node, so that a layer runs twice at most, however many are fitted; a network
that cannot be traced is run whole for each layer, with hooks. Where a batch norm alone feeds an addition, the
target also makes up for the error that the other summand carries.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from ghostnet.convert.graph import CONSTANT, ConvUnit, is_ghost, normalises_only, trace_layers
from ghostnet.hooks import input_of

Pairs = list[tuple[Tensor, Tensor]]
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")


class Observer(Protocol):
    """Where a layer's calibration data come from."""

    def pairs(self, unit: ConvUnit) -> Pairs | None:
        """Return, for each batch, the layer's input in the converted network and the output wanted there.

        None where the layer does not run, or is asked for out of execution order.
        """
        ...


def observe(dense_model: nn.Module, ghost_model: nn.Module, batches: Sequence[Tensor]) -> Observer:
    """Choose how the layers of two networks of one structure are observed.

    Args:
        dense_model: the trained network, in evaluation mode.
        ghost_model: its copy in conversion, in evaluation mode.
        batches: `(N, C, H, W)` inputs.
    """
    sizes = {tuple(batch.shape[1:]) for batch in batches}
    graph = trace_layers(dense_model, batches[0] if len(sizes) == 1 else None)
    if graph is None:
        return _Hooks(dense_model, ghost_model, batches)
    return _Traced(dense_model, ghost_model, batches, graph)


class _Walk:
    """One network evaluated node by node on all batches, from the images to the last layer that is asked for."""

    def __init__(self, model: nn.Module, graph: fx.Graph, batches: Sequence[Tensor]) -> None:
        self.model, self.nodes, self.position = model, list(graph.nodes), 0
        self.values: list[dict[fx.Node, Any]] = [{} for _ in batches]
        self.batches = batches
        order = {node: place for place, node in enumerate(self.nodes)}
        self.last = {
            node: max((order[user] for user in node.users), default=order[node]) for node in self.nodes
        }

    def advance(self, end: fx.Node) -> None:
        """Run everything before `end`; values that nothing later reads are dropped."""
        while self.nodes[self.position] is not end:
            node = self.nodes[self.position]
            for batch, values in zip(self.batches, self.values, strict=True):
                values[node] = self.run(node, values, batch)
                for value in [old for old in node.all_input_nodes if self.last[old] <= self.position]:
                    values.pop(value, None)
            self.position += 1

    def value(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        """Evaluate a node ahead of its turn, with all that it needs; nothing is kept, nor changed in place."""
        wanted = _missing_for(node, values)
        missing = [one for one in self.nodes if one in wanted]
        unread = Counter(source for one in missing for source in one.all_input_nodes)
        computed: dict[fx.Node, Any] = {}
        for one in missing:
            sources = one.all_input_nodes
            # each reader gets a copy of its own, since it may change what it is given
            given = {old: _copied(computed[old] if old in computed else values[old]) for old in sources}
            computed[one] = self.run(one, given)
            for source in sources:
                unread[source] -= 1
                if not unread[source]:
                    computed.pop(source, None)
        return computed[node] if missing else values[node]

    def run(self, node: fx.Node, values: dict, batch: Tensor | None = None) -> Any:
        """Evaluate one node."""
        if node.op == "placeholder":
            # a copy, since the network may change what it is given
            return _copied(batch) if node is self.nodes[0] else (node.args[0] if node.args else None)
        if CONSTANT in node.meta:
            return _copied(node.meta[CONSTANT])  # the same one serves all batches of both networks
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.model)
        args = fx.node.map_arg(node.args, values.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
        if node.op == "call_module":
            return self.model.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]


class _Traced:
    """Inputs and targets of each layer, from both networks walked in step."""

    def __init__(
        self, dense_model: nn.Module, ghost_model: nn.Module, batches: Sequence[Tensor], graph: fx.Graph
    ) -> None:
        self.dense_model = dense_model
        self.dense, self.ghost = _Walk(dense_model, graph, batches), _Walk(ghost_model, graph, batches)
        self.nodes = {str(node.target): node for node in graph.nodes if node.op == "call_module"}

    def pairs(self, unit: ConvUnit) -> Pairs | None:
        """Inputs in the converted network and what its convolution should give there."""
        node = self.nodes.get(unit.name)
        if node is None or node not in self.dense.nodes[self.dense.position :]:
            return None
        self.dense.advance(node)
        self.ghost.advance(node)
        shortcut = _shortcut(node, unit)
        pairs = []
        for dense, ghost in zip(self.dense.values, self.ghost.values, strict=True):
            target = self.dense.run(node, dense)
            if shortcut is not None and self._known(shortcut, ghost):
                carried = self.dense.value(shortcut, dense), self.ghost.value(shortcut, ghost)
                target = target + self._missing(unit, *carried, target)
            given = input_of(node.args, node.kwargs)
            pairs.append((fx.node.map_arg(given, ghost.__getitem__), target))
        return pairs

    def _known(self, node: fx.Node, values: dict[fx.Node, Any]) -> bool:
        """Whether `node` follows from computed values without a layer that is still to be fitted."""
        return not any(
            one.op == "call_module" and is_ghost(self.ghost.model.get_submodule(str(one.target)))
            for one in _missing_for(node, values)
        )

    def _missing(self, unit: ConvUnit, dense: Tensor, ghost: Tensor, target: Tensor) -> Tensor | float:
        """What the other summand lacks, in units of the convolution's output; 0 where the norm cannot help."""
        norm: Any = self.dense_model.get_submodule(str(unit.norm))
        if not normalises_only(norm) or dense.shape != target.shape:
            return 0.0
        if norm.weight is None or norm.running_var is None:
            return 0.0
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        usable = scale.abs() > 1e-2 * scale.abs().max()
        inverse = torch.where(usable, scale, torch.ones_like(scale)).reciprocal() * usable
        return (dense - ghost) * inverse[:, None, None]


def _missing_for(node: fx.Node, values: dict[fx.Node, Any]) -> set[fx.Node]:
    """Return the nodes that are still to be run for the value of one, itself among them."""
    missing: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one not in missing and one not in values:
            missing.add(one)
            waiting.extend(one.all_input_nodes)
    return missing


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _shortcut(node: fx.Node, unit: ConvUnit) -> fx.Node | None:
    """The other summand where the unit's norm alone feeds an addition."""
    users = list(node.users)
    if unit.norm is None or len(users) != 1 or users[0].target != unit.norm or len(users[0].users) != 1:
        return None
    addition = next(iter(users[0].users))
    if addition.target not in _ADDITIONS or len(addition.args) != 2:
        return None
    others = [value for value in addition.args if value is not users[0] and isinstance(value, fx.Node)]
    return others[0] if len(others) == 1 else None


class _Hooks:
    """Inputs and targets of a network that cannot be traced: whole forward passes with hooks."""

    def __init__(self, dense_model: nn.Module, ghost_model: nn.Module, batches: Sequence[Tensor]) -> None:
        self.models, self.batches = (dense_model, ghost_model), batches

    def pairs(self, unit: ConvUnit) -> Pairs | None:
        """Inputs in the converted network and outputs of the dense one."""
        inputs = list(self._record(self.models[1], unit.name, of_input=True))
        targets = list(self._record(self.models[0], unit.name, of_input=False))
        return list(zip(inputs, targets, strict=True)) if inputs and len(inputs) == len(targets) else None

    def _record(self, model: nn.Module, name: str, *, of_input: bool) -> Iterator[Tensor]:
        seen: list[Tensor] = []
        layer = model.get_submodule(name)
        dtype = next(layer.parameters()).dtype  # under autocast, maps have another type than weights

        def keep(_module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> None:
            given = input_of(args, kwargs)
            seen.append((given if of_input else output).to(dtype, copy=True))

        handle = layer.register_forward_hook(keep, with_kwargs=True)
        try:
            for batch in self.batches:
                seen.clear()
                model(batch.clone())
                yield from seen[:1]
        finally:
            handle.remove()
