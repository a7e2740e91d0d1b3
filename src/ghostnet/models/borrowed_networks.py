"""Peers of Table 7 that torchvision and timm hold: MobileNetV2, MobileNetV3, MnasNet-A1.

The libraries are imported when a network is built. Module names are theirs, so that their weights fit.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ghostnet.checks import check_integer
from ghostnet.models.mobile_network import IMAGENET
from ghostnet.models.registry import check_width, register


def _mobilenet_v2(width_mult: float, num_classes: int, divisor: int) -> nn.Module:
    from torchvision.models import MobileNetV2

    check_integer("`divisor`", divisor, ending="; MobileNetV2 uses 8")
    return MobileNetV2(num_classes=num_classes, width_mult=check_width(width_mult), round_nearest=divisor)


@register(family="mobilenet_v2", input_size=IMAGENET, num_classes=1000)
def mobilenetv2_035(*, num_classes: int = 1000) -> nn.Module:
    """MobileNetV2 0.35x (torchvision's), 1.7 M params, 59 M MACs."""
    return _mobilenet_v2(0.35, num_classes, 8)


@register(family="mobilenet_v2", input_size=IMAGENET, num_classes=1000)
def mobilenetv2_060(*, num_classes: int = 1000, divisor: int = 8) -> nn.Module:
    """MobileNetV2 0.6x (torchvision's), 2.2 M params, 151 M MACs; channels are multiples of `divisor`."""
    return _mobilenet_v2(0.6, num_classes, divisor)


@register(family="mobilenet_v2", input_size=IMAGENET, num_classes=1000)
def mobilenetv2_100(*, num_classes: int = 1000, width_mult: float = 1.0) -> nn.Module:
    """MobileNetV2 (torchvision's), 3.5 M params, 301 M MACs at width 1."""
    return _mobilenet_v2(width_mult, num_classes, 8)


def _timm(name: str, num_classes: int) -> Any:  # a module, with attributes of timm's own
    import timm

    return timm.create_model(name, pretrained=False, num_classes=num_classes)


@register(family="mobilenet_v3", input_size=IMAGENET, num_classes=1000)
def mobilenetv3_small_075(*, num_classes: int = 1000, head_channels: int = 1024) -> nn.Module:
    """MobileNetV3-Small 0.75x (timm's), 2.0 M params, 43 M MACs; 2.4 M with the first paper's head of 1280.

    Args:
        num_classes: classes.
        head_channels: width of the last hidden layer, >= 1. The published weights have 1024; the arXiv version that
            prints 2.4 M parameters has 1280.

    Raises:
        InputError: `head_channels` is not an integer >= 1.
    """
    check_integer("`head_channels`", head_channels, ending="; the published weights have 1024")
    model = _timm("mobilenetv3_small_075", num_classes)
    if head_channels != model.conv_head.out_channels:
        model.conv_head = nn.Conv2d(model.conv_head.in_channels, head_channels, 1)
        model.classifier = nn.Linear(head_channels, num_classes)
        model.head_hidden_size = head_channels
    return model


@register(family="mobilenet_v3", input_size=IMAGENET, num_classes=1000)
def mobilenetv3_large_075(*, num_classes: int = 1000) -> nn.Module:
    """MobileNetV3-Large 0.75x (timm's), 4.0 M params, 155 M MACs."""
    return _timm("mobilenetv3_large_075", num_classes)


@register(family="mobilenet_v3", input_size=IMAGENET, num_classes=1000)
def mobilenetv3_large_100(*, num_classes: int = 1000) -> nn.Module:
    """MobileNetV3-Large (timm's), 5.5 M params, 217 M MACs."""
    return _timm("mobilenetv3_large_100", num_classes)


@register(family="mnasnet", input_size=IMAGENET, num_classes=1000)
def mnasnet_a1(*, num_classes: int = 1000) -> nn.Module:
    """MnasNet-A1 (timm's semnasnet_100), 3.9 M params, 312 M MACs."""
    return _timm("semnasnet_100", num_classes)
