"""COCO's average precision, by pycocotools: its twelve numbers and a row for each class.

AP is the mean over overlaps 0.50, 0.55, …, 0.95; small, medium and large are below 32², 96² and above pixels.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ghostnet.data import check_instances, read_json
from ghostnet.errors import InputError

STATS = (
    *("AP", "AP50", "AP75", "APsmall", "APmedium", "APlarge"),
    *("AR1", "AR10", "AR100", "ARsmall", "ARmedium", "ARlarge"),
)


@dataclass(frozen=True)
class CocoScores:
    """Result of an evaluation; every number is in [0, 1], or -1 where there is nothing to measure.

    Attributes:
        stats: the twelve numbers under the names of `STATS`.
        classes: for each class its `AP`, `AP50` and `boxes`, the number of boxes to find.
        images: number of images.
        seconds: wall time of detecting, 0 for a results file.
    """

    stats: dict[str, float]
    classes: dict[str, dict[str, float]]
    images: int
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as a flat JSON-able dictionary, with `classes`, `images` and `seconds`."""
        return {**self.stats, "classes": self.classes, "images": self.images, "seconds": self.seconds}


def score_results(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], *, seconds: float = 0.0
) -> CocoScores:
    """Measure detections against ground truth.

    Args:
        truth: COCO's instances as a dictionary (`DetectionSet.to_coco()`).
        results: COCO's results: `image_id`, `category_id`, `bbox` as x, y, width, height, and `score`.
        seconds: goes into the result.

    Raises:
        InputError: no image to evaluate on, ground truth that is not COCO's format, or a result of an unknown image or
            category or without a number.
    """
    return _scored(_ground_truth(truth), results, seconds)


def score_file(
    truth: Mapping[str, Any] | str | os.PathLike[str], results: str | os.PathLike[str]
) -> CocoScores:
    """Measure a saved results file.

    Args:
        truth: COCO's instances, or the path of their JSON.
        results: a JSON list of results, or an object whose `annotations` they are, such as `ghostnet detect predict
            --coco` writes. Where the object lists `images` and `categories` too, and numbers them otherwise than the
            ground truth, images are told by their file's name, of whose folders as many count as tell them apart, and
            categories by theirs.

    Raises:
        InputError: JSON that is cut short or of another form, a file or a category that the ground truth lacks or that
            could be several, an image of another size there, or as `score_results`.
    """
    ground = _ground_truth(truth if isinstance(truth, Mapping) else read_json(truth))
    found = read_json(results)
    if isinstance(found, dict):
        found = _renumbered(found, ground)
    if not isinstance(found, list):
        raise InputError(
            f"{os.fspath(results)} must be a JSON list of results, each with image_id, bbox and score"
        )
    return _scored(ground, found, seconds=0.0)


def _ground_truth(content: object) -> dict[str, Any]:
    """Return checked instances whose boxes are numbered: pycocotools takes 0 for "matched to nothing"."""
    truth = check_instances(content, "the ground truth", files=False)
    if not truth["images"]:
        raise InputError("there is nothing to evaluate on: the set has no image")
    for number, annotation in enumerate(truth["annotations"], 1):
        if not all(map(math.isfinite, annotation["bbox"])):
            raise InputError(
                f"the ground truth: annotation {annotation['id']} has the bbox {annotation['bbox']}; it must be finite"
            )
        annotation["id"] = number
    return truth


def _scored(truth: dict[str, Any], results: Sequence[Mapping[str, Any]], seconds: float) -> CocoScores:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    _check(truth, results)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints tables of its own
        ground = COCO()
        ground.dataset = truth
        ground.createIndex()
        found = COCO()
        found.dataset = {**truth, "annotations": _as_annotations(results)}
        found.createIndex()
        evaluation = COCOeval(ground, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = _row_names(truth["categories"])
    counts = dict.fromkeys(names, 0)
    for annotation in truth["annotations"]:
        counts[annotation["category_id"]] += not annotation.get("iscrowd", 0)
    # precision: overlaps x recalls x classes x sizes x detections; all sizes, 100 detections
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    classes = {
        names[number]: {
            "AP": _mean(precision[:, :, place]),
            "AP50": _mean(precision[0, :, place]),
            "boxes": counts[number],
        }
        for place, number in enumerate(evaluation.params.catIds)
    }
    stats = {name: float(value) for name, value in zip(STATS, evaluation.stats, strict=True)}
    return CocoScores(stats, classes, len(truth["images"]), seconds)


def _row_names(categories: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Return what each class is called in the result; its number is added where two have one name."""
    names = [str(category["name"]) for category in categories]
    return {
        category["id"]: name if names.count(name) == 1 else f"{name} ({category['id']})"
        for category, name in zip(categories, names, strict=True)
    }


def _renumbered(found: Mapping[str, Any], truth: Mapping[str, Any]) -> Any:
    """Return a file's results with the ground truth's numbers for the images and categories that the file lists."""
    results = found.get("annotations")
    if not isinstance(results, list):
        return results
    _renumber_images_(results, found.get("images"), truth["images"])
    theirs, ours = _names(found.get("categories"), "name"), _names(truth["categories"], "name")
    differing = {number for number, name in theirs.items() if ours.get(number) != name}
    for place, result in enumerate(results):
        number = _number(result, "category_id")
        if number in differing:
            same = [own for own, name in ours.items() if name == theirs[number]]
            if len(same) != 1:
                raise _no_partner(place, theirs[number], "name", same)
            results[place] = {**result, "category_id": same[0]}
    return results


def _renumber_images_(results: list[Any], listed: object, truth: Sequence[Mapping[str, Any]]) -> None:
    """Give results the ground truth's numbers of their images, in place."""
    theirs, ours = _names(listed, "file_name"), _names(truth, "file_name")
    if not ours or all(ours.get(number) == name for number, name in theirs.items()):
        return
    tails: dict[str, list[int]] = {}
    for own, name in ours.items():
        tails.setdefault(_tail(name, 1), []).append(own)
    partners = {number: _partners(name, ours, tails) for number, name in theirs.items()}
    wanted = Counter(own for same in partners.values() for own in same)
    sizes, own_sizes = _sizes(listed), _sizes(truth)
    for place, result in enumerate(results):
        number = _number(result, "image_id")
        if number not in theirs:
            continue
        same = partners[number]
        if len(same) != 1 or wanted[same[0]] > 1:
            raise _no_partner(place, theirs[number], "file_name", same)
        size, own_size = sizes.get(number), own_sizes.get(same[0])
        if size and own_size and size != own_size:
            raise InputError(
                f"result {place} is of {theirs[number]} of {size[0]}x{size[1]} pixels, which has "
                f"{own_size[0]}x{own_size[1]} in the ground truth; they are not the same image"
            )
        results[place] = {**result, "image_id": same[0]}


def _partners(name: str, ours: Mapping[int, str], tails: Mapping[str, list[int]]) -> list[int]:
    """Return the images of the ground truth whose paths end most like this one, the file's name at least."""
    same = tails.get(_tail(name, 1), [])
    for parts in range(2, len(name.split("/")) + 1):
        closer = [own for own in same if _tail(ours[own], parts) == _tail(name, parts)]
        if not closer:
            break
        same = closer
    return same


def _tail(name: str, parts: int) -> str:
    return "/".join(name.split("/")[-parts:])


def _number(result: object, key: str) -> int | None:
    number = result.get(key) if isinstance(result, Mapping) else None
    return number if isinstance(number, int) else None


def _no_partner(place: int, name: str, field: str, same: Sequence[int]) -> InputError:
    count = "no" if not same else "more than one"
    if len(same) == 1:  # and it is another's, too
        return InputError(f"result {place} is of {name}, and the file has more than one {field} like that")
    return InputError(f"result {place} is of {name}, and the ground truth has {count} {field} like that")


def _names(entries: object, field: str) -> dict[int, str]:
    """Return the names of a list of images or categories by their numbers."""
    listed = entries if isinstance(entries, list) else []
    return {
        entry["id"]: str(entry[field]).replace("\\", "/") if field == "file_name" else str(entry[field])
        for entry in listed
        if isinstance(entry, Mapping) and isinstance(entry.get("id"), int) and entry.get(field) is not None
    }


def _sizes(entries: object) -> dict[int, tuple[int, int]]:
    """Return width and height of the images of a list that says them, by their numbers."""
    listed = entries if isinstance(entries, list) else []
    return {
        entry["id"]: (entry["width"], entry["height"])
        for entry in listed
        if isinstance(entry, Mapping)
        and all(isinstance(entry.get(key), int) for key in ("id", "width", "height"))
    }


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else -1.0


def _check(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    images = {image["id"] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    for number, result in enumerate(results):
        if not isinstance(result, Mapping):
            raise InputError(f"result {number} is {result!r}, not an object with image_id, bbox and score")
        for key in ("image_id", "category_id", "bbox", "score"):
            if key not in result:
                raise InputError(
                    f"result {number} lacks {key!r}; each needs image_id, category_id, bbox and score"
                )
            if key.endswith("_id") and not isinstance(result[key], int | float | str):
                raise InputError(f"result {number} has {key} {result[key]!r:.80}, which is no number")
        if result["image_id"] not in images:
            raise InputError(
                f"result {number} is of image {result['image_id']}, which the ground truth lacks"
            )
        if result["category_id"] not in categories:
            raise InputError(
                f"result {number} is of category {result['category_id']}, which the ground truth lacks"
            )
        box, score = result["bbox"], result["score"]
        if not isinstance(box, Sequence) or len(box) != 4 or not all(map(_is_number, (*box, score))):
            raise InputError(
                f"result {number} has bbox {box!r} and score {score!r}; they must be x, y, width, height and a "
                "number, all finite"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _as_annotations(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "image_id": result["image_id"],
            "category_id": result["category_id"],
            "bbox": list(result["bbox"]),
            "area": float(result["bbox"][2] * result["bbox"][3]),
            "iscrowd": 0,
            "score": float(result["score"]),
        }
        for number, result in enumerate(results, 1)
    ]
