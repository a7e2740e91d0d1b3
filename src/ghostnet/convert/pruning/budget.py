"""How many MACs a network has with fewer channels at its sites, and which channels to drop to meet a target.

The counts come from `measure.profile`; each layer's MACs are proportional to its input and output channels, so
that every candidate need not be built. What comes of it is counted again by `prune`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ghostnet.checks import check_integer
from ghostnet.convert.pruning.sites import PruneSite
from ghostnet.convert.select import check_macs_share
from ghostnet.errors import InputError
from ghostnet.measure import profile

TOLERANCE = 0.01  # of the target; what is promised
_AIM = 0.003  # of the target; what the selection tries for


@dataclass
class _Side:
    """The channels that a layer reads or makes: how many, and how many of them for each channel of a site."""

    total: int
    each: dict[str, int] = field(default_factory=dict)
    full: dict[str, int] = field(default_factory=dict)  # channels of those sites

    def left(self, counts: Mapping[str, int]) -> int:
        return self.total - sum(each * (self.full[name] - counts[name]) for name, each in self.each.items())


@dataclass
class _Layer:
    """A layer's MACs, which are proportional to the channels that it reads and to those that it makes."""

    macs: int
    sides: list[_Side] = field(default_factory=list)

    @property
    def sites(self) -> set[str]:
        return {name for side in self.sides for name in side.each}

    def left(self, counts: Mapping[str, int]) -> int:
        """Return the MACs with so many channels kept at each site."""
        macs = self.macs
        for side in self.sides:
            macs = macs * side.left(counts) // side.total
        return macs


def _layers(sites: list[PruneSite], macs: Mapping[str, int]) -> list[_Layer]:
    """Return the layers with MACs that have channels of sites."""
    layers: dict[str, _Layer] = {}
    sides: dict[tuple[str, str], _Side] = {}
    for site in sites:
        # a depthwise convolution's MACs are proportional to its maps, of which it has one side
        for kind, places in (("out", site.outputs), ("both", site.followers), ("in", site.inputs)):
            for path, index in places.items():
                if not macs.get(path):
                    continue
                layer = layers.setdefault(path, _Layer(macs[path]))
                if (path, kind) not in sides:
                    sides[path, kind] = _Side(len(index))
                    layer.sides.append(sides[path, kind])
                side = sides[path, kind]
                side.each[site.name] = int((index >= 0).sum()) // site.channels
                side.full[site.name] = site.channels
    return list(layers.values())


class Budget:
    """Counts the MACs of a network for any number of kept channels.

    Args:
        model: the network before pruning.
        sites: where it can lose channels.
        input_size: `(C, H, W)`.
        macs: target share of the network's MACs, in (0, 1).
        multiple: each site keeps a multiple of so many channels, or all.

    Raises:
        InputError: `macs` is no such share, or cannot be reached with the fewest channels left at every site.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: list[PruneSite],
        input_size: tuple[int, ...],
        macs: float,
        *,
        multiple: int = 1,
    ) -> None:
        check_macs_share(macs)
        self.multiple = check_multiple(multiple)
        counted = profile(model, input_size)
        self.sites, self.full = sites, counted.macs
        self.target = macs * counted.macs
        self._layers = _layers(sites, {layer.name: layer.macs for layer in counted.layers})
        self._fixed = counted.macs - sum(layer.macs for layer in self._layers)
        self._of_site = {
            site.name: [place for place, layer in enumerate(self._layers) if site.name in layer.sites]
            for site in sites
        }
        least = self.macs({site.name: min(site.step(multiple), site.channels) for site in sites})
        if least > self.target:
            fewest = "one channel" if multiple == 1 else f"{multiple} channels"
            raise InputError(
                f"`macs` (={macs}) cannot be reached: with {fewest} left in each prunable layer the network "
                f"still has {least / self.full:.3f} of its MACs; ask for more"
            )

    def macs(self, counts: Mapping[str, int]) -> int:
        """Return the network's MACs with so many channels kept at each site."""
        return self._fixed + sum(layer.left(counts) for layer in self._layers)

    def _saved(self, counts: Mapping[str, int], name: str, block: int) -> int:
        """Return how many MACs go where a site keeps `block` channels less than `counts` says."""
        layers = [self._layers[place] for place in self._of_site[name]]
        after = {**counts, name: counts[name] - block}
        return sum(layer.left(counts) - layer.left(after) for layer in layers)

    def select(self, scores: Mapping[str, Tensor], *, target: float | None = None) -> dict[str, Tensor]:
        """Drop the channels of the lowest scores, whatever their layer, until the target is met.

        Args:
            scores: `(channels,)` for each site's name; every layer keeps its best channels.
            target: MACs; None takes the budget's.

        Returns:
            Sorted int64 indices of the channels that stay, for each site.
        """
        wanted = self.target if target is None else target
        counts = {site.name: site.channels for site in self.sites}
        dropped: dict[str, set[int]] = {site.name: set() for site in self.sites}
        order = self._blocks(scores)
        current = self.macs(counts)
        for _, place, block in order:
            if current <= wanted * (1 + _AIM):
                break
            name = self.sites[place].name
            after = current - self._saved(counts, name, len(block))
            if after < wanted * (1 - _AIM):  # too large a step: a smaller one further on may fit
                continue
            counts[name], current = counts[name] - len(block), after
            dropped[name].update(block)
        self._last_step(order, counts, dropped, current, wanted)
        return {
            site.name: torch.tensor([i for i in range(site.channels) if i not in dropped[site.name]])
            for site in self.sites
        }

    def _blocks(self, scores: Mapping[str, Tensor]) -> list[tuple[float, int, list[int]]]:
        """Return what can be dropped at once, the lowest mean score first: it, the place of its site, its channels.

        All but the first block of a site have as many as `multiple` wants, so that a multiple stays; one always does.
        """
        found = []
        for place, site in enumerate(self.sites):
            values = scores[site.name].tolist()
            ranked = sorted(range(site.channels), key=lambda index: (values[index], index))
            step = site.step(self.multiple)
            start = site.channels % step
            edges = [*([0] if start else []), *range(start, site.channels, step)]
            for one, end in itertools.pairwise(edges):
                block = ranked[one:end]
                found.append((sum(values[index] for index in block) / len(block), place, block))
        return sorted(found)

    def _last_step(
        self,
        order: list[tuple[float, int, list[int]]],
        counts: dict[str, int],
        dropped: dict[str, set[int]],
        current: int,
        wanted: float,
    ) -> None:
        """Where channels are too coarse for the aim: drop the lowest ones that bring the MACs nearer."""
        while current > wanted * (1 + _AIM):
            best = None
            for _, place, block in order:
                name = self.sites[place].name
                if block[0] in dropped[name]:
                    continue
                after = current - self._saved(counts, name, len(block))
                if abs(after - wanted) < abs(current - wanted) and (best is None or after > best[0]):
                    best = (after, name, block)
            if best is None:
                return
            current, name, block = best
            counts[name] -= len(block)
            dropped[name].update(block)

    def uniform(self, scores: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Drop about the same share of every layer's channels, each layer's lowest scores first.

        Args:
            scores: `(channels,)` for each site's name; None where only the numbers matter.
        """
        ranked = {}
        for site in self.sites:
            values = torch.arange(site.channels) if scores is None else scores[site.name].cpu()
            ranks = torch.empty(site.channels)
            ranks[torch.argsort(values, stable=True)] = (torch.arange(site.channels) + 0.5) / site.channels
            ranked[site.name] = ranks
        return self.select(ranked)


def check_multiple(multiple: object) -> int:
    """Return of how many channels layers keep a multiple.

    Raises:
        InputError: no integer of at least 1.
    """
    return check_integer("`multiple`", multiple, ending="; 8 suits CPUs")
