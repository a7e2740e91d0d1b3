"""RetinaNet and Faster R-CNN from torchvision's parts, on a backbone with a feature pyramid.

With the default settings and a ResNet-50 they compute what `retinanet_resnet50_fpn` and `fasterrcnn_resnet50_fpn` do.
Left out: masks and keypoints.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from ghostnet.detect.backbone import PyramidBackbone
from ghostnet.detect.retinanet import QuickRetinaNet
from ghostnet.detect.separable import make_separable_
from ghostnet.detect.settings import DetectorSettings

_RATIOS = (0.5, 1.0, 2.0)
_BOX_SIDE = 7  # cells a side that Faster R-CNN's second stage sees of a proposal
_LIGHT_CANONICAL = (
    112  # a proposal of this side is taken from the map at stride 16; torchvision has 224 at 800 pixels
)


def retinanet(model: nn.Module, classes: int, settings: DetectorSettings) -> QuickRetinaNet:
    """Return RetinaNet (Lin et al. 2017) on a classifier's trunk; its labels are 0 to `classes` - 1."""
    backbone = PyramidBackbone(model, settings)
    strides = (*settings.strides, 64, 128)
    scale = settings.anchor_scale or 4.0
    sizes = tuple(tuple(int(scale * stride * 2 ** (third / 3)) for third in range(3)) for stride in strides)
    anchors = AnchorGenerator(sizes, (_RATIOS,) * len(sizes))
    head = RetinaNetHead(settings.pyramid_channels, anchors.num_anchors_per_location()[0], classes)
    for branch in (head.classification_head, head.regression_head):
        branch.conv = branch.conv[: settings.head_layers]
    if settings.light:
        make_separable_(backbone.fpn)
        make_separable_(head, last=("cls_logits", "bbox_reg"))
    return QuickRetinaNet(
        backbone,
        classes,
        **_image_arguments(settings),
        anchor_generator=anchors,
        head=head,
        score_thresh=settings.score_threshold,
        nms_thresh=settings.nms_threshold,
        detections_per_img=settings.detections,
        topk_candidates=settings.candidates,
    )


def faster_rcnn(model: nn.Module, classes: int, settings: DetectorSettings) -> FasterRCNN:
    """Return Faster R-CNN with FPN (Ren et al. 2015) on a classifier's trunk; its labels are 1 to `classes`."""
    backbone = PyramidBackbone(model, settings)
    width = settings.pyramid_channels
    scale = settings.anchor_scale or 8.0
    sizes = tuple((int(scale * stride),) for stride in (*settings.strides, 2 * settings.strides[-1]))
    anchors = AnchorGenerator(sizes, (_RATIOS,) * len(sizes))
    rpn_head = RPNHead(width, anchors.num_anchors_per_location()[0])
    if settings.light:
        make_separable_(backbone.fpn)
        make_separable_(rpn_head)
    levels = [str(level) for level in range(len(settings.strides))]
    canonical: dict[str, Any] = {"canonical_scale": _LIGHT_CANONICAL} if settings.light else {}
    network = FasterRCNN(
        backbone,
        classes + 1,
        **_image_arguments(settings),
        rpn_anchor_generator=anchors,
        rpn_head=rpn_head,
        rpn_pre_nms_top_n_train=2 * settings.candidates,
        rpn_pre_nms_top_n_test=settings.candidates,
        rpn_post_nms_top_n_train=2 * settings.proposals,
        rpn_post_nms_top_n_test=settings.proposals,
        box_roi_pool=MultiScaleRoIAlign(levels, _BOX_SIDE, sampling_ratio=2, **canonical),
        box_head=TwoMLPHead(width * _BOX_SIDE**2, settings.box_channels),
        box_score_thresh=settings.score_threshold,
        box_nms_thresh=settings.nms_threshold,
        box_detections_per_img=settings.detections,
        box_batch_size_per_image=128 if settings.light else 512,
    )
    if settings.box_channels != 1024:
        predictor = network.roi_heads.box_predictor
        predictor.cls_score = nn.Linear(settings.box_channels, classes + 1)
        predictor.bbox_pred = nn.Linear(settings.box_channels, 4 * (classes + 1))
    return network


def _image_arguments(settings: DetectorSettings) -> dict[str, Any]:
    return {
        "min_size": settings.min_size,
        "max_size": settings.max_size,
        "image_mean": list(settings.mean),
        "image_std": list(settings.std),
    }
