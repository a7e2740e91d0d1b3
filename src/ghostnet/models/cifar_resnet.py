"""ResNet-20 and ResNet-56 for CIFAR (He et al. 2016, section 4.2), dense and ghosted (Table 5).

Shortcuts are parameter-free (option A: every second pixel, missing channels are zero). The first convolution of the
ghost networks stays dense: with d = 3 that gives 0.438 M params and 65.3 M MACs, with d = 1 the paper's 0.43 / 63.
Left out: projection shortcuts and bottlenecks, which the CIFAR networks do not have.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet.models.convolution import PLAIN, ConvLayer, initialise_
from ghostnet.models.registry import check_in_chans, check_width, register


class PaddedShortcut(nn.Module):
    """Parameter-free shortcut: `(N, C, H, W) -> (N, C', H / 2, W / 2)`, new channels zero on both sides."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, images: Tensor) -> Tensor:
        """Take every second pixel and pad the channels."""
        # a pool of one pixel is images[:, :, ::2, ::2], and its gradient keeps the memory format: 5 % of a step
        return F.pad(F.avg_pool2d(images, 1, 2), (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut: `(N, C, H, W) -> (N, C', H / stride, W / stride)`."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, layer: ConvLayer) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = layer(in_channels, out_channels, stride)
        self.conv2, self.bn2, _ = layer(out_channels, out_channels, activation=False)
        same = stride == 1 and in_channels == out_channels
        self.shortcut: nn.Module = nn.Identity() if same else PaddedShortcut(in_channels, out_channels)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's output."""
        out = self.relu1(self.bn1(self.conv1(images)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.shortcut(images))


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int, layer: ConvLayer) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride, layer)
    return nn.Sequential(
        first, *(BasicBlock(out_channels, out_channels, 1, layer) for _ in range(blocks - 1))
    )


class CifarResNet(nn.Module):
    """Three stages of `blocks` basic blocks with 16, 32 and 64 channels: `(N, in_chans, H, W) -> (N, num_classes)`."""

    def __init__(
        self, blocks: int, *, num_classes: int, in_chans: int, width_mult: float, layer: ConvLayer
    ) -> None:
        super().__init__()
        width = check_width(width_mult)
        channels = [max(1, round(base * width)) for base in (16, 32, 64)]
        self.conv1, self.bn1, self.relu = PLAIN(check_in_chans(in_chans), channels[0])
        self.layer1 = _stage(channels[0], channels[0], blocks, 1, layer)
        self.layer2 = _stage(channels[0], channels[1], blocks, 2, layer)
        self.layer3 = _stage(channels[1], channels[2], blocks, 2, layer)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels[2], num_classes)
        initialise_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        out = self.relu(self.bn1(self.conv1(images)))
        for stage in (self.layer1, self.layer2, self.layer3):
            out = stage(out)
        return self.linear(torch.flatten(self.pool(out), 1))


@register(family="cifar_resnet")
def resnet20(*, num_classes: int = 10, in_chans: int = 3, width_mult: float = 1.0) -> nn.Module:
    """ResNet-20 for CIFAR, 0.27 M params, 41 M MACs."""
    return CifarResNet(3, num_classes=num_classes, in_chans=in_chans, width_mult=width_mult, layer=PLAIN)


@register(family="cifar_resnet")
def resnet56(*, num_classes: int = 10, in_chans: int = 3, width_mult: float = 1.0) -> nn.Module:
    """ResNet-56 for CIFAR, 0.85 M params, 125 M MACs (baseline of Table 5)."""
    return CifarResNet(9, num_classes=num_classes, in_chans=in_chans, width_mult=width_mult, layer=PLAIN)


@register(family="cifar_resnet")
def ghost_resnet20(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    width_mult: float = 1.0,
    ratio: int = 2,
    cheap_kernel_size: int = 3,
    cheap_operation: str = "depthwise",
) -> nn.Module:
    """Ghost-ResNet-20 for CIFAR: every convolution but the first is a Ghost module."""
    layer = ConvLayer(ratio, cheap_kernel_size, cheap_operation)
    return CifarResNet(3, num_classes=num_classes, in_chans=in_chans, width_mult=width_mult, layer=layer)


@register(family="cifar_resnet")
def ghost_resnet56(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    width_mult: float = 1.0,
    ratio: int = 2,
    cheap_kernel_size: int = 3,
    cheap_operation: str = "depthwise",
) -> nn.Module:
    """Ghost-ResNet-56 for CIFAR (Table 5): every convolution but the first is a Ghost module."""
    layer = ConvLayer(ratio, cheap_kernel_size, cheap_operation)
    return CifarResNet(9, num_classes=num_classes, in_chans=in_chans, width_mult=width_mult, layer=layer)
