"""MobileNetV1 (Howard et al. 2017, Table 1): thirteen depthwise-separable convolutions ([21] in Table 7).

Channels are multiplied by the width factor and rounded to multiples of 8, as the authors' code does. Activations
are ReLU, as in the paper; the released TensorFlow weights were trained with ReLU6. timm has the full width only by
name, so the half is written here.
"""

from __future__ import annotations

from torch import nn

from ghostnet.models.mobile_network import IMAGENET, PooledClassifier, conv_norm
from ghostnet.models.registry import check_width, register

# (output channels, stride) of the pointwise halves
_LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))


def _mobilenet_v1(width_mult: float, num_classes: int) -> nn.Module:
    width = check_width(width_mult)

    def scaled(channels: int) -> int:
        return max(8, int(channels * width + 4) // 8 * 8)

    in_channels = scaled(32)
    layers: list[nn.Module] = [conv_norm(3, in_channels, 3, stride=2)]
    for channels, stride in _LAYERS:
        out_channels = scaled(channels)
        layers.append(conv_norm(in_channels, in_channels, 3, stride=stride, groups=in_channels))
        layers.append(conv_norm(in_channels, out_channels))
        in_channels = out_channels
    return PooledClassifier(nn.Sequential(*layers), in_channels, num_classes)


@register(family="mobilenet_v1", input_size=IMAGENET, num_classes=1000)
def mobilenetv1_050(*, num_classes: int = 1000) -> nn.Module:
    """MobileNetV1 0.5x, 1.3 M params, 149 M MACs."""
    return _mobilenet_v1(0.5, num_classes)


@register(family="mobilenet_v1", input_size=IMAGENET, num_classes=1000)
def mobilenetv1_100(*, num_classes: int = 1000, width_mult: float = 1.0) -> nn.Module:
    """MobileNetV1, 4.2 M params, 569 M MACs at width 1."""
    return _mobilenet_v1(width_mult, num_classes)
