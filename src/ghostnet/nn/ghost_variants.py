"""Ghost modules of GhostNet's successors: gated (V2), with training branches (V3), added instead of joined (RepGhost).

All have the interface of `GhostModule` with a 1x1 primary convolution, so that a bottleneck takes any of them. Not in
the GhostNet paper.
"""

from __future__ import annotations

from torch import Tensor, nn

from ghostnet.nn.cheap_operations import check_cheap_kernel_size
from ghostnet.nn.concat import concat_channels
from ghostnet.nn.dfc_attention import DFCAttention
from ghostnet.nn.ghost_conv import intrinsic_channel_count
from ghostnet.nn.reparam import ReparamConv2d


class GatedModule(nn.Module):
    """Any module of unchanged resolution under DFC attention: `body(x) * attention(x)` (GhostNetV2).

    Args:
        body: `(N, in_channels, H, W) -> (N, out_channels, H, W)`.
        in_channels: channels of the input.
        out_channels: channels of the body's output.
    """

    def __init__(self, body: nn.Module, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = body
        self.attention = DFCAttention(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated maps."""
        return self.body(x) * self.attention(x)


class ReparamGhostModule(nn.Module):
    """A 1x1 Ghost module with parallel branches in training (GhostNetV3); `fuse_reparameterised` makes it a plain one.

    `(N, C_in, H, W) -> (N, C_out, H, W)`. The cheap operation's extra branches (1x1 and identity) need `ratio` 2,
    which makes one ghost map of each intrinsic map; other ratios leave the identity out.

    Args:
        in_channels: input channels, >= 1.
        out_channels: output channels, >= `ratio`.
        ratio: s, an integer >= 2.
        cheap_kernel_size: d, odd.
        branches: parallel convolutions of each kind.
        activation: put ReLU behind both halves.

    Raises:
        InputError: an argument outside these rules.

    Example:
        >>> import torch
        >>> ReparamGhostModule(8, 16)(torch.zeros(2, 8, 5, 5)).shape
        torch.Size([2, 16, 5, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        ratio: int = 2,
        cheap_kernel_size: int = 3,
        branches: int = 3,
        activation: bool = True,
    ) -> None:
        super().__init__()
        check_cheap_kernel_size(cheap_kernel_size)
        intrinsic = intrinsic_channel_count(out_channels, ratio=ratio)
        made = intrinsic * (ratio - 1)
        self.out_channels = out_channels
        self.primary = ReparamConv2d(in_channels, intrinsic, 1, branches=branches)
        self.primary_activation = nn.ReLU() if activation else nn.Identity()
        self.cheap: nn.Module | None = None
        if made:
            self.cheap = ReparamConv2d(
                intrinsic,
                made,
                cheap_kernel_size,
                groups=intrinsic,
                branches=branches,
                scale=True,
                skip=made == intrinsic,
            )
        self.cheap_activation = nn.ReLU() if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return `(N, out_channels, H, W)`."""
        maps = self.primary_activation(self.primary(x))
        if self.cheap is None:
            return maps
        ghosts = self.cheap_activation(self.cheap(maps))
        return concat_channels(maps, ghosts)[:, : self.out_channels]


class AddGhostModule(nn.Module):
    """RepGhost module: the ghost maps are added to the intrinsic maps, and after fusion nothing is left to add or join.

    `(N, C_in, H, W) -> (N, C_out, H, W)`: `y = relu(norm(conv_1x1(x)))`, output `relu(norm(depthwise(y)) + norm(y))`.
    A concatenation costs no MACs but memory traffic; the sum fuses into the depthwise convolution.

    Args:
        in_channels: input channels, >= 1.
        out_channels: output channels, >= 1.
        cheap_kernel_size: d, odd.
        activation: put ReLU behind both steps.

    Raises:
        InputError: an argument outside these rules.

    Example:
        >>> import torch
        >>> AddGhostModule(8, 16)(torch.zeros(2, 8, 5, 5)).shape
        torch.Size([2, 16, 5, 5])
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, cheap_kernel_size: int = 3, activation: bool = True
    ) -> None:
        super().__init__()
        check_cheap_kernel_size(cheap_kernel_size)
        self.primary = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU() if activation else nn.Identity(),
        )
        self.cheap = ReparamConv2d(
            out_channels, out_channels, cheap_kernel_size, groups=out_channels, skip=True
        )
        self.activation = nn.ReLU() if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return `(N, out_channels, H, W)`."""
        return self.activation(self.cheap(self.primary(x)))
