"""ShuffleNetV1 (Zhang et al. 2018, Table 1): grouped 1x1 convolutions with a channel shuffle between ([61] in Table 7).

Channels per stage and group number as the paper's Table 1; the stem is 24, and for 0.5x with eight groups 16, as in
the authors' released network (12 would not divide into eight groups). The very first 1x1 convolution is not grouped.
The paper leaves open which half of a strided unit's concatenation comes first; here it is the convolutions' (the
authors' code puts the pooled half first). The counts are the same, the groups are not: their weights do not fit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ghostnet.models.mobile_network import IMAGENET, ChannelShuffle, PooledClassifier, conv_norm
from ghostnet.models.registry import register

_UNITS = (4, 8, 4)


class ShuffleUnit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1, around a shortcut (Fig. 2 b and c).

    `(N, C_in, H, W) -> (N, C_out, H, W)`, C_in = C_out, with a sum; or, strided, `-> (N, C_out, H / 2, W / 2)` with the
    average-pooled input concatenated.
    """

    def __init__(self, in_channels: int, out_channels: int, *, groups: int, first_groups: int) -> None:
        super().__init__()
        self.strided = in_channels != out_channels
        hidden = out_channels // 4
        stride = 2 if self.strided else 1
        self.reduce = conv_norm(in_channels, hidden, groups=first_groups)
        self.shuffle = ChannelShuffle(groups)
        self.depthwise = conv_norm(hidden, hidden, 3, stride=stride, groups=hidden, activation=None)
        new_channels = out_channels - in_channels if self.strided else out_channels
        self.expand = conv_norm(hidden, new_channels, groups=groups, activation=None)
        self.shortcut: nn.Module = nn.AvgPool2d(3, 2, 1) if self.strided else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        """Return the unit's output."""
        out = self.expand(self.depthwise(self.shuffle(self.reduce(images))))
        shortcut = self.shortcut(images)
        return self.relu(torch.cat((out, shortcut), 1) if self.strided else out + shortcut)


def _shufflenet_v1(stem: int, first_stage: int, groups: int, num_classes: int) -> nn.Module:
    layers: list[nn.Module] = [conv_norm(3, stem, 3, stride=2), nn.MaxPool2d(3, 2, 1)]
    in_channels = stem
    for stage, units in enumerate(_UNITS):
        out_channels = first_stage * 2**stage
        for _ in range(units):
            first_groups = 1 if len(layers) == 2 else groups
            layers.append(ShuffleUnit(in_channels, out_channels, groups=groups, first_groups=first_groups))
            in_channels = out_channels
    return PooledClassifier(nn.Sequential(*layers), in_channels, num_classes)


@register(family="shufflenet_v1", input_size=IMAGENET, num_classes=1000)
def shufflenetv1_g8_x0_5(*, num_classes: int = 1000) -> nn.Module:
    """ShuffleNetV1 0.5x with 8 groups, 1.0 M params, 40 M MACs."""
    return _shufflenet_v1(16, 192, 8, num_classes)


@register(family="shufflenet_v1", input_size=IMAGENET, num_classes=1000)
def shufflenetv1_g3_x1_0(*, num_classes: int = 1000) -> nn.Module:
    """ShuffleNetV1 1.0x with 3 groups, 1.9 M params, 137 M MACs."""
    return _shufflenet_v1(24, 240, 3, num_classes)
