"""Values that are not built: a concatenation as its parts, and which channel of the parts each channel is.

Slices and reorderings of channels, and zero channels that fill a part up, are all in the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import fx

Layout = tuple[tuple[int, ...], tuple[int, ...] | None]


@dataclass(frozen=True)
class Lazy:
    """A value `(N, C, …)` that is not built: channel j is channel `index[j]` of the concatenated parts.

    Attributes:
        parts: the nodes that make the parts.
        channels: of each part.
        index: None for all channels in order.
    """

    parts: tuple[fx.Node, ...]
    channels: tuple[int, ...]
    index: tuple[int, ...] | None = None

    @property
    def layout(self) -> Layout:
        """What two values must share to be added part by part."""
        return self.channels, self.index

    @property
    def width(self) -> int:
        """Channels of the value."""
        return len(self.index) if self.index is not None else sum(self.channels)

    def positions(self) -> list[int]:
        """Return the index, written out."""
        return list(self.index) if self.index is not None else list(range(sum(self.channels)))

    def taking(self, chosen: Sequence[int]) -> Lazy:
        """Return the value of the channels `chosen` in that order, without parts that nothing of it comes from."""
        old = self.positions()
        wanted = [old[channel] for channel in chosen]
        parts, channels, moved, start, kept = [], [], {}, 0, 0
        for part, count in zip(self.parts, self.channels, strict=True):
            if any(start <= position < start + count for position in wanted):
                parts.append(part)
                channels.append(count)
                moved.update({start + offset: kept + offset for offset in range(count)})
                kept += count
            start += count
        return joined_in_order(parts, channels, [moved[position] for position in wanted])

    def members(self) -> list[list[int | None]]:
        """Return, for each channel of each part, which channel of the value it is (None: not part of it)."""
        of_position = {position: channel for channel, position in enumerate(self.positions())}
        start, found = 0, []
        for count in self.channels:
            found.append([of_position.get(start + offset) for offset in range(count)])
            start += count
        return found

    def through(self, parts: Iterable[fx.Node]) -> Lazy:
        """Return a value of the same layout in other nodes."""
        return Lazy(tuple(parts), self.channels, self.index)


def joined_in_order(parts: Sequence[fx.Node], channels: Sequence[int], index: Sequence[int]) -> Lazy:
    """Return a value whose index is None when it takes all channels in order."""
    plain = list(index) == list(range(sum(channels)))
    return Lazy(tuple(parts), tuple(channels), None if plain else tuple(index))
