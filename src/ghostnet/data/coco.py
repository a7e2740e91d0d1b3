"""COCO's instances JSON: the set itself, and any set of one's own in its format.

Also its two historical splits: trainval35k and minival are, by rule, the images of the 2014 sets without and with those
that the 2017 validation file lists; both are checked by count.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ghostnet.checks import is_integer, is_number
from ghostnet.data.detection import BoxCheck, DetectionSet, box_image, check_files
from ghostnet.errors import InputError, unknown_name

TRAINVAL35K = 118_287  # images
MINIVAL = 5_000


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file, with or without the byte order mark that some editors put in front.

    Raises:
        InputError: missing, or cut short or otherwise no JSON; the line and column are named.
    """
    place = Path(path)
    if not place.is_file():
        raise InputError(f"there is no file {place}")
    try:
        return json.loads(place.read_text(encoding="utf-8-sig"))
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
    content = check_instances(read_json(place), place.name)
    folder = Path(images) if images is not None else _images_beside(place)
    check = BoxCheck(place.name, bad_boxes)
    records = {record["id"]: record for record in content["images"]}
    categories = {category["id"]: str(category["name"]) for category in content["categories"]}
    ids = sorted(categories)
    found: dict[int, list[tuple[list[float], int, bool, float]]] = {number: [] for number in records}
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        record = records[annotation["image_id"]]
        where = f"{place.name}: annotation {annotation['id']}"
        kept = check.checked([x, y, x + width, y + height], record["width"], record["height"], where)
        if kept is not None:
            label = ids.index(annotation["category_id"])
            found[record["id"]].append((kept, label, bool(annotation["iscrowd"]), annotation["area"]))
    check.report()
    read = [
        box_image(
            number, folder / str(record["file_name"]), (record["width"], record["height"]), found[number]
        )
        for number, record in sorted(records.items())
    ]
    check_files(read, place.name)
    return DetectionSet(read, [categories[number] for number in ids], ids, place.name)


def check_instances(content: object, source: str, *, files: bool = True) -> dict[str, list[dict[str, Any]]]:
    """Return the three lists of COCO's instances format, each entry checked, and what may be left out filled in.

    Args:
        content: what the JSON holds.
        source: what errors call it.
        files: whether each image must say its file's name and size.

    Returns:
        `images`, `categories` and `annotations`. An annotation has a `bbox` of four floats (infinite or NaN
        ones too), an `area` (the box's where none is given) and `iscrowd`, 0 or 1; its `id` is as it was, or None.

    Raises:
        InputError: a list is missing, an entry lacks what it needs or has another type there, an id that occurs twice,
            or an annotation of an unknown category or image.

    Example:
        >>> check_instances({"images": [], "annotations": [], "categories": []}, "empty.json")["images"]
        []
    """
    if not isinstance(content, Mapping):
        raise InputError(f"{source} must hold an object with images, annotations and categories")
    for part in ("images", "annotations", "categories"):
        if not isinstance(content.get(part), list):
            raise InputError(f"{source} lacks the list {part!r}; it is not COCO's instances format")
        for place, entry in enumerate(content[part]):
            if not isinstance(entry, Mapping):
                raise InputError(f"{source}: entry {place} of {part!r} is {entry!r:.80}, not an object")
    categories = _by_id(content["categories"], "category", ("name",), source)
    images = _by_id(content["images"], "image", ("file_name", "width", "height") if files else (), source)
    if files:
        images = {number: _sized(record, source) for number, record in images.items()}
    annotations = [_annotation(entry, categories, images, source) for entry in content["annotations"]]
    return {
        "images": list(images.values()),
        "annotations": annotations,
        "categories": list(categories.values()),
    }


def _by_id(
    entries: list[Mapping[str, Any]], kind: str, needed: tuple[str, ...], source: str
) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for entry in entries:
        number = entry.get("id")
        for key in ("id", *needed):
            if entry.get(key) is None:
                raise InputError(f"{source}: {kind} {number} lacks {key!r}")
        if not is_integer(number):
            raise InputError(f"{source}: {kind} id {number!r:.80} must be an integer")
        if number in found:
            raise InputError(f"{source}: {kind} id {number} occurs twice; ids must be unique")
        found[number] = dict(entry)
    return found


def _sized(record: dict[str, Any], source: str) -> dict[str, Any]:
    width, height = _pixels(record["width"]), _pixels(record["height"])
    if width is None or height is None:
        raise InputError(
            f"{source}: image {record['id']} has width {record['width']!r:.80} and height {record['height']!r:.80}; "
            "they must be integers >= 1"
        )
    return {**record, "width": width, "height": height}


def _pixels(value: object) -> int | None:
    """Return a side in pixels: a whole number >= 1, or the text of one, as some tools write it."""
    number = float(value) if isinstance(value, str) and value.isdecimal() else _number(value)
    return int(number) if number is not None and number >= 1 and number.is_integer() else None


def _annotation(
    entry: Mapping[str, Any], categories: Collection[int], images: Collection[int], source: str
) -> dict[str, Any]:
    number = entry.get("id")
    where = f"{source}: annotation {number}"
    category, image = entry.get("category_id"), entry.get("image_id")
    if not isinstance(category, int) or category not in categories:
        known = [str(one) for one in sorted(categories)]
        raise unknown_name(f"category in annotation {number} of {source}:", category, known)
    if not isinstance(image, int) or image not in images:
        raise InputError(f"{where} names image {image}, which {source} does not list")
    box = _box(entry, where)
    area = _area(entry, box, where)
    crowd = entry.get("iscrowd") or 0
    if crowd not in (0, 1):
        raise InputError(f"{where} has iscrowd {crowd!r:.80}; it must be 0 or 1")
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": area,
        "iscrowd": int(crowd),
    }


def _box(entry: Mapping[str, Any], where: str) -> list[float]:
    given = entry.get("bbox")
    box = [_number(value) for value in given] if isinstance(given, list) else []
    numbers = [value for value in box if value is not None]
    if len(box) != 4 or len(numbers) != 4:
        raise InputError(f"{where} has the bbox {given!r:.80}; it must be [x, y, width, height]")
    return numbers


def _area(entry: Mapping[str, Any], box: list[float], where: str) -> float:
    given = entry.get("area")
    area = box[2] * box[3] if given is None else _number(given)
    if area is None or (min(box[2:]) > 0 and not area >= 0):  # of a bad box the box is what is worth a word
        raise InputError(f"{where} has the area {given!r:.80}; it must be a number >= 0")
    return area


def _number(value: object) -> float | None:
    if not is_number(value):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


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
        InputError: the counts are not these, or a content has no list of images, so the files are not COCO's.
    """
    train14, val14 = _image_ids(train2014, "train2014"), _image_ids(val2014, "val2014")
    minival = _image_ids(val2017, "val2017") & val14
    trainval = (train14 | val14) - minival
    for name, found, wanted in (("minival", minival, MINIVAL), ("trainval35k", trainval, TRAINVAL35K)):
        if len(found) != wanted:
            raise InputError(
                f"{name} must have {wanted:,} images; these files give {len(found):,}, so they are not COCO's "
                "instances_train2014, instances_val2014 and instances_val2017"
            )
    return sorted(trainval), sorted(minival)


def _image_ids(content: object, source: str) -> set[int]:
    images = content.get("images") if isinstance(content, Mapping) else None
    if not isinstance(images, list):
        raise InputError(f"{source} lacks the list 'images'; it is not COCO's instances format")
    if not all(isinstance(image, Mapping) for image in images):
        raise InputError(f"{source}: an entry of 'images' is not an object")
    return set(_by_id(images, "image", (), source))


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
