"""VGG-16 for CIFAR with batch norm, dense and ghosted (Tables 3, 4 and 5; Fig. 4 and 5).

Thirteen 3x3 convolutions and the head 512-512-10 with batch norm. The ghost network replaces all thirteen, the first
one too: the MACs of Tables 3 and 4 say so, although the authors once said otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ghostnet.models.convolution import PLAIN, ConvLayer, initialise_
from ghostnet.models.registry import check_in_chans, check_width, register

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class CifarVGG(nn.Module):
    """Conv-BN-ReLU stages, each followed by 2x2 max pooling: `(N, in_chans, 32, 32) -> (N, num_classes)`.

    Larger images are averaged over what five poolings leave of them; of 32x32 pixels one is left.
    """

    def __init__(self, *, num_classes: int, in_chans: int, width_mult: float, layer: ConvLayer) -> None:
        super().__init__()
        width = check_width(width_mult)
        layers: list[nn.Module] = []
        in_channels = check_in_chans(in_chans)
        for stage in _STAGES:
            for base in stage:
                out_channels = max(1, round(base * width))
                layers += layer(in_channels, out_channels)
                in_channels = out_channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(in_channels, in_channels),
            nn.BatchNorm1d(in_channels),
            nn.ReLU(inplace=True),
            nn.Linear(in_channels, num_classes),
        )
        initialise_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.classifier(torch.flatten(self.pool(self.features(images)), 1))


@register(family="cifar_vgg")
def vgg16(*, num_classes: int = 10, in_chans: int = 3, width_mult: float = 1.0) -> nn.Module:
    """VGG-16 for CIFAR, 15 M params, 313 M MACs (baseline of Tables 3 to 5)."""
    return CifarVGG(num_classes=num_classes, in_chans=in_chans, width_mult=width_mult, layer=PLAIN)


@register(family="cifar_vgg")
def ghost_vgg16(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    width_mult: float = 1.0,
    ratio: int = 2,
    cheap_kernel_size: int = 3,
    cheap_operation: str = "depthwise",
) -> nn.Module:
    """Ghost-VGG-16 for CIFAR (Tables 3 and 4): all thirteen convolutions are Ghost modules."""
    layer = ConvLayer(ratio, cheap_kernel_size, cheap_operation)
    return CifarVGG(num_classes=num_classes, in_chans=in_chans, width_mult=width_mult, layer=layer)
