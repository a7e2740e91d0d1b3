"""Decoupled fully connected attention of GhostNetV2 (Tang et al. 2022): a gate that sees along rows and columns.

Not in the GhostNet paper; an option for users who retrain.
"""

from __future__ import annotations

import warnings

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

_REACH = 5  # length of the row and of the column filter


def halved(maps: Tensor) -> Tensor:
    """Average over 2x2 pixels, an odd last row or column left out; a side of one pixel stays.

    `(N, C, H, W) -> (N, C, max(1, H // 2), max(1, W // 2))`.
    """
    if torch.jit.is_tracing():
        with warnings.catch_warnings():
            # it warns that the window stays what it is here: right for every size but one that gets down to one pixel
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            window = (2 if maps.shape[-2] > 1 else 1, 2 if maps.shape[-1] > 1 else 1)
    else:
        window = (min(2, maps.shape[-2]), min(2, maps.shape[-1]))
    return F.avg_pool2d(maps, window, window)


torch.fx.wrap("halved")  # its sizes are decided when it runs, which a symbolic trace cannot follow


class DFCAttention(nn.Module):
    """Gate in (0, 1) for every output map and pixel, computed at half resolution.

    `(N, C_in, H, W) -> (N, C_out, H, W)`: the mean of 2x2 pixels, a 1x1 convolution, a 1x5 and a 5x1 depthwise one,
    each with batch norm; sigmoid; nearest-neighbour enlargement.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the maps to be gated.

    Example:
        >>> DFCAttention(8, 16)(torch.zeros(2, 8, 7, 7)).shape
        torch.Size([2, 16, 7, 7])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        row, column = (1, _REACH), (_REACH, 1)
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, row, padding=(0, 2), groups=out_channels, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, column, padding=(2, 0), groups=out_channels, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the gate at the size of `x`."""
        gate = torch.sigmoid(self.layers(halved(x)))
        return F.interpolate(gate, size=(x.shape[-2], x.shape[-1]), mode="nearest")
