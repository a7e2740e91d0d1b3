"""Images with boxes: one set, whatever format it was read from, and the rules for boxes that make no sense.

Crowd boxes (COCO) and difficult ones (Pascal VOC) are not trained on; in evaluation they neither count as missed nor
make a detection wrong. Images without boxes stay in the set. Readers: `coco.py` and `voc.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ghostnet.data.decode import decode_image
from ghostnet.errors import InputError, unknown_name

BAD_BOX_RULES = ("error", "drop")
DROP_BOXES = "bad_boxes=drop"  # how recipes and their overrides ask for it
_ROUNDING = 1.5  # pixels that a box may reach over its image's edge before it is worth a word


@dataclass(frozen=True)
class BoxImage:
    """One image and its boxes.

    Attributes:
        id: number of the image in its set, as results files use it.
        path: of the image's file.
        width, height: in pixels.
        boxes: float32 `(n, 4)`: x1, y1, x2, y2 in pixels.
        labels: int64 `(n,)`, indices into the set's `classes`.
        ignored: bool `(n,)`: crowd or difficult.
        areas: float64 `(n,)` in pixels; of the segmentation where the format has one, as COCO's sizes are defined.
    """

    id: int
    path: Path
    width: int
    height: int
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    areas: np.ndarray


@dataclass(frozen=True)
class DetectionSet:
    """Images with boxes.

    Attributes:
        images: sorted by id.
        classes: names.
        category_ids: the number of each class in results files.
        source: what errors call the set.
    """

    images: list[BoxImage]
    classes: list[str]
    category_ids: list[int]
    source: str

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def read(self, index: int) -> Tensor:
        """Decode an image: uint8 `(3, H, W)`.

        Raises:
            InputError: the file is missing, damaged, or not of the size that the annotation says.
        """
        image = self.images[index]
        try:
            content = image.path.read_bytes()
        except OSError as error:
            raise InputError(
                f"{self.source} lists {image.path}, which cannot be read: {error.strerror}"
            ) from error
        pixels = decode_image(content, str(image.path))
        if tuple(pixels.shape[1:]) != (image.height, image.width):
            raise InputError(
                f"{image.path} is {pixels.shape[2]}x{pixels.shape[1]} pixels, {self.source} says "
                f"{image.width}x{image.height}; its boxes would not fit"
            )
        return pixels

    def with_boxes(self) -> DetectionSet:
        """Return the images that have a box to learn from."""
        kept = [image for image in self.images if (~image.ignored).any()]
        return DetectionSet(kept, self.classes, self.category_ids, self.source)

    def with_classes(self, names: Sequence[str]) -> DetectionSet:
        """Return the set with labels as a detector numbers its classes.

        Classes that it lacks must not occur; those that no box is of are left out.

        Raises:
            InputError: a box, crowd or not, is of a class that the detector does not know.
        """
        known = list(names)
        used = {int(label) for image in self.images for label in image.labels}
        for label, name in enumerate(self.classes):
            if label in used and name not in known:
                raise unknown_name(f"class in {self.source}: the detector was not trained on", name, known)
        places = np.asarray(
            [known.index(name) if name in known else -1 for name in self.classes], dtype=np.int64
        )
        numbered = zip(self.classes, self.category_ids, strict=True)
        ids = {name: number for name, number in numbered if name in known}
        free = iter(number for number in range(1, 2 + len(known) + len(ids)) if number not in ids.values())
        images = [
            BoxImage(i.id, i.path, i.width, i.height, i.boxes, places[i.labels], i.ignored, i.areas)
            for i in self.images
        ]
        return DetectionSet(
            images, known, [ids[name] if name in ids else next(free) for name in known], self.source
        )

    def to_coco(self) -> dict[str, Any]:
        """Return the set as COCO's JSON, which is what its evaluation takes.

        Files are named from the folder that all lie below.
        """
        places = [image.path.absolute() for image in self.images]
        folder = os.path.commonpath({place.parent for place in places} or {Path()})
        annotations = [
            {
                "id": 0,
                "image_id": image.id,
                "category_id": self.category_ids[label],
                "bbox": [float(v) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
                "area": float(area),
                "iscrowd": int(ignored),
            }
            for image in self.images
            for box, label, ignored, area in zip(
                image.boxes, image.labels, image.ignored, image.areas, strict=True
            )
        ]
        for number, annotation in enumerate(annotations, 1):
            annotation["id"] = number  # pycocotools takes 0 for "matched to nothing"
        return {
            "info": {"description": self.source},
            "images": [
                {
                    "id": image.id,
                    "file_name": place.relative_to(folder).as_posix(),
                    "width": image.width,
                    "height": image.height,
                }
                for image, place in zip(self.images, places, strict=True)
            ],
            "annotations": annotations,
            "categories": [
                {"id": number, "name": name}
                for number, name in zip(self.category_ids, self.classes, strict=True)
            ],
        }


class BadBoxError(InputError):
    """A box makes no sense; the message ends with how to leave such boxes out.

    Args:
        fault: the box and what is wrong with it.
        way_out: what the user types to drop such boxes.
    """

    def __init__(self, fault: str, way_out: str = DROP_BOXES) -> None:
        super().__init__(f"{fault}; correct it, or leave such boxes out with {way_out}")
        self.fault = fault


@dataclass
class BoxCheck:
    """Applies the rules to the boxes of a set while it is read, and says once what it dropped or cut.

    Attributes:
        source: what errors call the set.
        rule: "error" raises at a box of no width or height or outside its image; "drop" leaves it out.
    """

    source: str
    rule: str = "error"
    dropped: int = 0
    cut: int = 0
    _kept: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.rule not in BAD_BOX_RULES:
            raise unknown_name("rule for bad boxes", self.rule, BAD_BOX_RULES)

    def checked(self, box: Sequence[float], width: int, height: int, place: str) -> list[float] | None:
        """Return a box `x1, y1, x2, y2` within its image, or None where it is dropped.

        Raises:
            BadBoxError: the box makes no sense and the rule is "error".
        """
        x1, y1, x2, y2 = box
        shown = [round(float(value), 2) for value in box]
        fault = ""
        if not np.isfinite(box).all():
            fault = "is not finite"
        elif x2 <= x1 or y2 <= y1:
            fault = f"has width {x2 - x1:g} and height {y2 - y1:g}, which must be above 0"
        elif x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
            fault = f"lies outside its image of {width}x{height} pixels"
        if fault:
            if self.rule == "error":
                raise BadBoxError(f"{place}: the box {shown} {fault}")
            self.dropped += 1
            return None
        if min(x1, y1) < -_ROUNDING or x2 > width + _ROUNDING or y2 > height + _ROUNDING:
            self.cut += 1
        return [max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))]

    def report(self) -> None:
        """Name on standard error what was dropped or cut."""
        if self.dropped:
            print(
                f"{self.source}: {self.dropped} boxes without width or height or outside their image dropped",
                file=sys.stderr,
            )
        if self.cut:
            print(f"{self.source}: {self.cut} boxes cut off at their image's edge", file=sys.stderr)


def box_image(
    number: int, path: Path, size: tuple[int, int], found: Sequence[tuple[list[float], int, bool, float]]
) -> BoxImage:
    """Return an image from its `(box, label, ignored, area)` tuples.

    Args:
        number: the image's id.
        path: of its file.
        size: width and height.
        found: its boxes.
    """
    boxes = np.asarray([entry[0] for entry in found], dtype=np.float32).reshape(-1, 4)
    labels = np.asarray([entry[1] for entry in found], dtype=np.int64)
    ignored = np.asarray([entry[2] for entry in found], dtype=bool)
    areas = np.asarray([entry[3] for entry in found], dtype=np.float64)
    return BoxImage(number, path, size[0], size[1], boxes, labels, ignored, areas)


def check_files(images: Sequence[BoxImage], source: str) -> None:
    """Raise unless every listed image is there.

    Raises:
        InputError: the first one that is missing, and how many are.
    """
    missing = [image.path for image in images if not image.path.is_file()]
    if missing:
        raise InputError(
            f"{source} lists {missing[0]}, which is missing ({len(missing)} of {len(images)} images are); "
            "check the folder of images"
        )
