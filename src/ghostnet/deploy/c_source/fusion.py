"""Layers that can be computed with the one before them, so that their maps are not written and read again."""

from __future__ import annotations

import dataclasses

from ghostnet.deploy.c_source.layers import (
    IDENTITY,
    Channels,
    Concatenation,
    Convolution,
    Elementwise,
    Interleaving,
    Layer,
    Network,
)

_GATES = {"SIGMOID": "SILU", "HARD_SIGMOID": "HARD_SWISH"}  # x * gate(x) by name


def fuse_(network: Network) -> None:
    """Join activations and residual sums with the layers that they follow, in place."""
    _name_gated_activations_(network)
    _activate_parts_(network)
    _join_activations_(network)
    _join_sums_(network)
    _join_orders_(network)


def _name_gated_activations_(network: Network) -> None:
    """Make `x * sigmoid(x)` one layer."""
    makers = {layer.result: layer for layer in network.layers}
    readers = network.readers()
    joined: set[str] = set()
    for place, layer in enumerate(network.layers):
        if not (
            isinstance(layer, Elementwise) and layer.kind == "MULTIPLY" and isinstance(layer.second, str)
        ):
            continue
        for value, gated in ((layer.source, layer.second), (layer.second, layer.source)):
            gate = makers.get(gated)
            if not isinstance(gate, Elementwise) or gate.kind != "FIRST" or gate.source != value:
                continue
            if gate.activation.kind in _GATES and len(readers[gated]) == 1 and layer.activation == IDENTITY:
                activation = dataclasses.replace(gate.activation, kind=_GATES[gate.activation.kind])
                network.layers[place] = Elementwise("FIRST", value, None, layer.result, activation)
                joined.add(gated)
                break
    network.layers = [layer for layer in network.layers if layer.result not in joined]


def _activate_parts_(network: Network) -> None:
    """Activate the parts of a concatenation, not the whole: the layers that make them can do that on the way."""
    readers = network.readers()
    wholes = {layer.result: layer for layer in network.layers if isinstance(layer, Concatenation)}
    kept: list[Layer] = []
    for layer in network.layers:
        whole = wholes.get(layer.source) if isinstance(layer, Elementwise) and layer.kind == "FIRST" else None
        if whole is None or not isinstance(layer, Elementwise) or len(readers[layer.source]) > 1:
            kept.append(layer)
            continue
        parts = []
        for place, part in enumerate(whole.sources):
            name = f"{layer.result}[{place}].activated"
            network.sizes[name] = network.sizes[part]
            parts.append(Elementwise("FIRST", part, None, name, layer.activation))
        kept.remove(whole)
        kept += [*parts, Concatenation([part.result for part in parts], layer.result)]
    network.layers = kept


def _join_activations_(network: Network) -> None:
    readers = network.readers()
    makers = {layer.result: layer for layer in network.layers}
    kept: list[Layer] = []
    for layer in network.layers:
        before = makers.get(layer.source) if isinstance(layer, Elementwise) else None
        blocks = before if isinstance(before, Interleaving) else None
        if blocks is not None and len(readers[blocks.result]) == len(readers[blocks.source]) == 1:
            # what activates the pixels may as well activate what makes the blocks
            before = makers.get(blocks.source)
        if (
            isinstance(layer, Elementwise)
            and layer.kind == "FIRST"
            and isinstance(before, Convolution | Elementwise)
            and before.activation == IDENTITY
            and len(readers[layer.source]) == 1
        ):
            before.activation = layer.activation
            last = blocks or before
            last.result = layer.result
            makers[layer.result] = last
        else:
            kept.append(layer)
    network.layers = kept


def _join_orders_(network: Network) -> None:
    """Let a layer that works on single values read the channels of its operand in the order that it wants."""
    readers = network.readers()
    orders = {
        layer.result: layer
        for layer in network.layers
        if isinstance(layer, Channels) and len(readers.get(layer.result, ())) == 1 and layer.index.min() >= 0
    }
    joined: set[str] = set()
    for layer in network.layers:
        if not isinstance(layer, Elementwise) or layer.kind not in ("ADD", "FIRST"):
            continue
        for first, other in ((layer.source, layer.second), (layer.second, layer.source)):
            order = orders.get(first) if isinstance(first, str) else None
            if order is not None and network.sizes[order.result] == network.sizes[layer.result]:
                layer.source, layer.second, layer.index = order.source, other, order.index
                joined.add(order.result)
                break
    network.layers = [layer for layer in network.layers if layer.result not in joined]


def _join_sums_(network: Network) -> None:
    """Let a convolution add the other operand of the sum that alone reads its result."""
    readers = network.readers()
    places = {layer.result: place for place, layer in enumerate(network.layers)}
    joined: set[int] = set()
    for place, layer in enumerate(network.layers):
        if not (isinstance(layer, Elementwise) and layer.kind == "ADD" and isinstance(layer.second, str)):
            continue
        if network.sizes[layer.source] != network.sizes[layer.second]:
            continue
        operands = (layer.source, layer.second)
        later = max(operands, key=lambda name: places.get(name, -1))
        other = operands[operands[0] == later]
        maker = network.layers[places[later]] if later in places else None
        if (
            isinstance(maker, Convolution)
            and maker.groups == 1
            and maker.add is None
            and maker.activation == IDENTITY
            and len(readers[later]) == 1
            and later != other
            and network.sizes[later][1:] != (1, 1)
        ):
            maker.add, maker.activation, maker.result = other, layer.activation, layer.result
            places[layer.result] = places[later]
            joined.add(place)
    network.layers = [layer for place, layer in enumerate(network.layers) if place not in joined]
