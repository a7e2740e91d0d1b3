"""Where a network can lose channels: groups of channels that go as one, and all layers that have them.

In a residual network these are the inner layers of the blocks, as in the papers of the methods here; with `streams` the
layers that write into one stream lose the same channels together. Squeeze-excite on the way loses them, too; behind a
concatenation each layer loses what its parts lose.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, fx, nn

from ghostnet.convert.graph import ConvUnit, trace_graphs
from ghostnet.convert.pruning.channels import FIXED, Channels, Place, follow_channels
from ghostnet.errors import InputError

_LINEAR = ConvUnit("", None, None, 1, False, False, False, None)


@dataclass(frozen=True, eq=False)
class PruneSite:
    """Channels of one or several layers of which some can go.

    Args:
        name: path of the convolution that makes them; of several the first that runs.
        channels: how many there are to choose from; each may be several channels of a layer.
        outputs: for each layer that makes them, which of them each of its channels is.
        norms: for each of these, the batch norm that alone reads it, or None.
        followers: norms and grouped convolutions that carry them, likewise; -1 for channels of other sites.
        inputs: layers that mix them, likewise; a linear layer may have several features of each.
        gates: layers that make a factor for each of them, as the second one of squeeze-excite.
        squeezes: layers that mix them for such factors alone, as its first one.
        reader_unit: what `observe` needs to know of the reader, where there is only one, which is not transposed.
    """

    name: str
    channels: int
    outputs: dict[str, Tensor]
    norms: dict[str, str | None]
    followers: dict[str, Tensor]
    inputs: dict[str, Tensor]
    gates: tuple[str, ...]
    squeezes: tuple[str, ...]
    reader_unit: ConvUnit | None

    @property
    def writers(self) -> tuple[str, ...]:
        """The convolutions that make the channels, without those that make factors for them."""
        return tuple(path for path in self.outputs if path not in self.gates)

    @property
    def readers(self) -> tuple[str, ...]:
        """The layers that mix the channels, without those that do so for factors alone."""
        return tuple(path for path in self.inputs if path not in self.squeezes)

    def step(self, multiple: int) -> int:
        """Return of how many of them a multiple must stay, so that `multiple` channels of each layer do."""
        index = self.outputs[self.name]
        # channels of a group lie side by side, halves apart
        beside = int((index == index[0]).int().cumprod(0).sum())
        return multiple // math.gcd(multiple, beside)

    @property
    def kept_whole(self) -> str | None:
        """Say why a method that repairs the one layer behind one convolution leaves this site alone, or None."""
        if len(self.writers) > 1:
            return f"its channels go with those of {self.writers[1]}"
        if len(self.readers) != 1:
            return f"{len(self.readers)} layers read it"
        if self.reader_unit is None:
            return f"{self.readers[0]} is a transposed convolution"
        read = self.inputs[self.readers[0]]
        apart = torch.arange(self.channels).repeat_interleave(max(1, len(read) // self.channels))
        if len(self.outputs[self.name]) != self.channels or not torch.equal(read, apart):
            return f"{self.readers[0]} reads them beside others, or several of them as one"
        return None


def find_sites(
    model: nn.Module,
    units: list[ConvUnit],
    example_input: Tensor | None = None,
    *,
    streams: bool = False,
) -> tuple[list[PruneSite], dict[str, str]]:
    """Find the prunable convolutions.

    Args:
        model: the network.
        units: from `find_units`.
        example_input: `(N, C, H, W)`, for networks that `torch.fx` cannot trace.
        streams: channels that an addition brings together go together; else such layers keep their width.

    Returns:
        The sites in the execution order of their first readers; for every other convolution the reason why it keeps
        its width.

    Raises:
        InputError: the network cannot be traced in both modes, or nothing in it can be pruned.
    """
    graphs = trace_graphs(model, example_input)
    if len(graphs) < 2:
        raise InputError(
            f"this {type(model).__name__} cannot be traced{_without(example_input)}, and pruning must know what reads "
            "each channel; use method 'ghost', which needs no trace"
        )
    sites, reasons = sites_of(model, units, graphs, streams=streams)
    if not sites:
        first = next(iter(reasons.items()), ("it has", "no convolution"))
        raise InputError(f"nothing in this {type(model).__name__} can be pruned ({first[0]}: {first[1]})")
    return sites, reasons


def sites_of(
    model: nn.Module, units: list[ConvUnit], graphs: list[fx.Graph], *, streams: bool
) -> tuple[list[PruneSite], dict[str, str]]:
    """Find the prunable convolutions, if any, as `find_sites` does.

    Args:
        model: the network.
        units: from `find_units`.
        graphs: from `trace_graphs`, of both modes.
        streams: as for `find_sites`.
    """
    channels = follow_channels(model, graphs, units, streams=streams)
    by_name = {unit.name: unit for unit in units}
    order = {unit.name: place for place, unit in enumerate(units)}
    groups = [group for group in _groups(channels) if any((path, "out") in group.places for path in by_name)]
    sites = [_site(group, channels, by_name) for group in groups]
    sites = [site for site in sites if site.readers]
    # a reader is repaired on what reaches it
    sites.sort(key=lambda site: min(order.get(path, len(order)) for path in site.readers))
    reasons = {
        unit.name: channels.reasons.get(unit.name) or unit.reason or _reason(model, unit.name)
        for unit in units
    }
    for site in sites:
        for path in site.outputs:
            reasons.pop(path, None)
        reasons |= dict.fromkeys(site.gates, f"it scales the channels of {site.name}, and loses them with it")
    return sites, reasons


def _without(example_input: Tensor | None) -> str:
    return " without an example_input" if example_input is None else ", in training and evaluation"


def _reason(model: nn.Module, name: str) -> str:
    if getattr(model.get_submodule(name), "groups", 1) != 1:
        return "a grouped convolution: it keeps the channels that it is given"
    return "nothing that can lose channels reads it"


@dataclass
class _Group:
    """Numbers that every layer which has one of them has as often as the others."""

    numbers: np.ndarray
    places: list[Place]


def _groups(channels: Channels) -> list[_Group]:
    """Put numbers together that the same places have, each as often."""
    signatures: dict[int, list[tuple[Place, int]]] = defaultdict(list)
    for place, numbers in channels.places.items():
        for number, times in zip(*np.unique(numbers, return_counts=True), strict=True):
            if number != FIXED:
                signatures[int(number)].append((place, int(times)))
    groups: dict[tuple[tuple[Place, int], ...], list[int]] = defaultdict(list)
    for number, signature in signatures.items():
        groups[tuple(signature)].append(number)
    found = [
        _Group(np.sort(np.array(numbers)), [place for place, _ in signature])
        for signature, numbers in groups.items()
    ]
    # a convolution of whose channels only a part can go, or goes elsewhere, keeps all of them
    return _whole(found, channels)


def _whole(groups: list[_Group], channels: Channels) -> list[_Group]:
    while True:
        broken = [
            group
            for group in groups
            if any(
                not np.isin(channels.places[place], group.numbers).all()
                for place in group.places
                if place[1] == "out"
            )
        ]
        if not broken:
            return groups
        for group in broken:
            for path in (path for path, side in group.places if side == "out"):
                channels.reasons.setdefault(path, "only a part of its channels could go")
        groups = [group for group in groups if not any(group is one for one in broken)]


def _site(group: _Group, channels: Channels, by_name: dict[str, ConvUnit]) -> PruneSite:
    def chosen(place: Place) -> Tensor:
        """Return the index of each of a place's channels among the group's; -1 for others."""
        numbers = channels.places[place]
        index = np.searchsorted(group.numbers, numbers).clip(max=len(group.numbers) - 1)
        return torch.from_numpy(np.where(group.numbers[index] == numbers, index, -1))

    by_side = {
        side: {path: chosen((path, at)) for path, at in group.places if at == side}
        for side in ("out", "both", "in")
    }
    runs = {path: place for place, path in enumerate(by_name)}
    order = sorted(by_side["out"], key=lambda path: runs.get(path, len(runs)))
    outputs = {path: by_side["out"][path] for path in order}
    name = order[0]
    gates = {gate.layer for gate in channels.gates} & outputs.keys() - {name}
    # what linear layers make are factors; placements (`convert.shortcuts`) only go along, too
    gates |= outputs.keys() - by_name.keys()
    squeezes = {gate.squeeze for gate in channels.gates if gate.layer in outputs} & by_side["in"].keys()
    readers = [path for path in by_side["in"] if path not in squeezes]
    only = by_name.get(readers[0], _LINEAR) if len(readers) == 1 else None
    if only is not None and only.reason is not None:
        only = None
    return PruneSite(
        name,
        len(group.numbers),
        outputs,
        {path: by_name[path].norm for path in outputs if path in by_name},
        by_side["both"],
        by_side["in"],
        tuple(sorted(gates)),
        tuple(sorted(squeezes)),
        replace(only, name=readers[0]) if only is not None else None,
    )
