"""What stands in for parts of torchvision while a detector is traced, so that its file has no branch and no waste.

The values are those of what is replaced; only boxes of equal scores may come in another order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torchvision.ops import boxes as box_ops
from torchvision.ops import poolers


@contextlib.contextmanager
def traceable_torchvision() -> Iterator[None]:
    """Let torchvision suppress, clip and pool boxes as below; restored afterwards."""
    replaced = [
        (box_ops, "_batched_nms_coordinate_trick", _suppressed),
        (box_ops, "_batched_nms_vanilla", _suppressed),
        (box_ops, "clip_boxes_to_image", _clipped),
        (poolers, "_onnx_merge_levels", _merged),
    ]
    before = [getattr(room, name) for room, name, _ in replaced]
    try:
        for room, name, function in replaced:
            setattr(room, name, function)
        yield
    finally:
        for (room, name, _), function in zip(replaced, before, strict=True):
            setattr(room, name, function)


def _suppressed(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
    """Suppress boxes `(n, 4)` of several classes without a branch on their number."""
    most = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max()  # of no box too
    apart = classes.to(boxes) * (most + 1)  # no two classes overlap then
    return box_ops.nms(boxes + apart[:, None], scores, threshold)


def _clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut boxes `(…, 4)` off at an image's edges.

    torchvision takes them apart and puts them into their shape again; where rounding stands between the two, ONNX
    Runtime's optimiser makes a shape of it that zero boxes do not fit.
    """
    height, width = (torch.as_tensor(side).to(boxes) for side in size)
    return torch.minimum(boxes.clamp(min=0), torch.stack([width, height, width, height]))


def _merged(levels: Tensor, pooled: Sequence[Tensor]) -> Tensor:
    """Bring what was pooled level by level into the order of the boxes, as rows and not number by number."""
    places = torch.cat([torch.where(levels == level)[0] for level in range(len(pooled))])
    return torch.cat(list(pooled))[places.argsort()]
