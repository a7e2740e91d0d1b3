"""From a path and the name of a split to images with boxes, whichever of the two formats lies there."""

from __future__ import annotations

import os
from pathlib import Path

from ghostnet.data.coco import open_coco, read_coco
from ghostnet.data.detection import DetectionSet
from ghostnet.data.voc import read_voc
from ghostnet.errors import InputError

COCO_SPLITS = ("trainval35k", "minival")


def open_detection(
    path: str | os.PathLike[str], split: str = "", *, bad_boxes: str = "error"
) -> DetectionSet:
    """Open a set of images with boxes.

    Args:
        path: a folder in Pascal VOC's format (`Annotations/`, `JPEGImages/`); a folder in COCO's (`annotations/` with
            `instances_SPLIT.json`, and folders of images named by the splits); or one JSON in COCO's format.
        split: of a folder: for VOC a list of `ImageSets/Main`, empty for all; for COCO's format the split's name,
            "trainval35k" and "minival" included, or the name of a JSON in the folder. Of a JSON: nothing.
        bad_boxes: "error" or "drop" boxes without width or height or outside their image.

    Raises:
        InputError: nothing usable there, or whatever is wrong in it.
    """
    place = Path(path).expanduser()
    if place.suffix == ".json":
        if split:
            raise InputError(
                f"{place} is one file of annotations and has no split {split!r}; leave the split out"
            )
        return read_coco(place, bad_boxes=bad_boxes)
    if not place.is_dir():
        raise InputError(
            f"there is no folder {place}; give one in Pascal VOC's or COCO's format, or COCO's JSON"
        )
    if split.endswith(".json"):
        return read_coco(place / split, bad_boxes=bad_boxes)
    if any((place / "Annotations").glob("*.xml")):
        return read_voc(place, split, bad_boxes=bad_boxes)
    if split in COCO_SPLITS:
        return open_coco(place, split, bad_boxes=bad_boxes)
    annotations = place / "annotations" / f"instances_{split}.json"
    if not split or not annotations.is_file():
        known = sorted(
            file.stem.removeprefix("instances_") for file in place.glob("annotations/instances_*.json")
        )
        raise InputError(
            f"{place} holds no Annotations/*.xml (Pascal VOC) and no annotations/instances_{split or 'SPLIT'}.json "
            f"(COCO); splits there: {', '.join(known) or 'none'}"
        )
    return read_coco(annotations, place / split, bad_boxes=bad_boxes)
