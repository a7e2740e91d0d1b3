"""The 3x3 convolution that the CIFAR networks are built of: plain, or a Ghost module in its place.

The ghost networks of Tables 3 to 5 replace convolutions in place and keep the batch norm and activation that follow,
so a network is described once and the layer is chosen here.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ghostnet.nn import GhostConv2d


@dataclass(frozen=True)
class ConvLayer:
    """Builds 3x3 convolutions without bias.

    Attributes:
        ratio: s of eq. 3; 1 builds plain convolutions.
        cheap_kernel_size: d, the side of the depthwise kernel.
        cheap_operation: name of the cheap operation.
    """

    ratio: int = 1
    cheap_kernel_size: int = 3
    cheap_operation: str = "depthwise"

    def __call__(self, in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
        """Return the layer: `(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)`."""
        if self.ratio == 1:
            return nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        return GhostConv2d(
            in_channels,
            out_channels,
            3,
            stride,
            1,
            bias=False,
            ratio=self.ratio,
            cheap_kernel_size=self.cheap_kernel_size,
            cheap_operation=self.cheap_operation,
        )


PLAIN = ConvLayer()


def initialise_(model: nn.Module) -> None:
    """Draw convolution weights by He's rule (fan out), as the original ResNet does; batch norms keep 1 and 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
