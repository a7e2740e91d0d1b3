"""What a detector sees in image files: boxes as data, in COCO's format, and drawn on the pictures."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ghostnet.data import UnreadableImageError, read_image
from ghostnet.detect.detector import Detector
from ghostnet.detect.exported import ExportedDetector
from ghostnet.errors import InputError
from ghostnet.progress import Progress

_COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#17becf", "#e377c2", "#bcbd22", "#8c564b")


@dataclass(frozen=True)
class FoundBox:
    """One detection: class name, score in [0, 1], and x1, y1, x2, y2 in pixels of the image."""

    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class DetectedImage:
    """Answers for one image, the highest score first.

    Attributes:
        path: the image's file.
        size: width and height in pixels.
        boxes: what was found.
        error: why the image could not be read; it has no answers then.
    """

    path: Path
    size: tuple[int, int] = (0, 0)
    boxes: tuple[FoundBox, ...] = field(default_factory=tuple)
    error: str = ""


@torch.inference_mode()
def detect_files(
    detector: Detector | ExportedDetector,
    paths: Sequence[Path],
    *,
    least_score: float = 0.5,
    out_dir: Path | None = None,
    strict: bool = False,
    progress: bool = False,
) -> list[DetectedImage]:
    """Detect in image files, one after the other.

    Args:
        detector: put into evaluation mode; an exported one, too.
        paths: the files.
        least_score: boxes below it are left out.
        out_dir: gets each picture with its boxes drawn on it, as STEM_boxes.jpg; None draws none.
        strict: raise at an image that cannot be read, instead of naming it on standard error.
        progress: show a bar on standard error.

    Raises:
        InputError: a least score outside [0, 1], no path, two files that would be drawn under one name, an image that
            cannot be read and `strict`, or none that can.
    """
    if not 0 <= least_score <= 1:
        raise InputError(f"the least score (={least_score}) must be between 0 and 1")
    if not paths:
        raise InputError("there are no images to detect in")
    drawn = _drawn_paths(paths, out_dir) if out_dir is not None else {}
    device = next((parameter.device for parameter in detector.parameters()), torch.device("cpu"))
    detector.eval()
    found: list[DetectedImage] = []
    with Progress("predict", total=len(paths), unit="images", enabled=progress) as bar:
        for path in paths:
            try:
                pixels = _usable(detector, path)
            except UnreadableImageError as error:
                if strict:
                    raise
                print(f"skipped {path}: {error.reason}", file=sys.stderr, flush=True)
                found.append(DetectedImage(path, error=error.reason))
                continue
            result = _detected(detector, path, pixels, least_score, device)
            if path in drawn:
                draw_boxes(pixels, result.boxes, detector.classes).save(drawn[path], quality=90)
            found.append(result)
            bar.update()
    if all(image.error for image in found):
        raise UnreadableImageError(str(found[0].path), found[0].error)
    return found


def _usable(detector: Detector | ExportedDetector, path: Path) -> Tensor:
    pixels = read_image(path.read_bytes, str(path))
    if isinstance(detector, ExportedDetector):  # its settings are not known
        return pixels
    try:
        detector.settings.check_image(*pixels.shape[1:])
    except InputError as error:
        raise UnreadableImageError(str(path), str(error)) from error
    return pixels


def _detected(
    detector: Detector | ExportedDetector,
    path: Path,
    pixels: Tensor,
    least_score: float,
    device: torch.device,
) -> DetectedImage:
    result = detector([pixels.to(device).float() / 255])[0]
    boxes = tuple(
        FoundBox(detector.classes[label], score, (box[0], box[1], box[2], box[3]))
        for box, label, score in zip(
            result["boxes"].tolist(), result["labels"].tolist(), result["scores"].tolist(), strict=True
        )
        if score >= least_score
    )
    return DetectedImage(path, (pixels.shape[2], pixels.shape[1]), boxes)


def drawn_path(path: Path, out_dir: Path) -> Path:
    """Return the file that an image is drawn to, which is never the image itself."""
    return out_dir / f"{path.stem}_boxes.jpg"


def _drawn_paths(paths: Sequence[Path], out_dir: Path) -> dict[Path, Path]:
    wanted: dict[Path, Path] = {}
    for path in paths:
        target = drawn_path(path, out_dir)
        if target in wanted.values():
            raise InputError(
                f"two images named {path.stem} would be drawn to {target}; predict them one by one"
            )
        wanted[path] = target
    out_dir.mkdir(parents=True, exist_ok=True)
    return wanted


def draw_boxes(pixels: Tensor, boxes: Sequence[FoundBox], classes: Sequence[str]) -> Any:
    """Return a Pillow image with boxes, class names and scores drawn on it, a colour a class.

    Args:
        pixels: uint8 `(3, H, W)`.
        boxes: what to draw.
        classes: all names, which decide the colours.
    """
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    pen = ImageDraw.Draw(image)
    size = max(10, min(image.size) // 32)
    font = ImageFont.load_default(size)
    for found in reversed(boxes):  # the surest ones last, on top
        colour = _COLOURS[list(classes).index(found.label) % len(_COLOURS)]
        x1, y1, x2, y2 = found.box
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=max(2, size // 8))
        text = f"{found.label} {found.score:.2f}"
        place = (x1, max(0.0, y1 - size - 2))
        pen.rectangle(pen.textbbox(place, text, font=font), fill=colour)
        pen.text(place, text, fill="white", font=font)
    return image


def as_coco(
    images: Sequence[DetectedImage], classes: Sequence[str], *, folders: Sequence[Path] = ()
) -> dict[str, Any]:
    """Return answers in COCO's format: `images`, `categories`, and `annotations` with a `score` each.

    An image that could not be read is left out: one of 0x0 pixels without boxes would say that it was looked at and
    nothing is there, and readers divide by its size.

    Args:
        images: from `detect_files`.
        classes: the detector's names; their ids count from 1.
        folders: files below one of them are named from there, others by their last part; where that gives two files one
            name, they have their whole paths.
    """
    seen = [image for image in images if not image.error]
    names = list(classes)
    files = _file_names([image.path for image in seen], folders)
    annotations = [
        {
            "image_id": number,
            "category_id": names.index(found.label) + 1,
            "bbox": [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)],
            "area": round((x2 - x1) * (y2 - y1), 2),
            "iscrowd": 0,
            "score": round(found.score, 5),
        }
        for number, image in enumerate(seen, 1)
        for found in image.boxes
        for x1, y1, x2, y2 in [found.box]
    ]
    return {
        "images": [
            {"id": number, "file_name": file, "width": image.size[0], "height": image.size[1]}
            for number, (image, file) in enumerate(zip(seen, files, strict=True), 1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations, 1)],
    }


def _file_names(paths: Sequence[Path], folders: Sequence[Path]) -> list[str]:
    names = []
    for path in paths:
        above = next((folder for folder in folders if path.is_relative_to(folder)), path.parent)
        names.append(path.relative_to(above).as_posix())
    counts = Counter(names)
    return [path.as_posix() if counts[name] > 1 else name for path, name in zip(paths, names, strict=True)]
