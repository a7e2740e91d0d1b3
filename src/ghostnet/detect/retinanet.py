"""RetinaNet whose answers cost what the network costs: torchvision's boxes, found by looking at anchors, not at scores.

torchvision compares the score of every class at every anchor with the threshold; with COCO's 80 classes that, and
bringing all scores into one list first, was a quarter of a light detector's time in ONNX Runtime. Here an anchor's best
class decides whether the anchor is looked at, and maps stay as the convolutions write them. Losses are torchvision's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import RetinaNet
from torchvision.models.detection._utils import _topk_min  # a least number that stays open when traced
from torchvision.ops import boxes as box_ops


class QuickRetinaNet(RetinaNet):
    """torchvision's RetinaNet with another way to its detections, and losses in float32 under autocast too."""

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Return the losses in training, else for each image `boxes`, `scores` and `labels`, the highest score first.

        Args:
            images: float `(3, H, W)`, each of a size of its own.
            targets: in training, for each image `boxes` `(n, 4)` and `labels` `(n,)`.
        """
        if self.training:
            return super().forward(images, targets)
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        batch, _ = self.transform(images)
        features = list(self.backbone(batch.tensors).values())
        scores, deltas = self.head.classification_head, self.head.regression_head
        logits = [scores.cls_logits(scores.conv(level)).flatten(2) for level in features]
        offsets = [deltas.bbox_reg(deltas.conv(level)).flatten(2) for level in features]
        cells = self.anchor_generator.num_anchors_per_location()
        counts = [level.shape[2] * level.shape[3] * each for level, each in zip(features, cells, strict=True)]
        found = []
        for place, anchors in enumerate(self.anchor_generator(batch, features)):
            levels = [
                self._candidates(place, *every)
                for every in zip(logits, offsets, anchors.split(counts), strict=True)
            ]
            found.append(self._detections(levels, batch.image_sizes[place]))
        return self.transform.postprocess(found, batch.image_sizes, sizes)

    def _candidates(
        self, place: int, logits: Tensor, offsets: Tensor, anchors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, scores and labels of the best candidates of a level.

        Args:
            place: which image of the batch.
            logits: `(N, anchors a cell x classes, cells)`, as the convolution writes them.
            offsets: `(N, anchors a cell x 4, cells)`.
            anchors: `(cells x anchors a cell, 4)`, of this image.
        """
        classes = self.head.classification_head.num_classes
        each = logits.shape[1] // classes
        best = logits.reshape(-1, classes, logits.shape[2]).amax(1)[place * each : (place + 1) * each]
        chosen = torch.where(best.t().flatten().sigmoid() > self.score_thresh)[0]
        anchor, cell = chosen % each, torch.div(chosen, each, rounding_mode="floor")
        scores = _values(logits, place, anchor, cell, classes).sigmoid()
        row, label = torch.where(scores > self.score_thresh)
        kept = scores[row, label]
        kept, order = kept.topk(_topk_min(kept, self.topk_candidates, 0))
        row, label = row[order], label[order]
        moved = _values(offsets, place, anchor[row], cell[row], 4)
        return self.box_coder.decode_single(moved, anchors[chosen[row]]), kept, label

    def _detections(
        self, levels: Sequence[tuple[Tensor, Tensor, Tensor]], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*levels, strict=True))
        boxes = box_ops.clip_boxes_to_image(boxes, size)
        keep = box_ops.batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return {"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]}

    def compute_loss(
        self, targets: list[dict[str, Tensor]], head_outputs: dict[str, Tensor], anchors: list[Tensor]
    ) -> dict[str, Tensor]:
        """Return the losses of classification and regression."""
        with torch.autocast(anchors[0].device.type, enabled=False):
            outputs = {key: value.float() for key, value in head_outputs.items()}
            return super().compute_loss(targets, outputs, anchors)


def _values(maps: Tensor, place: int, anchor: Tensor, cell: Tensor, width: int) -> Tensor:
    """Return the `width` values of each chosen anchor `(n, width)` out of `(N, anchors a cell x width, cells)`.

    One index into the flat maps: indices into their axes would have exporters copy or transpose all of them.
    """
    rows = place * maps.shape[1] + anchor[:, None] * width + torch.arange(width, device=maps.device)
    return maps.flatten()[rows * maps.shape[2] + cell[:, None]]
