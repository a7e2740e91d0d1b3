"""Weights in torchvision's layout: `retinanet_resnet50_fpn` and `fasterrcnn_resnet50_fpn` on our ResNet-50.

Only the trunk's names differ, and those that torchvision gave its layers before it had versions. torchvision's first
COCO weights were trained with frozen batch norms that add nothing to the variance: build the detector with
`batch_norm_eps=0` for them. Their classes are the 91 (RetinaNet) or 90 (Faster R-CNN) numbers that COCO's categories
come from, unused ones included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ghostnet.detect.detector import Detector
from ghostnet.errors import InputError

_HEAD_KEYS = {
    "retinanet": ("head.classification_head.cls_logits.bias", 9),  # 9 anchors a place
    "faster_rcnn": ("roi_heads.box_predictor.cls_score.bias", 1),
}
_STEM = {"conv1": 0, "bn1": 1}
_OLD_HEAD = re.compile(r"^(head\.\w+\.conv)\.(\d+)\.(weight|bias)$")
_OLD_PYRAMID = re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$")
_OLD_RPN = re.compile(r"^(rpn\.head\.conv)\.(weight|bias)$")


def load_torchvision_(detector: Detector, state: Mapping[str, Tensor]) -> None:
    """Fill a detector on our `resnet50` with weights in torchvision's layout.

    Args:
        detector: RetinaNet or Faster R-CNN in the paper's setting.
        state: a state dictionary of torchvision's detector of the same kind.

    Raises:
        InputError: another number of classes, or names or shapes that do not fit.
    """
    key, per_class = _HEAD_KEYS[detector.settings.kind]
    if key not in state:
        raise InputError(f"the weights lack {key}; they are not torchvision's {detector.settings.kind}")
    background = int(detector.settings.kind == "faster_rcnn")
    theirs = len(state[key]) // per_class - background
    if theirs != len(detector.classes):
        raise InputError(
            f"the weights tell {theirs} classes apart, the detector {len(detector.classes)}; give create_detector "
            f"{theirs} class names"
        )
    renamed = {_renamed(name): value for name, value in state.items()}
    expected = detector.network.state_dict()
    renamed |= {
        name: value
        for name, value in expected.items()
        if name.endswith("num_batches_tracked") and name not in renamed
    }
    for name in sorted({*renamed, *expected}):
        if name not in renamed or name not in expected:
            raise InputError(
                f"the weights {'lack' if name in expected else 'hold'} {name}, the detector does not"
            )
        if renamed[name].shape != expected[name].shape:
            raise InputError(
                f"{name} is {tuple(renamed[name].shape)} in the weights, {tuple(expected[name].shape)} in the detector"
            )
    detector.network.load_state_dict(renamed)


def _renamed(name: str) -> str:
    """Return our name of one of torchvision's weights."""
    for pattern in (_OLD_PYRAMID, _OLD_RPN):
        if match := pattern.match(name):
            inner = "0.0" if pattern is _OLD_RPN else "0"
            return f"{match[1]}.{inner}.{match[2]}"
    if match := _OLD_HEAD.match(name):
        return f"{match[1]}.{int(match[2]) // 2}.0.{match[3]}"
    prefix = "backbone.body."
    if not name.startswith(prefix):
        return name
    layer, _, rest = name.removeprefix(prefix).partition(".")
    if layer in _STEM:
        return f"{prefix}parts.0.{_STEM[layer]}.{rest}"
    stage = int(layer.removeprefix("layer")) - 1
    return f"{prefix}parts.{stage}.{'4.' if stage == 0 else ''}{rest}"
