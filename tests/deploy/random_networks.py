"""Random networks for parity tests: plain stacks with hard layers, and ghostified networks of torchvision."""

import random

import torch
import torchvision.models
from torch import nn

from ghostnet.convert import ghostify
from ghostnet.nn import GhostConv2d, SqueezeExcite

ZOO = (
    "resnet18",
    "mobilenet_v2",
    "squeezenet1_1",
    "shufflenet_v2_x0_5",
    "mnasnet0_5",
    "densenet121",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnext50_32x4d",
    "googlenet",
)
ZOO_SIZE = (3, 64, 64)


def randomise_statistics_(model: nn.Module, seed: int) -> nn.Module:
    """Give every batch norm statistics and weights that a fold could get wrong."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            size = module.num_features
            module.running_mean.copy_(0.3 * torch.randn(size, generator=generator))
            module.running_var.copy_(torch.rand(size, generator=generator) + 0.5)
            module.weight.data = torch.rand(size, generator=generator) + 0.5
            module.bias.data = 0.3 * torch.randn(size, generator=generator)
    return model


def random_network(seed: int) -> tuple[nn.Module, tuple[int, int, int]]:
    """Return a network in eval mode and its input size; every second one is torchvision's, ghostified."""
    choose = random.Random(seed)
    torch.manual_seed(seed)
    if seed % 2:
        name = ZOO[seed // 2 % len(ZOO)]
        model = torchvision.models.get_model(name, weights=None, **_arguments(name))
        model, _ = ghostify(
            model, ratio=choose.choice((2, 3, 4)), cheap_kernel_size=choose.choice((1, 3, 5)), init="random"
        )
        return randomise_statistics_(model, seed).eval(), ZOO_SIZE
    size = (choose.choice((1, 3, 5)), choose.randint(13, 24), choose.randint(13, 24))
    layers: list[nn.Module] = []
    channels = size[0]
    for _ in range(choose.randint(3, 5)):
        layer, width = _random_ghost(choose, channels)
        norm = nn.BatchNorm2d(width)
        block = nn.Sequential(layer, norm, choose.choice((nn.ReLU, nn.SiLU, nn.Hardswish, nn.ReLU6))())
        layers.append(_Branch(block, choose.choice(("add", "cat", "gate")), width))
        channels = layers[-1].channels
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 7)]
    return randomise_statistics_(nn.Sequential(*layers), seed).eval(), size


def _arguments(name: str) -> dict[str, object]:
    return {"num_classes": 9} | ({"aux_logits": False, "init_weights": False} if name == "googlenet" else {})


def _random_ghost(choose: random.Random, in_channels: int) -> tuple[GhostConv2d, int]:
    ratio = choose.choice((2, 3, 4))
    groups = choose.choice((1, 1, *(divisor for divisor in (2, 3, 5) if in_channels % divisor == 0)))
    width = groups * choose.randint(ratio, 13)  # often odd, often an incomplete set of ghosts
    kernel, dilation = choose.choice((1, 3, 5)), choose.choice((1, 2))
    layer = GhostConv2d(
        in_channels,
        width,
        kernel,
        stride=choose.choice((1, 2)),
        padding=dilation * (kernel // 2),
        dilation=dilation,
        groups=groups,
        bias=choose.choice((True, False)),
        ratio=ratio,
        cheap_kernel_size=choose.choice((1, 3, 5, 7)),
    )
    if choose.random() < 0.5:
        layer.set_channel_order_(torch.randperm(width))
    return layer, width


class _Branch(nn.Module):
    """A block whose output is used more than once: added to itself, concatenated, or gated."""

    def __init__(self, block: nn.Module, join: str, width: int) -> None:
        super().__init__()
        self.block, self.join = block, join
        self.channels = 2 * width if join == "cat" else width
        self.side = SqueezeExcite(width) if join == "gate" else nn.Conv2d(width, width, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.block(images)
        other = self.side(maps)
        if self.join == "gate":
            return other
        return torch.cat((maps, other), 1) if self.join == "cat" else maps + other
