"""Where each map lies in the working memory: parts of a concatenation side by side in it, so that it is never copied.

A map is a range of channels of a buffer, `step` floats from one pixel to the next. Buffers that are not needed at the
same time share memory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from ghostnet.deploy.c_source.layers import Border, Channels, Concatenation, Elementwise, Layer, Network, Size

_SLACK = 8  # floats behind a map that kernels may read
_LINE = 16  # floats of a line of the cache


@dataclasses.dataclass(frozen=True)
class Place:
    """`offset` floats into a buffer, `step` floats a pixel."""

    buffer: str
    offset: int
    step: int


@dataclasses.dataclass(frozen=True)
class At:
    """The first float of a map, which is known once memory is laid out."""

    name: str
    channel: int = 0


def lay_out(network: Network) -> dict[str, Place]:
    """Return where each map lies, and leave in the network only layers that move values.

    A part of a concatenation is written where the whole lies; where that cannot be, since the part is an input, has a
    border, or lies elsewhere already, a layer that copies it takes its place. A run of channels is a part of the map
    that it is cut from.
    """
    inside: dict[str, tuple[str, int]] = {}  # a map, the map that holds it, and at which channel
    made = {layer.result for layer in network.layers if not isinstance(layer, Border)}
    layers: list[Layer] = []
    for layer in network.layers:
        if not isinstance(layer, Concatenation):
            layers.append(layer)
            continue
        begin = 0
        for part in layer.sources:
            name = part
            if part not in made or part in inside:
                name = f"{layer.result}[{begin}]"
                network.sizes[name] = network.sizes[part]
                layers.append(Elementwise("FIRST", part, None, name))
            inside[name] = layer.result, begin
            begin += network.sizes[part][0]
    kept: list[Layer] = []
    for layer in layers:
        if isinstance(layer, Channels) and layer.result not in inside and _is_run(layer.index):
            inside[layer.result] = layer.source, int(layer.index[0])
        else:
            kept.append(layer)
    network.layers = kept
    return {name: _place(network, inside, name) for name in network.sizes}


def _is_run(index: np.ndarray) -> bool:
    return bool(len(index)) and bool((np.diff(index) == 1).all())


def _place(network: Network, inside: dict[str, tuple[str, int]], name: str) -> Place:
    offset = 0
    while name in inside:
        name, begin = inside[name]
        offset += begin
    return Place(name, offset, network.sizes[name][0])


def arena(
    uses: Sequence[Iterable[str]], places: dict[str, Place], sizes: dict[str, Size]
) -> tuple[dict[str, int], int]:
    """Return the first float of each buffer in one block of memory, and the block's floats.

    Args:
        uses: the maps that each step reads or writes, in order.
        places: of all maps.
        sizes: of all maps.
    """
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for time, names in enumerate(uses):
        for name in names:
            buffer = places[name].buffer
            first.setdefault(buffer, time)
            last[buffer] = time
    floats = {name: -(-(math.prod(sizes[name]) + _SLACK) // _LINE) * _LINE for name in first}
    begins: dict[str, int] = {}
    for name in sorted(first, key=lambda name: (-floats[name], first[name])):
        taken = sorted(
            (begins[other], begins[other] + floats[other])
            for other in begins
            if first[other] <= last[name] and last[other] >= first[name]
        )
        at = 0
        for begin, end in taken:
            if at + floats[name] <= begin:
                break
            at = max(at, end)
        begins[name] = at
    return begins, max((begins[name] + floats[name] for name in begins), default=0)
