"""A classifier's trunk with a feature pyramid network (Lin et al. 2017) on it, as torchvision's detectors take it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from ghostnet.detect.settings import DetectorSettings
from ghostnet.models import feature_pyramid


class PyramidBackbone(nn.Module):
    """Trunk and feature pyramid: `(N, 3, H, W) -> {"0": (N, pyramid_channels, ceil(H / s), ceil(W / s)), …}`.

    RetinaNet gets maps at strides 8 to 128, the last two by 3x3 convolutions; Faster R-CNN at 4 to 64, the last one by
    sampling.

    Args:
        model: a network that `models.feature_pyramid` can cut; its weights are shared.
        settings: which maps, how wide, what is frozen.
    """

    def __init__(self, model: nn.Module, settings: DetectorSettings) -> None:
        super().__init__()
        from torchvision.ops.feature_pyramid_network import (
            FeaturePyramidNetwork,
            LastLevelMaxPool,
            LastLevelP6P7,
        )

        width = settings.pyramid_channels
        self.body = feature_pyramid(model, strides=settings.strides)
        extra: Any = LastLevelP6P7(width, width) if settings.kind == "retinanet" else LastLevelMaxPool()
        self.fpn = FeaturePyramidNetwork(list(self.body.channels), width, extra_blocks=extra)
        self.out_channels = width
        self._settings = settings
        for part in self.body.parts[: settings.frozen_stages]:
            part.requires_grad_(False)
        if settings.freeze_batch_norm:
            for norm in _norms(self.body):
                norm.requires_grad_(False)
        if settings.batch_norm_eps is not None:
            for norm in _norms(self.body):
                norm.eps = settings.batch_norm_eps
        self.train(self.training)

    def train(self, mode: bool = True) -> PyramidBackbone:
        """Set the mode; frozen batch norms and those of frozen stages stay in evaluation mode."""
        super().train(mode)
        parts: nn.Module = self.body.parts
        if self._settings.freeze_batch_norm:
            parts = self.body
        elif isinstance(
            parts, nn.ModuleList
        ):  # a graph for a file, which is not trained, has no list of them
            parts = parts[: self._settings.frozen_stages]
        for norm in _norms(parts):
            norm.eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps, finest first."""
        maps = self.body(images)
        return self.fpn(OrderedDict((str(level), found) for level, found in enumerate(maps)))


def _norms(part: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [module for module in part.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
