"""Sets of images with boxes, as the verbs of `ghostnet detect` open them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ghostnet.data import DetectionSet

DATA_HELP = "Folder in Pascal VOC's or COCO's format, or a JSON in COCO's format."
SPLIT_HELP = "Part of a folder: a list of ImageSets/Main, or the SPLIT of annotations/instances_SPLIT.json."
BAD_BOXES_HELP = "error, or drop boxes without width or height."


def opened_boxes(data: str, split: str, bad_boxes: str) -> DetectionSet:
    """Open a set of boxes; the message on a bad one names this command's option."""
    from ghostnet.data import BadBoxError, open_detection

    try:
        return open_detection(data, split, bad_boxes=bad_boxes)
    except BadBoxError as error:
        raise BadBoxError(error.fault, "--bad-boxes drop") from error
