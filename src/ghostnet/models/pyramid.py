"""Feature maps at strides 4, 8, 16 and 32 of a classifier, for detection and segmentation.

A network offers `pyramid_parts()`: its trunk cut behind the last block of each stride. Mobile networks that come from
torchvision or timm are cut here in the same way. The pyramid shares the network's modules and leaves the classifier
(and a mobile network's last 1x1 convolution, which belongs to it) out, so that no parameter is without a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ghostnet.errors import InputError, first_line
from ghostnet.modes import evaluating

STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class PyramidPart:
    """A piece of a network's trunk.

    Attributes:
        body: from the output of the piece before (or the image) to this piece's output.
        stride: of its output, against the image.
        channels: of its output.
    """

    body: nn.Module
    stride: int
    channels: int


class FeaturePyramid(nn.Module):
    """The trunk of a classifier: `(N, C, H, W) -> [(N, channels[i], ceil(H / strides[i]), ceil(W / strides[i]))]`.

    Attributes:
        channels: channels of each map.
        strides: stride of each map, ascending.
    """

    def __init__(self, parts: Sequence[PyramidPart], strides: Sequence[int] = STRIDES) -> None:
        super().__init__()
        known = [part.stride for part in parts]
        if not isinstance(strides, Sequence):
            raise InputError(
                f"`strides` (={strides}) must be a sequence, such as ({strides},), among {known}"
            )
        if not strides or list(strides) != sorted(set(strides)) or not set(strides) <= set(known):
            raise InputError(f"`strides` (={tuple(strides)}) must be ascending and among {known}")
        used = parts[: known.index(strides[-1]) + 1]
        self.parts = nn.ModuleList(part.body for part in used)
        self.strides = tuple(strides)
        self.channels = tuple(part.channels for part in used if part.stride in strides)
        self._kept = [part.stride in strides for part in used]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps, finest first."""
        maps, found = images, []
        for part, kept in zip(self.parts, self._kept, strict=True):
            maps = part(maps)
            if kept:
                found.append(maps)
        return found


def feature_pyramid(model: nn.Module, *, strides: Sequence[int] = STRIDES) -> FeaturePyramid:
    """Return the feature maps of a network of the zoo as a module that shares its weights.

    Args:
        model: from `create_model` or `load`, with or without weights; also MobileNetV2 of torchvision, what is made of
            `layer1` to `layer4` (ResNet, ResNeXt of torchvision and timm), and of timm what is made of `conv_stem` and
            `blocks` (MobileNetV3, EfficientNet, EfficientNet-Lite, MnasNet); all of these converted, too.
        strides: which maps, ascending; the coarser pieces of the trunk are left out.

    Raises:
        InputError: the network has no pyramid, or not these strides.

    Example:
        >>> from ghostnet.models import create_model
        >>> feature_pyramid(create_model("ghostnet_100")).channels
        (24, 40, 112, 160)
    """
    return FeaturePyramid(_parts_of(model), strides).train(model.training)


def _parts_of(model: nn.Module) -> list[PyramidPart]:
    network: Any = model
    if hasattr(model, "pyramid_parts"):
        return network.pyramid_parts()
    if type(model).__name__ == "MobileNetV2" and type(model).__module__.startswith("torchvision."):
        blocks = list(network.features)[:-1]
        channels = [blocks[0][0].out_channels, *(block.out_channels for block in blocks[1:])]
        halves = [True, *(block.stride == 2 for block in blocks[1:])]
        return _cut(blocks, halves, channels)
    children = {name for name, _ in model.named_children()}
    if type(model).__module__.startswith("timm.") and {"conv_stem", "blocks"} <= children:
        return _timm_parts(network)
    if type(model).__module__.startswith(("timm.", "torchvision.")) and children >= _RESNET:
        return _resnet_parts(network)
    raise InputError(
        f"{type(model).__name__} offers no feature pyramid; take a ghostnet_*, ghostnetv2_*, ghostnetv3_*, "
        "repghostnet_*, resnet50, ghost_resnet50, mobilenetv2_*, mobilenetv3_*, mnasnet_a1 of the zoo, or a ResNet of "
        "torchvision or timm"
    )


_RESNET = {"conv1", "bn1", "maxpool", "layer1", "layer2", "layer3", "layer4"}
_SIDE = 64  # pixels of the image that shows strides


def _resnet_parts(network: Any) -> list[PyramidPart]:
    """Cut a ResNet of torchvision or timm behind each of its stages, whose strides and channels a run shows.

    Raises:
        InputError: its stages do not run one behind the other, or two have one stride, as where they are dilated.
    """
    activation = network.relu if hasattr(network, "relu") else network.act1
    first = nn.Sequential(network.conv1, network.bn1, activation, network.maxpool, network.layer1)
    stem = next(weight for weight in network.conv1.parameters() if weight.dim() == 4)
    maps, parts = stem.new_zeros(1, stem.shape[1], _SIDE, _SIDE), []
    with evaluating(network), torch.no_grad():
        for body in (first, network.layer2, network.layer3, network.layer4):
            try:
                maps = body(maps)
            except Exception as error:  # blocks changed by hand
                name = type(network).__name__
                raise InputError(f"{name} offers no feature pyramid: {first_line(error)}") from error
            parts.append(PyramidPart(body, _SIDE // maps.shape[-1], maps.shape[1]))
    strides = [part.stride for part in parts]
    if strides != sorted(set(strides)):
        raise InputError(
            f"{type(network).__name__} offers no feature pyramid: its stages have strides {strides}"
        )
    return parts


def _timm_parts(network: Any) -> list[PyramidPart]:
    """Cut a network of timm's EfficientNet family; a stage whose only layer is the last 1x1 is left out."""
    stages = [stage for stage in network.blocks if type(stage[0]).__name__ != "ConvBnAct"]
    halves, channels = [True], [network.conv_stem.out_channels]
    for stage in stages:
        strides = [module.stride for module in stage.modules() if isinstance(module, nn.Conv2d)]
        halves.append((2, 2) in strides)
        ends = [module.out_channels for module in stage[-1].modules() if isinstance(module, nn.Conv2d)]
        channels.append(ends[-1])
    return _cut([nn.Sequential(network.conv_stem, network.bn1), *stages], halves, channels)


def _cut(blocks: Sequence[nn.Module], halves: Sequence[bool], channels: Sequence[int]) -> list[PyramidPart]:
    """Return the trunk cut in front of each block that halves the maps, from stride 4 on."""
    starts = [number for number, half in enumerate(halves) if half]
    ends = [*starts[1:], len(blocks)]
    parts: list[PyramidPart] = []
    for level, end in enumerate(ends[1:]):
        begin = starts[level + 1] if level else 0  # the first piece holds the stem, whose stride is 2
        parts.append(PyramidPart(nn.Sequential(*blocks[begin:end]), 4 << level, channels[end - 1]))
    return parts
