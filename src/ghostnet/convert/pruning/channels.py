"""Which channels of a network go together: `follow_channels`.

Every channel that a convolution makes is followed through the graph to all that reads it, and so every place where a
module keeps a channel gets the number of what made it. What a function forces together (a product of two maps, halves
of a `chunk`, groups of a grouped convolution, sums where streams may lose channels) gets one number: it stays or goes
as one. Where channels reach something that is not known to keep them apart, they stay. Left out: shuffles, Ghost
convolutions as readers.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import fx, nn

from ghostnet.convert.aliases import held_elsewhere
from ghostnet.convert.channelwise import arguments_of, call_step, reads_shape_only, role_of
from ghostnet.convert.gate import PRODUCTS, Gate, gate_of
from ghostnet.convert.graph import HELD, ConvUnit, holds_its_values
from ghostnet.convert.order import own_their_weights
from ghostnet.nn.channel_placement import ChannelPlacement
from ghostnet.nn.narrow import channels_together, sizes

FIXED = 0  # the number of channels that stay
_SUMS = (operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub)
_METHOD_SUMS = ("add", "add_", "sub", "sub_")
_METHOD_PRODUCTS = ("mul", "mul_")
_CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
_ADDED = "its channels meet others in an addition: without `streams` both keep their width"
_TO_ONE_PIXEL = (slice(None), slice(None), None, None)  # y[:, :, None, None]
_COUNTED = "the network's code counts its channels"
_MULTIPLIED = "its channels are multiplied by what is not known to have a factor for each"
Place = tuple[str, str]  # path of a module, and "in", "out", or "both" of one that keeps channels apart


@dataclass
class Channels:
    """Numbers of the channels at every place that a module has for them.

    Attributes:
        places: for each place the number of each of its channels (features); the same number is the same decision, and
            `FIXED` stands for channels that stay.
        reasons: why a convolution's channels stay, for those that do.
        gates: what makes factors for channels, as squeeze-excite.
    """

    places: dict[Place, np.ndarray]
    reasons: dict[str, str]
    gates: set[Gate] = field(default_factory=set)


@dataclass
class _Maps:
    """What is known of a node: the number of each of its channels, and whether they are flattened."""

    channels: np.ndarray
    flat: bool = False


_Value = _Maps | list[_Maps] | None


def follow_channels(
    model: nn.Module, graphs: list[fx.Graph], units: list[ConvUnit], *, streams: bool = False
) -> Channels:
    """Follow the channels of every convolution through a network's graphs.

    Args:
        model: the network.
        graphs: from `trace_graphs`, of both modes.
        units: from `find_units`.
        streams: channels that are added to others go with them; else both stay.
    """
    ledger = _Ledger(model, units)
    for graph in graphs:
        _Walk(model, graph, ledger).run()
    _keep_what_others_hold(model, graphs, units, ledger)
    return ledger.settled(streams=streams)


def _keep_what_others_hold(
    model: nn.Module, graphs: list[fx.Graph], units: list[ConvUnit], ledger: _Ledger
) -> None:
    modules = dict(model.named_modules())  # functional convolutions are units, too
    reasons = {
        unit.name: unit.reason
        for unit in units
        if unit.reason is not None and not (unit.name in modules and _is_never_converted(modules[unit.name]))
    }
    paths = {path for path, _ in ledger.places}
    held = held_elsewhere(model)
    alone = own_their_weights(model, graphs, paths)
    for path, side in ledger.places:
        module = modules[path]
        if path in reasons:
            ledger.keep(ledger.places[path, side], f"{path} must be left alone: {reasons[path]}")
        elif isinstance(module, nn.Linear | nn.ConvTranspose2d) and "weight" not in module._parameters:
            ledger.keep(
                ledger.places[path, side], f"{path} must be left alone: its weight is computed by a hook"
            )
        elif path in held:
            ledger.keep(ledger.places[path, side], f"{path} would change with it, and is {HELD}")
        elif not alone[path]:
            ledger.keep(
                ledger.places[path, side], f"{path} would change with it, and something else has its weights"
            )
    for name, reason in reasons.items():
        if (name, "out") in ledger.places:
            ledger.own_reasons[name] = reason


class _Ledger:
    """What has been found about channels so far, in all graphs."""

    def __init__(self, model: nn.Module, units: list[ConvUnit]) -> None:
        self.places: dict[Place, np.ndarray] = {}
        self.gates: set[Gate] = set()
        self.own_reasons: dict[str, str] = {}
        self._kept: list[tuple[np.ndarray, str]] = []
        self._ties: list[tuple[np.ndarray, np.ndarray]] = []
        self._sums: list[tuple[np.ndarray, np.ndarray]] = []
        self.count = FIXED + 1
        modules = dict(model.named_modules())
        for unit in units:
            module = modules.get(unit.name)
            if module is not None and (_is_plain(module) or _is_transposed(module)):
                self.places[unit.name, "out"] = np.arange(self.count, self.count + module.out_channels)
                self.count += module.out_channels

    def keep(self, channels: np.ndarray, reason: str) -> None:
        """Let channels stay."""
        self._kept.append((channels[channels != FIXED], reason))

    def tie(self, one: np.ndarray, other: np.ndarray, *, sum_: bool = False) -> None:
        """Let channels go or stay as one, each with the one at its place in the other."""
        (self._sums if sum_ else self._ties).append((one, other))

    def read(self, path: str, side: str, channels: np.ndarray) -> None:
        """Say which channels a module's place has; in another graph, or where it runs twice, they are the same ones."""
        known = self.places.setdefault((path, side), channels)
        if known is not channels:
            self.tie(known, channels)

    def made(self, path: str, features: int) -> np.ndarray:
        """Return the numbers of what a linear layer makes: factors of channels may go with them."""
        if (path, "out") not in self.places:
            self.places[path, "out"] = np.arange(self.count, self.count + features)
            self.count += features
        return self.places[path, "out"]

    def settled(self, *, streams: bool) -> Channels:
        """Return the numbers that are left when all has been said."""
        labels = _joined(self.count, self._ties + (self._sums if streams else []))
        reasons: dict[int, str] = {}
        for one, other in [] if streams else self._sums:
            apart = labels[one] != labels[other]
            for label in np.unique(np.concatenate([labels[one[apart]], labels[other[apart]]])).tolist():
                reasons.setdefault(label, _ADDED)
        for channels, reason in self._kept:
            for label in np.unique(labels[channels]).tolist():
                reasons.setdefault(label, reason)
        reasons.setdefault(int(labels[FIXED]), "its channels go together with others that stay")
        for path, side in self.places:
            numbers = labels[self.places[path, side]] if side == "out" else ()
            first = next((reasons[label] for label in np.unique(numbers).tolist() if label in reasons), None)
            if first is not None:
                self.own_reasons.setdefault(path, first)
        staying = np.isin(labels, list(reasons))
        labels[staying] = FIXED
        return Channels(
            {place: labels[channels] for place, channels in self.places.items()}, self.own_reasons, self.gates
        )


def _joined(count: int, ties: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return for each of `count` numbers the smallest one that ties connect it with."""
    labels = np.arange(count)
    pairs = list(ties)
    if not pairs:
        return labels
    one, other = (np.concatenate(side) for side in zip(*pairs, strict=True))
    while True:
        first, second = labels[one], labels[other]
        if np.array_equal(first, second):
            return labels
        np.minimum.at(labels, np.maximum(first, second), np.minimum(first, second))
        while not np.array_equal(labels, labels[labels]):
            labels = labels[labels]


class _Walk:
    """One graph, node by node."""

    def __init__(self, model: nn.Module, graph: fx.Graph, ledger: _Ledger) -> None:
        self.model, self.graph, self.ledger = model, graph, ledger
        self.values: dict[fx.Node, _Value] = {}
        self.known: set[fx.Node] = set()  # nodes that give maps or features of known channels
        self.shapes: dict[fx.Node, np.ndarray] = {}  # nodes that give all sizes of such, and its channels
        self.counts: dict[fx.Node, np.ndarray] = {}  # nodes that give the number of them

    def run(self) -> None:
        """Follow all channels of the graph."""
        for node in self.graph.nodes:
            value = self._value(node)
            self.values[node] = value
            if value is not None:
                self.known.add(node)

    def _value(self, node: fx.Node) -> _Value:
        shaped = self._shaped(node)
        if shaped is not None:
            return shaped
        self._count(node)
        if node.op == "output":
            return self._stop(node, "its channels leave the network")
        if node.op == "call_module":
            return self._module(node, str(node.target))
        if node.op not in ("call_function", "call_method") or not self._sources(node):
            return None
        if reads_shape_only(node):
            return self._sizes(node)
        if node.target is operator.getitem and isinstance(parts := self.values.get(node.args[0]), list):  # type: ignore[arg-type]
            return parts[node.args[1]] if isinstance(node.args[1], int) else self._stop(node)
        if node.target is operator.getitem and self._takes_all(node):
            return self._maps(node.args[0])
        if node.target in _CONCATENATIONS:
            return self._concatenation(node)
        if node.target is torch.chunk or (node.op == "call_method" and node.target == "chunk"):
            return self._chunk(node)
        if node.op == "call_method" and node.target == "expand_as":
            return self._met(node, node.args[0], node.args[1], is_sum=False)
        pair = self._pair(node)
        if pair is not None:
            return self._met(node, *pair)
        return self._call(node)

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        return [source for source in node.all_input_nodes if self.values.get(source) is not None]

    def _maps(self, node: object) -> _Maps | None:
        value = self.values.get(node) if isinstance(node, fx.Node) else None
        return value if isinstance(value, _Maps) else None

    def _stop(self, node: fx.Node, reason: str | None = None) -> _Maps | None:
        """Let all channels stay that a node is given; nothing is known of what it gives."""
        unknown = f"{_named(self.model, node)} reads its channels, and is not known to keep them apart"
        for source in self._sources(node):
            value = self.values[source]
            for maps in value if isinstance(value, list) else [value]:
                assert maps is not None
                self.ledger.keep(maps.channels, reason or unknown)
        return None

    def _module(self, node: fx.Node, path: str) -> _Value:
        module = self.model.get_submodule(path)
        maps = self._maps(node.args[0]) if len(node.args) == 1 and not node.kwargs else None
        role = role_of(module, flat=maps is not None and maps.flat)
        if maps is None or len(self._sources(node)) > 1:
            self._stop(node)
        if _is_plain(module) or _is_transposed(module):
            return self._convolution(node, path, module, maps)
        if (
            isinstance(module, ChannelPlacement)
            and maps is not None
            and len(maps.channels) == module.in_channels
        ):
            self.ledger.read(path, "in", maps.channels)
            return _Maps(self.ledger.made(path, module.out_channels))
        each = channels_together(module)
        holds = role in ("grouped", "valued") or (role == "norm" and holds_its_values(module))
        if holds and each is not None:
            return self._grouped(node, path, maps, sizes(module)[0], each)
        if maps is not None and role in ("alone", "flatten"):
            return _Maps(maps.channels, maps.flat or role == "flatten")
        if maps is not None and role == "linear" and module.in_features % len(maps.channels) == 0:  # type: ignore[operator]
            features = module.in_features // len(maps.channels)  # type: ignore[operator]
            self.ledger.read(path, "in", np.repeat(maps.channels, features))
            return _Maps(self.ledger.made(path, module.out_features), flat=True)  # type: ignore[arg-type]
        self._stop(node)
        outputs = getattr(module, "out_channels", None)
        return _fixed(outputs) if isinstance(outputs, int) else None

    def _convolution(self, node: fx.Node, path: str, module: nn.Module, maps: _Maps | None) -> _Maps:
        read, made = sizes(module)
        if maps is None or len(maps.channels) != read:
            self._stop(node)
            maps = _fixed(read)
        self.ledger.read(path, "in", maps.channels)
        known = self.ledger.places.get((path, "out"))
        return _fixed(made) if known is None else _Maps(known)

    def _grouped(
        self, node: fx.Node, path: str, maps: _Maps | None, channels: int, each: tuple[int, int]
    ) -> _Maps:
        """Follow channels through a layer that keeps groups of them apart, or each; a group goes or stays as one."""
        if maps is None or len(maps.channels) != channels:
            self._stop(node)
            maps = _fixed(channels)
        first = maps.channels[:: each[0]]
        if each[0] > 1:
            self.ledger.tie(np.repeat(first, each[0]), maps.channels)
        made = np.repeat(first, each[1])
        self.ledger.read(path, "both", made)
        return _Maps(made)

    def _call(self, node: fx.Node) -> _Maps | None:
        source, *others = self._sources(node)
        maps = self._maps(source)
        if maps is not None and not others:
            step = call_step(node, source, flat=maps.flat, same_batch=self.known)
            if step is not None:
                return _Maps(maps.channels, step == "flat")
        return self._stop(node)

    def _pair(self, node: fx.Node) -> tuple[fx.Node, fx.Node, bool] | None:
        """Return the two tensors of a sum or product, and whether it is a sum."""
        is_function = node.op == "call_function"
        is_sum = node.target in (_SUMS if is_function else _METHOD_SUMS)
        if not is_sum and node.target not in (PRODUCTS if is_function else _METHOD_PRODUCTS):
            return None
        tensors = [argument for argument in node.args if isinstance(argument, fx.Node)]
        return (tensors[0], tensors[1], is_sum) if len(tensors) == len(node.args) == 2 else None

    def _met(self, node: fx.Node, one: Any, other: Any, is_sum: bool) -> _Maps | None:
        first, second = self._maps(one), self._maps(other)
        why = _ADDED if is_sum else _MULTIPLIED
        if first is None or second is None or first.flat or second.flat or node.kwargs:
            return self._stop(node, why)
        for single, maps in ((first, second), (second, first)):
            if len(single.channels) == 1 < len(maps.channels):  # the same for every channel
                self.ledger.keep(single.channels, "its one channel meets many")
                return _Maps(maps.channels)
        if len(first.channels) != len(second.channels):
            return self._stop(node, why)
        self.ledger.tie(first.channels, second.channels, sum_=is_sum)
        if not is_sum:
            found = (gate_of(self.model, node, maps) for maps in (one, other))
            self.ledger.gates |= {gate for gate in found if gate is not None}
        return _Maps(first.channels)

    def _takes_all(self, node: fx.Node) -> bool:
        """Tell whether `x[:, :count]` takes all channels, as GhostNet's code does: it does so of fewer, too."""
        maps, index = self._maps(node.args[0]), node.args[1]
        if maps is None or maps.flat or not isinstance(index, tuple) or len(index) < 2:
            return False
        images, channels, *sides = index
        whole = slice(None)
        if images != whole or any(side != whole for side in sides) or not _is_between_numbers(channels):
            return False
        enough = channels.stop is None or channels.stop >= len(maps.channels)
        return enough and channels.start in (None, 0) and channels.step in (None, 1)

    def _concatenation(self, node: fx.Node) -> _Maps | None:
        parts = node.args[0] if node.args else node.kwargs.get("tensors")
        (dim,) = arguments_of(node, "dim") if node.args else (node.kwargs.get("dim"),)
        maps = [self._maps(part) for part in parts] if isinstance(parts, (list, tuple)) else [None]
        known = [part for part in maps if part is not None and not part.flat]
        if dim not in (1, -3) or len(known) != len(maps):
            return self._stop(node)
        return _Maps(np.concatenate([part.channels for part in known]))

    def _chunk(self, node: fx.Node) -> _Value:
        maps = self._maps(node.args[0])
        count, dim = arguments_of(node, "chunks", "dim")
        if maps is None or maps.flat or dim not in (1, -3) or not isinstance(count, int):
            return self._stop(node)
        if len(maps.channels) % count:
            return self._stop(node)
        parts = np.split(maps.channels, count)
        for part in parts[1:]:  # equal parts stay equal
            self.ledger.tie(parts[0], part)
        return [_Maps(part) for part in parts]

    def _sizes(self, node: fx.Node) -> _Maps | None:
        """Remember whose sizes a node gives."""
        maps = self._maps(node.args[0])
        whole = node.target == "size" if node.op == "call_method" else node.args[1] == "shape"
        asked = arguments_of(node, "dim")[0] if node.op == "call_method" else None
        if maps is None:
            self._stop(node)
        elif whole and asked is None:
            self.shapes[node] = maps.channels
        elif whole and asked in (1, -1 if maps.flat else -3):
            self.counts[node] = maps.channels
        return None

    def _count(self, node: fx.Node) -> None:
        """Let channels stay that the code counts, but for `_shaped`, which counts them again in the smaller network."""
        for source in node.all_input_nodes:
            if source in self.counts:
                self.ledger.keep(self.counts[source], _COUNTED)
            elif source in self.shapes and node.target is not operator.getitem:
                self.ledger.keep(self.shapes[source], _COUNTED)
            elif source in self.shapes:
                index = node.args[1]
                if index in (1, -3):
                    self.counts[node] = self.shapes[source]
                elif not isinstance(index, int) and (not _is_between_numbers(index) or 1 in range(4)[index]):
                    self.ledger.keep(self.shapes[source], _COUNTED)

    def _shaped(self, node: fx.Node) -> _Maps | None:
        """Follow what gives features of one pixel their shape, as squeeze-excite of linear layers does."""
        if not node.args:
            return None
        if node.target in ("unsqueeze", torch.unsqueeze) or node.args[1:] == (_TO_ONE_PIXEL,):
            return self._unsqueezed(node)
        if node.target not in ("view", "reshape", torch.reshape):
            return None
        shape = node.args[1:]
        if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
            shape = tuple(shape[0])
        if len(shape) < 2 or shape[1] not in self.counts or any(size != 1 for size in shape[2:]):
            return None
        maps, counted = self._maps(node.args[0]), self.counts[shape[1]]  # type: ignore[index]
        batch = isinstance(shape[0], fx.Node) and shape[0] not in self.counts
        if maps is None or len(shape) not in (2, 4) or len(maps.channels) != len(counted) or not batch:
            return None
        self.ledger.tie(maps.channels, counted)
        return _Maps(maps.channels, flat=len(shape) == 2)

    def _unsqueezed(self, node: fx.Node) -> _Maps | None:
        source, index = node.args[0], node.args[1:]
        maps = self._maps(source)
        if maps is None or not maps.flat or node.kwargs:
            return None
        if node.target is operator.getitem:
            return _Maps(maps.channels)
        # (N, C, 1) counts as flat
        first = not isinstance(source, fx.Node) or source.target != node.target
        if index not in (((2,), (-1,)) if first else ((3,), (-1,))):
            return None
        return _Maps(maps.channels, flat=first)


def _is_plain(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and role_of(module, flat=False) == "mixing"


def _is_never_converted(module: nn.Module) -> bool:
    """Tell whether a module that is left alone by conversion can be cut all the same."""
    return _is_transposed(module) or isinstance(module, ChannelPlacement)


def _is_transposed(module: nn.Module) -> bool:
    """Tell whether a module is a transposed convolution that can be cut; it is never converted, and so has a reason."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    return role_of(module, flat=False) == "transposed" and not hooks


def _is_between_numbers(index: object) -> TypeGuard[slice]:
    """Tell whether an index is a slice between numbers."""
    return isinstance(index, slice) and all(
        part is None or isinstance(part, int) for part in (index.start, index.stop, index.step)
    )


def _fixed(channels: int) -> _Maps:
    return _Maps(np.full(channels, FIXED))


def _named(model: nn.Module, node: fx.Node) -> str:
    if node.op == "call_module":
        return f"{node.target} ({type(model.get_submodule(str(node.target))).__name__})"
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "a function")
    return f"{name} ({node.name})"
