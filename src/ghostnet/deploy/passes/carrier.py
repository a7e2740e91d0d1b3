"""The walk that carries concatenations in parts, with the layers that read them rewritten for the parts.

A Ghost convolution ends in `cat(y, g)`. Most of what reads the result does not need it in one piece: a convolution is
`W cat(y, g) = W_y y + W_g g`, an activation, a batch norm, a depthwise convolution or a pooling treats each channel
alone. `Carrier` walks a traced network in order and carries such values in parts as far as they go; what cannot read
parts gets the concatenation. Slices and reorderings of channels become an index that the next weights absorb.
"""

from __future__ import annotations

import contextlib
import copy
import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from ghostnet.deploy.passes.layers import kept_inputs, kept_outputs, physical_depthwise, physical_norm
from ghostnet.deploy.passes.lazy import Layout, Lazy, joined_in_order
from ghostnet.deploy.passes.operations import (
    add_module,
    cat_inputs,
    channel_range,
    finished,
    is_binary,
    module_of,
    per_channel_unary,
    plain_module,
    pools_to_one,
    reordered,
)
from ghostnet.deploy.passes.winograd import WinogradConv2d
from ghostnet.nn.cheap_operations import AffineOperation, WaveletOperation


@dataclass(frozen=True)
class Reach:
    """Through what values are carried in parts.

    Attributes:
        norms: batch norms.
        unary: activations and poolings.
        convolutions: convolutions, depthwise ones included.
        split: convolutions read each part by itself and add; otherwise the parts are joined, zero channels kept.
        products: products of two maps, such as the gates of squeeze-excite.
        sums: additions of two maps whose parts have at least so many channels: such residual streams stay in parts.
            Otherwise each operand is joined first; None joins all.
        max_parts: a concatenation of more parts is built (a dense block would otherwise fall into crumbs).
        multiple: convolutions make zero channels up to a multiple of it where later weights can absorb them.
    """

    norms: bool = True
    unary: bool = True
    convolutions: bool = True
    split: bool = True
    products: bool = True
    sums: int | None = 1
    max_parts: int = 4
    multiple: int = 1


def carry(traced: fx.GraphModule, reach: Reach) -> fx.GraphModule:
    """Return the network with concatenations carried as far as `reach` lets them.

    The walk is repeated while it learns: whole values that later sums want in parts (`wishes`), and convolutions
    whose zero channels somebody would have to cut off again (`banned`).
    """
    wishes: dict[str, Layout] = {}
    banned: set[str] = set()
    while True:
        carrier = Carrier(fx.GraphModule(traced, copy.deepcopy(traced.graph)), reach, wishes, banned)
        result = carrier.run()
        fresh = {
            name: layout for name, layout in carrier.new_wishes.items() if name not in {*wishes, *banned}
        }
        if fresh:
            wishes.update(fresh)
        elif carrier.new_bans - banned:
            banned |= carrier.new_bans
            wishes = {name: layout for name, layout in wishes.items() if name not in banned}
        else:
            return result


class Carrier:
    """One walk over a traced network; `run` returns it rewritten."""

    def __init__(
        self, traced: fx.GraphModule, reach: Reach, wishes: Mapping[str, Layout], banned: Collection[str]
    ) -> None:
        self.traced, self.graph, self.reach = traced, traced.graph, reach
        self.wishes, self.banned = wishes, banned
        self.new_wishes: dict[str, Layout] = {}
        self.new_bans: set[str] = set()
        self.padded: set[fx.Node] = set()
        self.pixels: set[fx.Node] = set()  # maps of one pixel, which are small whatever their channels
        self.tails: dict[fx.Node, fx.Node] = {}
        self.values: dict[fx.Node, Lazy] = {}
        self.whole: dict[fx.Node, Lazy] = {}
        self.built: dict[fx.Node, fx.Node] = {}
        self.widths: dict[fx.Node, int] = {}

    def run(self) -> fx.GraphModule:
        """Rewrite the network in place and return it."""
        for node in list(self.graph.nodes):
            if pools_to_one(self.traced, node) or self._follows_a_pixel(node):
                self.pixels.add(node)
            with self.graph.inserting_before(node):
                value = self._carried(node)
            if isinstance(value, Lazy):
                self.values[node] = value
                self.widths[node] = value.width
                continue
            if isinstance(value, fx.Node):
                self.widths[value] = self._width(node) or 0
                if node in self.pixels:
                    self.pixels.add(value)
                node.replace_all_uses_with(value)
                continue
            for source in node.all_input_nodes:
                if source in self.values:
                    node.replace_input_with(source, self._build(source))
            self.widths[node] = self._width(node) or 0
        return finished(self.traced)

    def _follows_a_pixel(self, node: fx.Node) -> bool:
        source = node.args[0] if node.args else None
        same = isinstance(module_of(self.traced, node), nn.Conv2d) or per_channel_unary(self.traced, node)
        return same and isinstance(source, fx.Node) and source in self.pixels

    # ---- one node

    def _carried(self, node: fx.Node) -> Lazy | fx.Node | None:
        """Return the node's value in parts, or a node that replaces it, or None where it needs its inputs built."""
        inputs = cat_inputs(node)
        if inputs is not None:
            return self._cat(inputs)
        picked = self._picked(node)
        if picked is not None:
            return picked
        if node.name in self.wishes:
            channels, index = self.wishes[node.name]
            wished = self._divided(node, Lazy((), channels, index), alone=False)
            if wished is not None:
                return wished
        lazy = next((self.values[source] for source in node.all_input_nodes if source in self.values), None)
        if lazy is None:
            return self._widened(node)
        if is_binary(node, operator.add):
            parts = self._both(node) if self._adds_parts(node) else None
            return parts if parts is not None else self._joined_sum(node)
        if is_binary(node, operator.mul):
            return self._both(node) if self.reach.products else None
        if not isinstance(node.args[0], fx.Node) or node.args[0] not in self.values:
            return self._each(node, lazy) if per_channel_unary(self.traced, node) else None
        return self._read_by(node, self.values[node.args[0]])

    def _adds_parts(self, node: fx.Node) -> bool:
        least = self.reach.sums
        lazies = [self.values[source] for source in node.all_input_nodes if source in self.values]
        return least is not None and all(min(lazy.channels) >= least for lazy in lazies)

    def _read_by(self, node: fx.Node, lazy: Lazy) -> Lazy | fx.Node | None:
        module = module_of(self.traced, node)
        source = node.args[0]
        if self.reach.convolutions and isinstance(source, fx.Node) and self._is_gated(source):
            lazy = self.values[source] = self._joined(source)
        if plain_module(module, nn.Conv2d) and isinstance(module, nn.Conv2d):
            return self._convolution(node, module, lazy) if self.reach.convolutions else None
        if plain_module(module, nn.BatchNorm2d) and isinstance(module, nn.BatchNorm2d):
            return self._norm(node, module, lazy) if self.reach.norms else None
        if per_channel_unary(self.traced, node):
            return self._each(node, lazy) if self.reach.unary else None
        self._ask_a_part_(node, lazy)
        return None

    def _is_gated(self, node: fx.Node) -> bool:
        """Tell whether the node is the map of a gate: a global pooling reads it, and a product as well.

        Such a map is joined: two or three chains of operators of one pixel cost more than a concatenation.
        """
        return any(pools_to_one(self.traced, user) for user in node.users) and any(
            is_binary(user, operator.mul) for user in node.users
        )

    def _cat(self, inputs: list[fx.Node]) -> Lazy | fx.Node | None:
        lazies = [lazy for lazy in map(self._as_lazy, inputs) if lazy is not None]
        if len(lazies) < len(inputs):
            return None
        if sum(len(lazy.parts) for lazy in lazies) <= self.reach.max_parts:
            return _side_by_side(lazies)
        whole: list[fx.Node] = []  # one concatenation, not one of concatenations
        for source, lazy in zip(inputs, lazies, strict=True):
            whole += lazy.parts if lazy.index is None else [self._build(source)]
        return self.graph.call_function(torch.cat, (whole, 1))

    def _as_lazy(self, node: fx.Node) -> Lazy | None:
        if node in self.values:
            return self.values[node]
        width = self.widths.get(node, 0)
        return Lazy((node,), (width,)) if width else None

    def _picked(self, node: fx.Node) -> Lazy | fx.Node | None:
        """Slices and constant reorderings of channels."""
        source = node.args[0] if node.args else None
        lazy = self._as_lazy(source) if isinstance(source, fx.Node) else None
        if lazy is None:
            return None
        chosen: Sequence[int] | None = channel_range(node, lazy.width)
        if node.target in ("index_select", torch.index_select) and len(node.args) == 3 and node.args[1] == 1:
            chosen = self._constant(node.args[2])
        if chosen is None or not len(chosen) or len(set(chosen)) < len(chosen):
            return None  # weights are put in order by where a channel went, which is one place
        taken = lazy.taking(chosen)
        return taken.parts[0] if len(taken.parts) == 1 and taken.index is None else taken

    def _constant(self, node: object) -> list[int] | None:
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        value = operator.attrgetter(str(node.target))(self.traced)
        return value.tolist() if isinstance(value, torch.Tensor) and value.dim() == 1 else None

    def _ask_a_part_(self, node: fx.Node, lazy: Lazy) -> None:
        """A part has the value's shape but for the channels; let what asks only for the others ask a part."""
        if node.op == "call_function" and node.target is getattr and node.args[1] == "shape":
            spatial = (0, 2, 3, -1, -2, slice(-2, None), slice(2, None))
            if all(user.target is operator.getitem and user.args[1] in spatial for user in node.users):
                node.args = (lazy.parts[0], "shape")

    # ---- layers that read parts

    def _convolution(self, node: fx.Node, conv: nn.Conv2d, lazy: Lazy) -> Lazy | fx.Node | None:
        if conv.groups == 1:
            if not self.reach.split and node not in self.pixels:
                lazy = self._joined(node.args[0])  # type: ignore[arg-type]
            return self._sum_of_convolutions(node, conv, lazy)
        if conv.groups != conv.in_channels:
            return None
        return self._depthwise(node, conv, lazy)

    def _widened(self, node: fx.Node) -> Lazy | None:
        """Return the value of a convolution of whole input with zero channels added, where that is wanted."""
        module = module_of(self.traced, node)
        if (
            not plain_module(module, nn.Conv2d)
            or not isinstance(module, nn.Conv2d)
            or not self._widens(node, module)
        ):
            return None
        source = node.args[0]
        assert isinstance(source, fx.Node)  # a convolution reads a node
        positions = self._wider(module)
        made = self._call(f"{node.target}_wide", kept_outputs(module, positions), source)
        self.padded.add(node)
        return Lazy((made,), (len(positions),), tuple(range(module.out_channels)))

    def _widens(self, node: fx.Node, conv: nn.Conv2d) -> bool:
        return (
            conv.groups == 1
            and conv.out_channels % self.reach.multiple > 0
            and node.name not in self.banned
            and node not in self.pixels
        )

    def _wider(self, conv: nn.Conv2d) -> list[int | None]:
        return [*range(conv.out_channels), *[None] * (-conv.out_channels % self.reach.multiple)]

    def _sum_of_convolutions(self, node: fx.Node, conv: nn.Conv2d, lazy: Lazy) -> Lazy | fx.Node:
        if self._widens(node, conv):
            self.padded.add(node)
            positions = self._wider(conv)
            wide = self._sum(node, kept_outputs(conv, positions), lazy)
            return Lazy((wide,), (len(positions),), tuple(range(conv.out_channels)))
        return self._sum(node, conv, lazy)

    def _sum(self, node: fx.Node, conv: nn.Conv2d, lazy: Lazy) -> fx.Node:
        total: fx.Node | None = None
        last = len(lazy.parts) - 1
        for number, (part, positions) in enumerate(zip(lazy.parts, lazy.members(), strict=True)):
            piece = kept_inputs(conv, positions, bias=number == last)
            made = self._call(f"{node.target}_part{number}", piece, part)
            total = made if total is None else self.graph.call_function(operator.add, (total, made))
        assert total is not None  # a value has at least one part
        return total

    def _depthwise(self, node: fx.Node, conv: nn.Conv2d, lazy: Lazy) -> Lazy:
        each = conv.out_channels // conv.in_channels
        parts = [
            self._call(f"{node.target}_part{number}", physical_depthwise(conv, positions), part)
            for number, (part, positions) in enumerate(zip(lazy.parts, lazy.members(), strict=True))
        ]
        index = [position * each + copy for position in lazy.positions() for copy in range(each)]
        return joined_in_order(parts, [count * each for count in lazy.channels], index)

    def _norm(self, node: fx.Node, norm: nn.BatchNorm2d, lazy: Lazy) -> Lazy:
        return lazy.through(
            self._call(f"{node.target}_part{number}", physical_norm(norm, positions), part)
            for number, (part, positions) in enumerate(zip(lazy.parts, lazy.members(), strict=True))
        )

    def _each(self, node: fx.Node, lazy: Lazy) -> Lazy | None:
        source = next(argument for argument in node.args if isinstance(argument, fx.Node))
        if self.values.get(source) is not lazy or any(
            other is not source and other in self.values for other in node.all_input_nodes
        ):
            return None
        return lazy.through(self._same(node, source, part) for part in lazy.parts)

    def _same(self, node: fx.Node, source: fx.Node, part: fx.Node) -> fx.Node:
        return self.graph.node_copy(node, lambda argument: part if argument is source else argument)

    def _joined_sum(self, node: fx.Node) -> Lazy | fx.Node | None:
        """Join each operand to one tensor, zero channels and order kept, and add these."""
        sources = [source for source in node.all_input_nodes if source in self.values]
        if all(self.values[source].index is None for source in sources):
            return None
        for source in sources:
            self.values[source] = self._joined(source)
        value = self._both(node)
        return value.parts[0] if value is not None and value.index is None else value

    def _joined(self, node: fx.Node) -> Lazy:
        """Return a carried value in one part, zero channels and order kept."""
        lazy = self.values[node]
        if len(lazy.parts) == 1:
            return lazy
        if node not in self.whole:
            with self._behind(node):
                whole = self._concatenated(Lazy(lazy.parts, lazy.channels))
            self.whole[node] = Lazy((whole,), (sum(lazy.channels),), lazy.index)
        return self.whole[node]

    def _both(self, node: fx.Node) -> Lazy | None:
        """Act on each part of both operands where these have, or can be given, the same layout."""
        if len(node.all_input_nodes) == 1:
            return None  # x + x
        first, second = (argument for argument in node.args if isinstance(argument, fx.Node))
        lazies = (self.values.get(first), self.values.get(second))
        fixed = [lazy for node, lazy in zip((first, second), lazies, strict=True) if node not in self.padded]
        like = next((lazy for lazy in (*fixed, *lazies) if lazy is not None), None)
        if like is None:
            return None
        one, two = self._divided(first, like), self._divided(second, like)
        if one is None or two is None or one.layout != two.layout:
            return None
        operation: Callable[..., object] = node.target  # type: ignore[assignment]
        pairs = zip(one.parts, two.parts, strict=True)
        return like.through(self.graph.call_function(operation, pair) for pair in pairs)

    # ---- whole values that are to come in parts

    def _divided(self, node: fx.Node, like: Lazy, *, alone: bool = True) -> Lazy | None:
        """Return the node's value in the layout of `like`, by dividing the layers that make it; None if it cannot."""
        if node in self.values and self.values[node].layout == like.layout:
            return self.values[node]
        if node in self.values and node not in self.padded:
            return None
        if not node.args or not isinstance(node.args[0], fx.Node):
            return None
        if alone and len(node.users) > 1:  # dividing now what others need whole would compute it twice
            if node.name not in self.wishes:
                self.new_wishes.setdefault(node.name, like.layout)
            return None
        module = module_of(self.traced, node)
        if plain_module(module, nn.Conv2d) and isinstance(module, nn.Conv2d) and module.groups == 1:
            return self._divided_convolution(node, module, like)
        if is_binary(node, operator.add):
            return self._divided_sum(node, like)
        depthwise = (
            isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels
        )
        norm = plain_module(module, nn.BatchNorm2d)
        if not (
            per_channel_unary(self.traced, node) or (depthwise and plain_module(module, nn.Conv2d)) or norm
        ):
            return None
        source = self._divided(node.args[0], like)
        if source is None:
            return None
        if isinstance(module, nn.Conv2d):
            return self._depthwise(node, module, source)
        if isinstance(module, nn.BatchNorm2d):
            return self._norm(node, module, source)
        kept = node.args[0]
        return source.through(self._same(node, kept, part) for part in source.parts)

    def _divided_convolution(self, node: fx.Node, conv: nn.Conv2d, like: Lazy) -> Lazy | None:
        if conv.out_channels != like.width:
            return None
        source = node.args[0]
        assert isinstance(source, fx.Node)  # seen by `_divided`
        lazy = self.values.get(source) or Lazy((source,), (conv.in_channels,))
        return like.through(
            self._sum(node, kept_outputs(conv, positions), lazy) for positions in like.members()
        )

    def _divided_sum(self, node: fx.Node, like: Lazy) -> Lazy | None:
        operands = [self._divided(operand, like) for operand in node.all_input_nodes]
        if len(operands) != 2 or operands[0] is None or operands[1] is None:
            return None
        pairs = zip(operands[0].parts, operands[1].parts, strict=True)
        return like.through(self.graph.call_function(operator.add, pair) for pair in pairs)

    # ---- building

    def _call(self, name: str, module: nn.Module, source: fx.Node) -> fx.Node:
        return self.graph.call_module(add_module(self.traced, name, module), (source,))

    def _build(self, node: fx.Node) -> fx.Node:
        """Return the concatenation of a carried value, made once, right behind where it was carried last."""
        if node not in self.values:
            return node
        if node not in self.built:
            self._ban(node)
            with self._behind(node):
                self.built[node] = self._concatenated(self.values[node])
        return self.built[node]

    @contextlib.contextmanager
    def _behind(self, node: fx.Node) -> Iterator[None]:
        """Insert nodes right behind `node`, and behind what was inserted there before."""
        last = self.tails.get(node, node)
        with self.graph.inserting_after(last):
            anchor = self.graph.call_function(operator.pos, (node,))
        with self.graph.inserting_before(anchor):
            yield
        self.tails[node] = anchor  # dead: nothing reads it

    def _ban(self, node: fx.Node) -> None:
        """Note the convolutions whose zero channels have to be cut off because `node` is built."""
        pending, seen = [node], {node}
        while pending:
            found = pending.pop()
            if found in self.padded or found.name in self.wishes:
                self.new_bans.add(found.name)
                continue
            fresh = {source for source in found.all_input_nodes if source in self.values} - seen
            seen |= fresh
            pending += fresh

    def _concatenated(self, lazy: Lazy) -> fx.Node:
        whole = lazy.parts[0]
        if len(lazy.parts) > 1:
            whole = self.graph.call_function(torch.cat, (list(lazy.parts), 1))
        if lazy.index is None:
            return whole
        start = lazy.index[0]
        if list(lazy.index) == list(range(start, start + len(lazy.index))):
            key = (slice(None), slice(start, start + len(lazy.index)))
            return self.graph.call_function(operator.getitem, (whole, key))
        return reordered(self.traced, whole, lazy.index)

    # ---- channel counts

    def _width(self, node: fx.Node) -> int | None:
        """Return the channels of a node's value where the layers tell."""
        module = module_of(self.traced, node)
        if isinstance(module, nn.Conv2d):
            return module.out_channels
        if isinstance(module, nn.BatchNorm2d):
            return module.num_features
        if isinstance(module, (AffineOperation, WaveletOperation, WinogradConv2d)):
            return module.out_channels
        first = node.args[0] if node.args else None
        if is_binary(node, operator.add) or is_binary(node, operator.mul):
            counts = [self.widths.get(source, 0) for source in node.all_input_nodes]
            return max(counts) if all(counts) else None
        if per_channel_unary(self.traced, node):
            source = next(argument for argument in node.args if isinstance(argument, fx.Node))
            return self.widths.get(source)
        inputs = cat_inputs(node)
        if inputs:
            counts = [self.widths.get(source, 0) for source in inputs]
            return sum(counts) if all(counts) else None
        if isinstance(first, fx.Node) and self.widths.get(first):
            taken = channel_range(node, self.widths[first])
            return len(taken) if taken is not None else None
        return None


def _side_by_side(lazies: Sequence[Lazy]) -> Lazy:
    index, start = [], 0
    for lazy in lazies:
        index += [start + position for position in lazy.positions()]
        start += sum(lazy.channels)
    parts = [part for lazy in lazies for part in lazy.parts]
    return joined_in_order(parts, [count for lazy in lazies for count in lazy.channels], index)
