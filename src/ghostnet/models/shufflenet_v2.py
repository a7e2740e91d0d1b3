"""ShuffleNetV2 (Ma et al. 2018, Table 5): channel split, no groups, shuffle after each unit ([40] in Table 7).

Follows the authors' released network where it differs from torchvision's: the first unit of a stage keeps all input
channels on its shortcut and gives the other branch the rest, where torchvision halves both. Only the first stage of
1.0x and 1.5x differs; it is what makes their counts the paper's (145.8 against torchvision's 144.9 M MACs). 0.5x is the
same network as torchvision's. Units shuffle at their end, as the paper's Fig. 3 draws them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ghostnet.models.mobile_network import IMAGENET, ChannelShuffle, PooledClassifier, conv_norm
from ghostnet.models.registry import register

_STEM, _HEAD, _UNITS = 24, 1024, (4, 8, 4)


class ShuffleUnitV2(nn.Module):
    """Half of the channels (strided: all) pass 1x1, depthwise 3x3, 1x1; then both parts are joined and shuffled.

    `(N, C_in, H, W) -> (N, C_out, H, W)`, C_in = C_out, or, strided, `-> (N, C_out, H / 2, W / 2)`.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        entering = in_channels if stride == 2 else in_channels // 2
        hidden = out_channels // 2
        self.shortcut: nn.Module | None = None
        if stride == 2:
            depthwise = conv_norm(in_channels, in_channels, 3, stride=2, groups=in_channels, activation=None)
            self.shortcut = nn.Sequential(depthwise, conv_norm(in_channels, in_channels))
        self.branch = nn.Sequential(
            conv_norm(entering, hidden),
            conv_norm(hidden, hidden, 3, stride=stride, groups=hidden, activation=None),
            conv_norm(hidden, out_channels - entering),
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, images: Tensor) -> Tensor:
        """Return the unit's output."""
        if self.shortcut is not None:
            kept, entering = self.shortcut(images), images
        else:
            kept, entering = images.chunk(2, 1)
        return self.shuffle(torch.cat((kept, self.branch(entering)), 1))


def _shufflenet_v2(first_stage: int, num_classes: int) -> nn.Module:
    layers: list[nn.Module] = [conv_norm(3, _STEM, 3, stride=2), nn.MaxPool2d(3, 2, 1)]
    in_channels = _STEM
    for stage, units in enumerate(_UNITS):
        out_channels = first_stage * 2**stage
        for unit in range(units):
            layers.append(ShuffleUnitV2(in_channels, out_channels, stride=2 if unit == 0 else 1))
            in_channels = out_channels
    layers.append(conv_norm(in_channels, _HEAD))
    return PooledClassifier(nn.Sequential(*layers), _HEAD, num_classes)


@register(family="shufflenet_v2", input_size=IMAGENET, num_classes=1000)
def shufflenetv2_x0_5(*, num_classes: int = 1000) -> nn.Module:
    """ShuffleNetV2 0.5x, 1.4 M params, 40 M MACs."""
    return _shufflenet_v2(48, num_classes)


@register(family="shufflenet_v2", input_size=IMAGENET, num_classes=1000)
def shufflenetv2_x1_0(*, num_classes: int = 1000) -> nn.Module:
    """ShuffleNetV2 1.0x, 2.3 M params, 146 M MACs."""
    return _shufflenet_v2(116, num_classes)


@register(family="shufflenet_v2", input_size=IMAGENET, num_classes=1000)
def shufflenetv2_x1_5(*, num_classes: int = 1000) -> nn.Module:
    """ShuffleNetV2 1.5x, 3.5 M params, 299 M MACs."""
    return _shufflenet_v2(176, num_classes)
