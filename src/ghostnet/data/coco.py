"""COCO's instances JSON: the set itself, and any set of one's own in its format.

Also its two historical splits: trainval35k and minival are, by rule, the images of the 2014 sets without and with those
that the 2017 validation file lists; both are checked by count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostnet.data.detection import BoxCheck, DetectionSet, box_image, check_files
from ghostnet.errors import InputError, unknown_name

TRAINVAL35K = 118_287  # images
MINIVAL = 5_000


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        InputError: missing, or cut short or otherwise no JSON; the line and column are named.
    """
    place = Path(path)
    if not place.is_file():
        raise InputError(f"there is no file {place}")
    try:
        return json.loads(place.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{place} is not whole JSON ({error.msg} at line {error.lineno}, column {error.colno}); copy it again"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{place} is not a text file; give the JSON of annotations") from error


def read_coco(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    bad_boxes: str = "error",
) -> DetectionSet:
    """Read a set in COCO's format.

    Args:
        annotations: the instances JSON.
        images: folder of the image files; None takes the JSON's own folder, or `images` or `JPEGImages` beside it.
        bad_boxes: "error" or "drop" boxes without width or height or outside their image.

    Returns:
        The set, images in order of their ids, as pycocotools has them.

    Raises:
        InputError: JSON that is cut short or lacks a part, an id that occurs twice, an unknown category or image, a
            bad box, or a listed image that is missing.
    """
    place = Path(annotations)
    content = read_json(place)
    if not isinstance(content, dict):
        raise InputError(f"{place} must hold an object with images, annotations and categories")
    for part in ("images", "annotations", "categories"):
        if not isinstance(content.get(part), list):
            raise InputError(f"{place} lacks the list {part!r}; it is not COCO's instances format")
    folder = Path(images) if images is not None else _images_beside(place)
    check = BoxCheck(place.name, bad_boxes)
    categories = _by_id(content["categories"], "category", place)
    records = _by_id(content["images"], "image", place)
    ids = sorted(categories)
    found: dict[int, list[tuple[list[float], int, bool, float]]] = {number: [] for number in records}
    for annotation in content["annotations"]:
        number = annotation.get("id")
        where = f"{place.name}: annotation {number}"
        category, image = annotation.get("category_id"), annotation.get("image_id")
        if category not in categories:
            raise unknown_name(f"category in annotation {number} of {place.name}:", category, map(str, ids))
        if image not in records:
            raise InputError(f"{where} names image {image}, which {place.name} does not list")
        size = _size(records[image], place)
        box = _box(annotation, where)
        kept = check.checked(box, *size, where)
        if kept is not None:
            area = float(annotation.get("area", (box[2] - box[0]) * (box[3] - box[1])))
            found[image].append((kept, ids.index(category), bool(annotation.get("iscrowd", 0)), area))
    check.report()
    read = [
        box_image(
            number, folder / str(records[number]["file_name"]), _size(records[number], place), found[number]
        )
        for number in sorted(records)
    ]
    check_files(read, place.name)
    return DetectionSet(read, [str(categories[number]["name"]) for number in ids], ids, place.name)


def _by_id(entries: list[dict[str, Any]], kind: str, place: Path) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    needed = {"category": ("id", "name"), "image": ("id", "file_name", "width", "height")}[kind]
    for entry in entries:
        for key in needed:
            if key not in entry:
                raise InputError(f"{place.name}: {kind} {entry.get('id')} lacks {key!r}")
        if entry["id"] in found:
            raise InputError(f"{place.name}: {kind} id {entry['id']} occurs twice; ids must be unique")
        found[entry["id"]] = entry
    return found


def _size(record: Mapping[str, Any], place: Path) -> tuple[int, int]:
    width, height = int(record["width"]), int(record["height"])
    if width < 1 or height < 1:
        raise InputError(f"{place.name}: image {record['id']} has width {width} and height {height}")
    return width, height


def _box(annotation: Mapping[str, Any], where: str) -> list[float]:
    given = annotation.get("bbox")
    if not isinstance(given, list) or len(given) != 4 or not all(isinstance(v, int | float) for v in given):
        raise InputError(f"{where} has the bbox {given!r}; it must be [x, y, width, height]")
    x, y, width, height = (float(value) for value in given)
    return [x, y, x + width, y + height]


def _images_beside(place: Path) -> Path:
    for name in ("images", "JPEGImages"):
        if (place.parent / name).is_dir():
            return place.parent / name
    return place.parent


def coco_splits(
    train2014: Mapping[str, Any], val2014: Mapping[str, Any], val2017: Mapping[str, Any]
) -> tuple[list[int], list[int]]:
    """Return the image ids of trainval35k and of minival.

    Args:
        train2014: the contents of COCO's instances file of that name, or of its image list.
        val2014: the same of val2014.
        val2017: the same of val2017.

    Returns:
        Two sorted lists, of 118,287 and 5,000 ids.

    Raises:
        InputError: the counts are not these, so the files are not COCO's.
    """
    images14 = {image["id"] for part in (train2014, val2014) for image in part["images"]}
    minival = {image["id"] for image in val2017["images"]} & {image["id"] for image in val2014["images"]}
    trainval = images14 - minival
    for name, found, wanted in (("minival", minival, MINIVAL), ("trainval35k", trainval, TRAINVAL35K)):
        if len(found) != wanted:
            raise InputError(
                f"{name} must have {wanted:,} images; these files give {len(found):,}, so they are not COCO's "
                "instances_train2014, instances_val2014 and instances_val2017"
            )
    return sorted(trainval), sorted(minival)


def open_coco(root: str | os.PathLike[str], split: str, *, bad_boxes: str = "drop") -> DetectionSet:
    """Open COCO itself from its usual folders: `annotations/instances_*.json`, `train2017/`, `val2017/`, ….

    Args:
        root: the folder.
        split: "trainval35k" or "minival". With the 2017 files these are train2017 and val2017, which have the same
            images; otherwise they are derived from the 2014 files and the list of val2017.
        bad_boxes: a few of COCO's boxes have no height; "drop" leaves them out.

    Raises:
        InputError: an unknown split, files that are missing, or counts that are not COCO's.
    """
    if split not in ("trainval35k", "minival"):
        raise unknown_name("split of COCO", split, ("trainval35k", "minival"))
    place = Path(root).expanduser()
    year = {"trainval35k": "train2017", "minival": "val2017"}[split]
    wanted = {"trainval35k": TRAINVAL35K, "minival": MINIVAL}[split]
    files = place / "annotations"
    if (place / year).is_dir() or not (files / "instances_train2014.json").is_file():
        found = read_coco(files / f"instances_{year}.json", place / year, bad_boxes=bad_boxes)
        if len(found) != wanted:
            raise InputError(f"{split} must have {wanted:,} images; {found.source} has {len(found):,}")
        return found
    contents = [read_json(files / f"instances_{name}.json") for name in ("train2014", "val2014", "val2017")]
    chosen = set(coco_splits(*contents)[0 if split == "trainval35k" else 1])
    parts = [
        read_coco(files / f"instances_{name}.json", place / name, bad_boxes=bad_boxes)
        for name in ("train2014", "val2014")
    ]
    images = sorted((i for part in parts for i in part.images if i.id in chosen), key=lambda image: image.id)
    return DetectionSet(images, parts[0].classes, parts[0].category_ids, split)
