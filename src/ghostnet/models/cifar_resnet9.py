"""ResNet-9 for CIFAR-10, the network of the DAWNBench speed runs (Page 2018), at half its width, dense and ghosted.

Wide layers at low resolution learn fast and leave a Ghost version that is faster in fact, which is why the trained
network in this package is one of these. Not in the paper.
"""

from __future__ import annotations

from torch import Tensor, nn

from ghostnet.models.convolution import PLAIN, ConvLayer, initialise_
from ghostnet.models.registry import check_in_chans, check_width, register

_LOGIT_SCALE = (
    0.125  # of the original; max-pooled sums are large, and unscaled logits blow up at useful rates
)


class Residual(nn.Module):
    """`x + body(x)`, shapes kept."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        """Add the body's output to its input."""
        return images + self.body(images)


class ResNet9(nn.Module):
    """Eight 3x3 convolutions and a linear layer: `(N, in_chans, 32, 32) -> (N, num_classes)`."""

    def __init__(self, *, num_classes: int, in_chans: int, width_mult: float, layer: ConvLayer) -> None:
        super().__init__()
        width = check_width(width_mult)
        narrow, low, middle, wide = (max(1, round(base * width)) for base in (64, 128, 256, 512))
        self.features = nn.Sequential(
            *PLAIN(check_in_chans(in_chans), narrow),
            *layer(narrow, low),
            nn.MaxPool2d(2),
            Residual(nn.Sequential(*layer(low, low), *layer(low, low))),
            *layer(low, middle),
            nn.MaxPool2d(2),
            *layer(middle, wide),
            nn.MaxPool2d(2),
            Residual(nn.Sequential(*layer(wide, wide), *layer(wide, wide))),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(wide, num_classes)
        initialise_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return _LOGIT_SCALE * self.classifier(self.features(images))


@register(family="cifar_resnet9")
def resnet9_050(*, num_classes: int = 10, in_chans: int = 3, width_mult: float = 0.5) -> nn.Module:
    """ResNet-9 for CIFAR-10 at half width, 1.6 M params, 96 M MACs; shipped trained."""
    return ResNet9(num_classes=num_classes, in_chans=in_chans, width_mult=width_mult, layer=PLAIN)


@register(family="cifar_resnet9")
def ghost_resnet9_050(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    width_mult: float = 0.5,
    ratio: int = 2,
    cheap_kernel_size: int = 3,
    cheap_operation: str = "depthwise",
) -> nn.Module:
    """Ghost-ResNet-9 at half width: every convolution but the first is a Ghost module."""
    layer = ConvLayer(ratio, cheap_kernel_size, cheap_operation)
    return ResNet9(num_classes=num_classes, in_chans=in_chans, width_mult=width_mult, layer=layer)
