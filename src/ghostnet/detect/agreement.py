"""How far the boxes of two runs of one detector lie apart, whatever order they come in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchvision.ops import box_iou

_SAME = 0.01  # pixels between corners


@dataclass(frozen=True)
class Agreement:
    """What was found.

    Attributes:
        boxes: boxes compared.
        without_partner: boxes of either run for which the other has none of the class that overlaps by half.
        least_iou: least overlap of a pair, 1 where there is none.
        largest_score_difference: of a pair.
    """

    boxes: int
    without_partner: int
    least_iou: float
    largest_score_difference: float

    def within(self, iou: float, score: float) -> bool:
        """Tell whether every box has its partner, that close."""
        return self.without_partner == 0 and self.least_iou >= iou and self.largest_score_difference <= score

    def __str__(self) -> str:
        """Return one line for people."""
        return (
            f"{self.boxes} boxes, {self.without_partner} without partner, least IoU {self.least_iou:.4f}, "
            f"largest score difference {self.largest_score_difference:.1e}"
        )


def agreement(
    expected: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], *, least_score: float = 0.0
) -> Agreement:
    """Compare two runs image by image; each box of a class is paired with the one that overlaps most.

    Args:
        expected: for each image `boxes`, `labels` and `scores`, tensors or arrays.
        found: the same of the other run.
        least_score: boxes below it need no partner; give a little more than the detector's threshold, at which
            rounding decides.
    """
    boxes, alone, least, largest = 0, 0, 1.0, 0.0
    for first, second in zip(expected, found, strict=True):
        for one, two, overlap in _pairs(first, second):
            if one is not None and two is not None:
                boxes += 1
                least, largest = min(least, overlap), max(largest, abs(one - two))
                continue
            needed = _largest(one, two) >= least_score
            boxes += needed and one is not None
            alone += needed
    return Agreement(boxes, alone, least, largest)


def boxes_that_stay(
    expected: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], *, least_score: float
) -> tuple[float, float]:
    """Return what rounding did to a detector: the share of its boxes that stay, and how much changed on the whole.

    Args:
        expected: for each image `boxes`, `labels` and `scores`.
        found: the same of the other run.
        least_score: boxes of either run below it do not count, but may be another's partner.

    Returns:
        The share, of the boxes of both runs, for which the other has one of the class that overlaps by half, and the
        mean of `1 - IoU` plus the difference of scores, where a box without a partner counts 2. Without a box that
        counts `(1, 0)`.
    """
    count, alone, change = 0, 0, 0.0
    for first, second in zip(expected, found, strict=True):
        for one, two, overlap in _pairs(first, second):
            if _largest(one, two) < least_score:
                continue
            count += 1
            if one is not None and two is not None:
                change += 1 - overlap + abs(one - two)
            else:
                alone, change = alone + 1, change + 2
    return (1 - alone / count, change / count) if count else (1.0, 0.0)


def _pairs(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> Iterator[tuple[float | None, float | None, float]]:
    """Yield the scores of every box of one image in both runs, None where it is in one alone, and the overlap."""
    one, two = _sorted(first), _sorted(second)
    overlap = _overlaps(one["boxes"], two["boxes"])
    overlap[one["labels"][:, None] != two["labels"][None]] = 0
    free = torch.ones(len(two["boxes"]), dtype=torch.bool)
    for row, score in enumerate(one["scores"].tolist()):
        values = overlap[row] * free
        best = int(values.argmax()) if len(values) else -1
        if best < 0 or values[best] < 0.5:
            yield score, None, 0.0
            continue
        free[best] = False
        yield score, float(two["scores"][best]), float(values[best])
    for score in two["scores"][free].tolist():
        yield None, score, 0.0


def _largest(one: float | None, two: float | None) -> float:
    return max(score for score in (one, two) if score is not None)


def _overlaps(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    """Return the IoU of every pair; boxes cut off at the image's edge may have no area, which IoU cannot compare."""
    apart = (one[:, None] - two[None]).abs().amax(-1)
    return torch.where(apart < _SAME, 1.0, box_iou(one, two).nan_to_num(0.0))


def _sorted(found: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    values = {key: torch.as_tensor(found[key]) for key in ("boxes", "labels", "scores")}
    order = values["scores"].argsort(descending=True, stable=True)
    return {key: value[order] for key, value in values.items()}
