"""A shortcut without parameters that sets channels anywhere among channels of zeros: `ChannelPlacement`.

CIFAR-10's ResNets take every second pixel where a stage begins and pad the channels with zeros, which ties the order of
channels in both stages to each other. This says for each channel of the second stage which one of the first it is, as
weights of a 1x1 convolution, which every runtime computes in its own layout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ghostnet.checks import is_integer
from ghostnet.errors import InputError

_KEYS = ("in_channels", "out_channels", "stride")


class ChannelPlacement(nn.Conv2d):
    """Channels set at places of a wider map: `(N, C, H, W) -> (N, C', ceil(H / stride), ceil(W / stride))`.

    A 1x1 convolution whose weight `(C', C, 1, 1)` holds zeros and ones and is a buffer: it is saved and moved with the
    network, and never trained. It counts as what it stands for, without parameters and MACs. A new one sets channel k
    at place k.

    Args:
        in_channels: C.
        out_channels: C'.
        stride: of the pixels that are taken, down and across alike.

    Raises:
        InputError: a number that is no integer of at least 1.

    Example:
        >>> placement = ChannelPlacement.at([-1, 1, 0], in_channels=2)
        >>> placement(torch.tensor([5.0, 7.0]).view(1, 2, 1, 1)).flatten().tolist()
        [0.0, 7.0, 5.0]
    """

    only_moves_values = True  # `measure.profile` asks

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        for name, value in zip(_KEYS, (in_channels, out_channels, stride), strict=True):
            if not is_integer(value) or value < 1:
                raise InputError(
                    f"`{name}` (={value!r}) of a ChannelPlacement must be an integer of at least 1"
                )
        super().__init__(in_channels, out_channels, 1, stride, bias=False)
        del self.weight
        self.register_buffer("weight", torch.eye(out_channels, in_channels)[:, :, None, None])

    def reset_parameters(self) -> None:
        """Draw nothing: there is nothing to train."""

    @classmethod
    def at(cls, places: list[int], *, in_channels: int, stride: int = 1) -> ChannelPlacement:
        """Return one that says for each channel that it makes which one of those that it is given it is.

        Args:
            places: numbers from 0 to `in_channels` - 1; -1 for a channel of zeros.
            in_channels: C.
            stride: as for the class.

        Raises:
            InputError: a place that does not exist.
        """
        if any(not is_integer(place) or not -1 <= place < in_channels for place in places):
            raise InputError(f"places {places} must be integers from -1 (zeros) to {in_channels - 1}")
        placement = cls(in_channels, len(places), stride)
        wanted = torch.tensor(places)[:, None] == torch.arange(in_channels)
        placement.weight.copy_(wanted[:, :, None, None])
        return placement

    def config(self) -> dict[str, Any]:
        """Return what `from_config` takes: a record of an edit."""
        return {"in_channels": self.in_channels, "out_channels": self.out_channels, "stride": self.stride[0]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ChannelPlacement:
        """Build one of these sizes; its places come with the weights.

        Raises:
            InputError: other keys, or values that the class does not take.
        """
        if sorted(config) != sorted(_KEYS):
            raise InputError(f"the config of a ChannelPlacement has {list(_KEYS)}, not {sorted(config)}")
        return cls(**config)
