"""Feature maps at strides 4, 8, 16 and 32 of a classifier, for detection and segmentation.

A network offers `pyramid_parts()`: its trunk cut behind the last block of each stride. The pyramid shares the network's
modules and leaves the classifier out, so that no parameter is without a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ghostnet.errors import InputError

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
        model: from `create_model`, with or without weights.
        strides: which maps, ascending; the coarser pieces of the trunk are left out.

    Raises:
        InputError: the network has no pyramid, or not these strides.

    Example:
        >>> from ghostnet.models import create_model
        >>> feature_pyramid(create_model("ghostnet_100")).channels
        (24, 40, 112, 160)
    """
    parts = getattr(model, "pyramid_parts", None)
    if parts is None:
        raise InputError(
            f"{type(model).__name__} offers no feature pyramid; take a ghostnet_*, ghostnetv2_*, ghostnetv3_*, "
            "repghostnet_* or resnet50 of the zoo"
        )
    return FeaturePyramid(parts(), strides).train(model.training)
