"""Which networks of the zoo are the backbones of Table 8, and the row that a run's record answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ghostnet import models
from ghostnet.measure import profile
from ghostnet.recipes.detection.schema import DetectionRecipe

DETECTORS = {"RetinaNet": "retinanet", "Faster R-CNN": "faster_rcnn"}


@dataclass(frozen=True)
class Backbone:
    """A backbone: its name in the zoo, what `create_model` is given, and why its count is not the printed one."""

    name: str
    args: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    def macs(self) -> int:
        """Count the whole classifier at 224x224, as the paper does."""
        return profile(
            models.create_model(self.name, **self.args), models.model_info(self.name).input_size
        ).macs


BACKBONES = {
    "MobileNetV2 1.0x": Backbone("mobilenetv2_100"),
    "MobileNetV3 1.0x": Backbone(
        "mobilenetv3_large_100",
        reason="The MobileNetV3 paper prints 219 M; the table beside its authors' released weights prints 217 M.",
    ),
    "GhostNet 1.1x": Backbone("ghostnet_110", {"rounding": "paper"}),
}


def answered_rows(recipe: DetectionRecipe, average_precision: float) -> list[dict[str, Any]]:
    """Return the row of Table 8 that a run is, as its record keeps it; none for a run that is not in the table.

    Args:
        recipe: of the run.
        average_precision: COCO's AP, in [0, 1].
    """
    if recipe.exhibit != "table8" or (recipe.train_split, recipe.held_out_split) != (
        "trainval35k",
        "minival",
    ):
        return []
    return [
        {
            "backbone": label,
            "detector": detector,
            "backbone_macs": backbone.macs(),
            "map": 100 * average_precision,
        }
        for label, backbone in BACKBONES.items()
        for detector, kind in DETECTORS.items()
        if (backbone.name, backbone.args, kind) == (recipe.backbone, recipe.backbone_args, recipe.detector)
    ]
