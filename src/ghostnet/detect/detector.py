"""A detector as users meet it: images in, boxes with class numbers and scores out; it knows its classes' names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ghostnet.detect.networks import faster_rcnn, retinanet
from ghostnet.detect.settings import DetectorSettings
from ghostnet.errors import InputError
from ghostnet.nn.edits import record_edits_, recorded_edits

Target = dict[str, Tensor]


class Detector(nn.Module):
    """RetinaNet or Faster R-CNN on a classifier's trunk; make one with `create_detector`.

    Attributes:
        classes: names; a label is an index into them.
        settings: how it was built.
        network: torchvision's module.
    """

    def __init__(self, backbone: nn.Module, classes: Sequence[str], settings: DetectorSettings) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.settings = settings
        build = retinanet if settings.kind == "retinanet" else faster_rcnn
        self.network: Any = build(backbone, len(self.classes), settings)
        self._offset = 0 if settings.kind == "retinanet" else 1  # Faster R-CNN's class 0 is the background

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None) -> Any:
        """Detect, or in training mode compute the losses.

        Args:
            images: float `(3, H, W)` in [0, 1], each of a size of its own.
            targets: in training, for each image `boxes` float `(n, 4)` as x1, y1, x2, y2 in pixels and `labels` int64
                `(n,)`; n may be 0.

        Returns:
            In training a dictionary of scalar losses. In evaluation for each image `boxes`, `labels` and `scores`, the
            highest score first, in pixels of the image as it was given.

        Raises:
            InputError: training mode without targets, or an image of which nothing is left when it is scaled.
        """
        if not torch.jit.is_tracing():  # a traced size would be fixed
            for image in images:
                self.settings.check_image(*image.shape[-2:])
        if self.training:
            if targets is None:
                raise InputError("a detector in training mode needs targets; call eval() to detect")
            shifted = [{"boxes": t["boxes"], "labels": t["labels"] + self._offset} for t in targets]
            return self.network(list(images), shifted)
        return [
            {"boxes": found["boxes"], "labels": found["labels"] - self._offset, "scores": found["scores"]}
            for found in self.network(list(images))
        ]


def create_detector(
    backbone: nn.Module, classes: Sequence[str], settings: DetectorSettings | None = None, *, seed: int = 0
) -> Detector:
    """Build a detector on a classifier's trunk.

    Args:
        backbone: from `create_model`, `load` or `ghostify`, with or without weights; the trunk is shared, not copied.
        classes: names of the classes to detect, without a background.
        settings: None is RetinaNet in the paper's setting.
        seed: of the weights of pyramid and heads.

    Returns:
        The detector in training mode.

    Raises:
        InputError: no classes, one twice or no list of them, or a backbone that offers no feature pyramid.

    Example:
        >>> from ghostnet.detect import light_settings
        >>> from ghostnet.models import create_model
        >>> detector = create_detector(create_model("ghostnet_100"), ["cat", "dog"], light_settings()).eval()
        >>> detector([torch.rand(3, 120, 160)])[0]["boxes"].shape[1]
        4
    """
    if isinstance(classes, str):
        raise InputError(f"`classes` (={classes!r}) must be a list of names, such as [{classes!r}]")
    names = [str(name) for name in classes]
    if not names:
        raise InputError("a detector needs at least one class")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"class {twice!r} is named twice; each class of a detector needs a name of its own")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = Detector(backbone, names, settings or DetectorSettings())
    edits = recorded_edits(backbone)
    record_edits_(backbone, edits)  # those on modules inside it would count as the detector's, too
    record_edits_(detector, [])
    detector.ghostnet_origin = {  # type: ignore[assignment]
        "library": "ghostnet.detect",
        "name": detector.settings.kind,
        "args": {"classes": names, "settings": detector.settings.to_dict()},
        "backbone": getattr(backbone, "ghostnet_origin", None),
        "backbone_edits": edits,
    }
    return detector.train()
