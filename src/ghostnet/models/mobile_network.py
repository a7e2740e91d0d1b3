"""What the small ImageNet networks of Table 7 have in common: convolution-norm-activation, channel shuffle, head.

Left out: blocks. Each family's are in its own file.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ghostnet.models.convolution import initialise_

IMAGENET = (3, 224, 224)


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[..., nn.Module] | None = nn.ReLU,
    eps: float = 1e-5,
) -> nn.Sequential:
    """Return convolution without bias, batch norm, activation: `(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)`.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        kernel_size: odd side of the kernel; the padding keeps the size at stride 1.
        stride: of the convolution.
        groups: `in_channels` gives a depthwise convolution.
        activation: class of the activation, or None.
        eps: of the batch norm.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels, eps=eps),
    ]
    if activation is not None:
        layers.append(activation(inplace=True))
    return nn.Sequential(*layers)


class ChannelShuffle(nn.Module):
    """Deal out the channels of `groups` groups in turn (ShuffleNet, section 3.1).

    `(N, C, H, W) -> (N, C, H, W)`: with n = C / groups, output channel `i * groups + k` is input channel `k * n + i`.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, images: Tensor) -> Tensor:
        """Return the shuffled channels."""
        batch, channels, height, width = images.shape
        dealt = images.reshape(batch, self.groups, channels // self.groups, height, width).transpose(1, 2)
        return dealt.reshape(batch, channels, height, width)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class PooledClassifier(nn.Module):
    """Features, global average pooling, dropout, linear classifier: `(N, 3, H, W) -> (N, num_classes)`.

    Args:
        features: `(N, 3, H, W) -> (N, channels, H / 32, W / 32)`.
        channels: output channels of `features`.
        num_classes: classes.
        dropout: probability, before the classifier.
    """

    def __init__(self, features: nn.Module, channels: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)
        initialise_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.classifier(self.dropout(torch.flatten(self.pool(self.features(images)), 1)))
