"""How a detector is built, checked when it is made; a saved detector's file holds the same fields.

Defaults are the paper's setting (section 4.2.2): shorter side 800, longer side at most 1333, heads of 256 channels, as
in torchvision and mmdetection. `light_settings` is for phones and CPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ghostnet.data import IMAGENET_MEAN, IMAGENET_STD
from ghostnet.errors import InputError, unknown_name

KINDS = ("retinanet", "faster_rcnn")


@dataclass(frozen=True)
class DetectorSettings:
    """What a detector is made of besides its backbone.

    Attributes:
        kind: "retinanet" or "faster_rcnn".
        min_size, max_size: pixels; images are scaled so that the shorter side is `min_size`, or less where the longer
            side would exceed `max_size`.
        mean, std: per-channel normalisation of pixel values in [0, 1], the backbone's own.
        pyramid_channels: channels of every map of the feature pyramid and of RetinaNet's heads.
        head_layers: convolutions in front of RetinaNet's last ones, 1 to 4.
        light: every 3x3 convolution of pyramid and heads is a depthwise and a 1x1 convolution, and Faster R-CNN
            starts at stride 8 as RetinaNet does.
        anchor_scale: side of the smallest anchor over its map's stride; 0 takes 4 (RetinaNet) or 8 (Faster R-CNN).
        proposals: boxes that Faster R-CNN's first stage hands on; twice as many in training.
        box_channels: width of Faster R-CNN's two hidden layers.
        frozen_stages: pieces of the backbone, from the image on, whose weights and batch norms' statistics stay.
        freeze_batch_norm: the backbone's batch norms keep their statistics and factors.
        batch_norm_eps: of the backbone's batch norms; None keeps the backbone's own. torchvision's COCO weights of the
            first version need 0.
        score_threshold, nms_threshold, candidates, detections: least score kept, largest overlap kept, boxes a level
            before suppression, boxes an image after it.
    """

    kind: str = "retinanet"
    min_size: int = 800
    max_size: int = 1333
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    pyramid_channels: int = 256
    head_layers: int = 4
    light: bool = False
    anchor_scale: float = 0.0
    proposals: int = 1000
    box_channels: int = 1024
    frozen_stages: int = 0
    freeze_batch_norm: bool = True
    batch_norm_eps: float | None = None
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    candidates: int = 1000
    detections: int = 100

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("detector", self.kind, KINDS)
        for name in ("min_size", "pyramid_channels", "proposals", "box_channels", "candidates", "detections"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` (={getattr(self, name)}) must be an integer >= 1")
        if self.max_size < self.min_size:
            raise InputError(f"`max_size` (={self.max_size}) must be at least `min_size` (={self.min_size})")
        if not 1 <= self.head_layers <= 4:
            raise InputError(f"`head_layers` (={self.head_layers}) must be 1, 2, 3 or 4")
        if not 0 <= self.frozen_stages <= 4:
            raise InputError(f"`frozen_stages` (={self.frozen_stages}) must be between 0 and 4")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise InputError(
                f"`mean` and `std` (={self.mean}, {self.std}) must hold three numbers, `std` above 0"
            )
        if not self.anchor_scale >= 0:
            raise InputError(f"`anchor_scale` (={self.anchor_scale}) must be >= 0; 0 takes the usual one")
        for name in ("score_threshold", "nms_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"`{name}` (={getattr(self, name)}) must be between 0 and 1")

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the backbone's maps that the feature pyramid is built on."""
        return (8, 16, 32) if self.kind == "retinanet" or self.light else (4, 8, 16, 32)

    def check_image(self, height: int, width: int) -> None:
        """Raise unless an image has a row and a column left when it is scaled.

        Raises:
            InputError: it is so long and thin that it has not.
        """
        short, long = sorted((height, width))
        scale = min(self.min_size / max(short, 1), self.max_size / max(long, 1))
        if short * scale < 1.001:  # it is rounded down, in float32
            raise InputError(
                f"an image of {width}x{height} pixels is too long and thin: scaled to {self.max_size} pixels nothing "
                "is left of its shorter side; cut it into pieces"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DetectorSettings:
        """Return settings from `to_dict`'s values.

        Raises:
            InputError: an unknown field, near matches are listed, or a value outside its range.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise unknown_name("detector setting", key, known)
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**given)


def light_settings(kind: str = "retinanet", **changes: Any) -> DetectorSettings:
    """Return the setting for phones and CPUs: 320 pixels, 96 channels, separable convolutions.

    Example:
        >>> light_settings("retinanet").min_size
        320
    """
    usual: dict[str, Any] = {
        "min_size": 320,
        "max_size": 480,
        "pyramid_channels": 96,
        "head_layers": 2,
        "light": True,
        "anchor_scale": 3.0,  # objects are smaller too: images of 320 pixels, not of 800
        "proposals": 150,
        "box_channels": 256,
        "candidates": 300,
    }
    return DetectorSettings.from_dict({**usual, "kind": kind, **changes})
