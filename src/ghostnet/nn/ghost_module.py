"""Ghost module as GhostNet uses it: convolution, batch norm, activation, on both branches (§3.1, §3.2)."""

from __future__ import annotations

from typing import Any

from ghostnet.checks import check_integer
from ghostnet.nn.ghost_conv import GhostConv2d


class GhostModule(GhostConv2d):
    """A Ghost convolution without bias, with batch norm and activation after primary and cheap alike.

    `(N, C_in, H, W) -> (N, C_out, H', W')`; padding is `kernel_size // 2`, so odd kernels keep the size at
    stride 1.

    Args:
        in_channels: input channels, >= 1.
        out_channels: n, output channels, >= `ratio`.
        kernel_size: k of the primary convolution; GhostNet uses 1.
        ratio: s, an integer >= 1.
        cheap_kernel_size: d, odd.
        stride: stride of the primary convolution.
        activation: None (the projecting module of a bottleneck) or a name.

    Raises:
        InputError: an argument outside these rules.

    Example:
        >>> import torch
        >>> GhostModule(16, 24)(torch.zeros(2, 16, 8, 8)).shape
        torch.Size([2, 24, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        ratio: int = 2,
        cheap_kernel_size: int = 3,
        stride: int = 1,
        activation: str | None = "relu",
    ) -> None:
        check_integer("`kernel_size`", kernel_size, ending="; use GhostConv2d for pairs.")
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            kernel_size // 2,
            bias=False,
            ratio=ratio,
            cheap_kernel_size=cheap_kernel_size,
            norm="batch",
            activation=activation,
        )

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GhostConv2d:
        """Rebuild as the `GhostConv2d` that this module is: same parameters, same state dict keys."""
        return GhostConv2d.from_config(config)
