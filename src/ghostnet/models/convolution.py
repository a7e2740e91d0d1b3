"""What the plain networks are built of: a convolution with batch norm and, mostly, ReLU; or a Ghost module.

A Ghost module normalises and activates inside (its cheap operation works on normalised maps), so what followed the
convolution becomes an identity: a network is described once and keeps its module names either way.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ghostnet.nn import GhostConv2d


@dataclass(frozen=True)
class ConvLayer:
    """Builds convolution, batch norm and activation, without bias.

    Attributes:
        ratio: s of eq. 3; 1 builds plain convolutions.
        cheap_kernel_size: d, the side of the depthwise kernel.
        cheap_operation: name of the cheap operation.
    """

    ratio: int = 1
    cheap_kernel_size: int = 3
    cheap_operation: str = "depthwise"

    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        kernel_size: int = 3,
        activation: bool = True,
    ) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Return the three modules: `(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)`.

        Args:
            in_channels: input channels.
            out_channels: output channels.
            stride: of the (primary) convolution.
            kernel_size: of the (primary) convolution, odd; its padding keeps the size at stride 1.
            activation: False leaves the ReLU out.
        """
        if self.ratio == 1:
            plain = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
            last = nn.ReLU(inplace=True) if activation else nn.Identity()
            return plain, nn.BatchNorm2d(out_channels), last
        ghost = GhostConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            kernel_size // 2,
            bias=False,
            ratio=self.ratio,
            cheap_kernel_size=self.cheap_kernel_size,
            cheap_operation=self.cheap_operation,
            norm="batch",
            activation="relu" if activation else None,
        )
        return ghost, nn.Identity(), nn.Identity()


PLAIN = ConvLayer()


def initialise_(model: nn.Module, *, classifier_std: float | None = None) -> None:
    """Draw convolution weights by He's rule (fan out), as the original ResNet does; batch norms keep 1 and 0.

    Args:
        model: changed in place.
        classifier_std: of the normal that weights of linear layers are drawn from, their biases being 0; None leaves
            these layers as they are.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and classifier_std is not None:
            nn.init.normal_(module.weight, std=classifier_std)
            nn.init.zeros_(module.bias)
