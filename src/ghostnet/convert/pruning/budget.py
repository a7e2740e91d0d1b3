"""How many MACs a network has with fewer channels at its sites, and which channels to drop to meet a target.

The counts come from `measure.profile`; each layer's MACs are proportional to its input and output channels, so
that every candidate need not be built. What comes of it is counted again by `prune`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ghostnet.convert.pruning.sites import PruneSite
from ghostnet.errors import InputError
from ghostnet.measure import profile
from ghostnet.nn.narrow import is_depthwise

TOLERANCE = 0.01  # of the target; what is promised
_AIM = 0.003  # of the target; what the selection tries for


class Budget:
    """Counts the MACs of a network for any number of kept channels.

    Args:
        model: the network before pruning.
        sites: where it can lose channels.
        input_size: `(C, H, W)`.
        macs: target share of the network's MACs, in (0, 1).

    Raises:
        InputError: `macs` is no such share, or cannot be reached with one channel left at every site.
    """

    def __init__(
        self, model: nn.Module, sites: list[PruneSite], input_size: tuple[int, ...], macs: float
    ) -> None:
        if isinstance(macs, bool) or not isinstance(macs, (int, float)) or not 0 < macs < 1:
            raise InputError(f"`macs` (={macs!r}) must be a share of the network's MACs above 0 and below 1")
        counted = profile(model, input_size)
        self.sites, self.full = sites, counted.macs
        self.target = macs * counted.macs
        by_name = {layer.name: layer.macs for layer in counted.layers}
        writers = {site.name: site for site in sites}
        carriers = {path: site for site in sites for path in site.followers}
        readers = {site.reader: site for site in sites}
        self._layers: list[tuple[int, list[PruneSite]]] = []
        for path in {*writers, *carriers, *readers}:
            touched = [table[path] for table in (writers, readers) if path in table]
            if path in carriers:
                touched = [carriers[path]] if is_depthwise(model.get_submodule(path)) else []
            self._layers.append((by_name.get(path, 0), touched))
        self._fixed = counted.macs - sum(macs for macs, _ in self._layers)
        least = self.macs({site.name: 1 for site in sites})
        if least > self.target:
            raise InputError(
                f"`macs` (={macs}) cannot be reached: with one channel left in each prunable layer the network "
                f"still has {least / self.full:.3f} of its MACs; ask for more"
            )

    def macs(self, counts: Mapping[str, int]) -> int:
        """Return the network's MACs with so many channels kept at each site."""
        total = self._fixed
        for macs, touched in self._layers:
            for site in touched:
                macs = macs * counts[site.name] // site.channels
            total += macs
        return total

    def select(self, scores: Mapping[str, Tensor], *, target: float | None = None) -> dict[str, Tensor]:
        """Drop the channels of the lowest scores, whatever their layer, until the target is met.

        Args:
            scores: `(channels,)` for each site's name; every layer keeps its best channel.
            target: MACs; None takes the budget's.

        Returns:
            Sorted int64 indices of the channels that stay, for each site.
        """
        wanted = self.target if target is None else target
        counts = {site.name: site.channels for site in self.sites}
        dropped: dict[str, list[int]] = {site.name: [] for site in self.sites}
        order = sorted(
            (float(score), place, index)
            for place, site in enumerate(self.sites)
            for index, score in enumerate(scores[site.name].tolist())
        )
        current = self.macs(counts)
        for _, place, index in order:
            if current <= wanted * (1 + _AIM):
                break
            name = self.sites[place].name
            if counts[name] == 1:
                continue
            after = self.macs({**counts, name: counts[name] - 1})
            if after < wanted * (1 - _AIM):  # too large a step: a smaller channel further on may fit
                continue
            counts[name], current = counts[name] - 1, after
            dropped[name].append(index)
        self._last_step(order, counts, dropped, current, wanted)
        return {
            site.name: torch.tensor([i for i in range(site.channels) if i not in set(dropped[site.name])])
            for site in self.sites
        }

    def _last_step(
        self, order: list, counts: dict[str, int], dropped: dict[str, list[int]], current: int, wanted: float
    ) -> None:
        """Where channels are too coarse for the aim: drop the lowest one that brings the MACs nearer."""
        while current > wanted * (1 + _AIM):
            best = None
            for _, place, index in order:
                name = self.sites[place].name
                if index in dropped[name] or counts[name] == 1:
                    continue
                after = self.macs({**counts, name: counts[name] - 1})
                if abs(after - wanted) < abs(current - wanted) and (best is None or after > best[0]):
                    best = (after, name, index)
            if best is None:
                return
            current, name, index = best
            counts[name] -= 1
            dropped[name].append(index)

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
