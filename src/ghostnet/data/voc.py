"""Pascal VOC: one XML a picture, lists of names in `ImageSets/Main`.

An annotation's picture is the one of its name; `<filename>`, which copied files keep from their source, counts where
there is none. Coordinates are taken as the files have them (torchvision's and mmdetection's custom; VOC counts pixels
from 1).
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from ghostnet.data.detection import BoxCheck, DetectionSet, box_image, check_files
from ghostnet.data.image_folder import IMAGE_ENDINGS
from ghostnet.errors import InputError, unknown_name

_Objects = list[tuple[list[float], str, bool]]


def read_voc(
    root: str | os.PathLike[str],
    split: str = "",
    *,
    classes: Sequence[str] | None = None,
    bad_boxes: str = "error",
) -> DetectionSet:
    """Read a set in Pascal VOC's format: `Annotations/`, `JPEGImages/` and, for a split, `ImageSets/Main/`.

    Args:
        root: the folder.
        split: name of a list in `ImageSets/Main` ("train", "test"); empty takes every annotation.
        classes: names in the order of their labels; None takes those that occur, sorted, over the whole folder.
        bad_boxes: "error" or "drop" boxes without width or height or outside their image.

    Returns:
        The set; image ids count the sorted names of the whole folder from 1, so that they agree between splits.

    Raises:
        InputError: a missing folder, list, annotation or image, XML that is cut short, an image that is listed twice,
            an unknown class or a bad box.
    """
    place = Path(root).expanduser()
    files = {path.stem: path for path in sorted((place / "Annotations").glob("*.xml"))}
    if not files:
        raise InputError(f"{place} is not in Pascal VOC's format: there is no XML in {place / 'Annotations'}")
    names = _listed(place, split, files) if split else list(files)
    source = f"{place.name} {split}".strip()
    for name in names:
        if name not in files:
            raise InputError(
                f"{source} lists {name}, for which there is no {place / 'Annotations' / name}.xml"
            )
    pictures = _pictures(place / "JPEGImages")
    parsed = {name: _parse(path) for name, path in files.items() if classes is None or name in set(names)}
    known = (
        list(classes)
        if classes is not None
        else sorted({found for _, _, objects in parsed.values() for _, found, _ in objects})
    )
    numbers = {name: number for number, name in enumerate(files, 1)}
    check = BoxCheck(source, bad_boxes)
    images = []
    for name in sorted(names):
        file_name, size, objects = parsed[name]
        found = []
        for box, label, difficult in objects:
            if label not in known:
                raise unknown_name(f"class in {files[name].name}:", label, known)
            kept = check.checked(box, *size, files[name].name)
            if kept is not None:
                area = (kept[2] - kept[0]) * (kept[3] - kept[1])
                found.append((kept, known.index(label), difficult, area))
        path = place / "JPEGImages" / _picture(name, file_name, pictures, files)
        images.append(box_image(numbers[name], path, size, found))
    check.report()
    check_files(images, source)
    return DetectionSet(images, known, list(range(1, len(known) + 1)), source)


def _pictures(folder: Path) -> dict[str, list[str]]:
    """Return the names of a folder's picture files by their stems."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in IMAGE_ENDINGS:
            found.setdefault(path.stem, []).append(path.name)
    return found


def _picture(name: str, file_name: str, pictures: Mapping[str, list[str]], annotated: Container[str]) -> str:
    """Return an annotation's picture: the one of its own name, else the one that it says.

    Args:
        name: the annotation's own.
        file_name: of the picture, as the annotation says, where there is such a file, else "".
        pictures: from `_pictures`.
        annotated: the names of all annotations; each has its own picture.
    """
    own = pictures.get(name, [])
    if file_name in own:
        return file_name
    if own:
        return own[0]
    return file_name if file_name and Path(file_name).stem not in annotated else f"{name}.jpg"


def _listed(place: Path, split: str, annotated: Container[str]) -> list[str]:
    path = place / "ImageSets" / "Main" / f"{split}.txt"
    if not path.is_file():
        raise unknown_name(f"split of {place}:", split, [p.stem for p in path.parent.glob("*.txt")])
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; save it as that, a name a line") from error
    names = [_name_in(line, annotated) for line in lines if line.strip()]
    if not names:
        raise InputError(f"{path} lists no image")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path} lists {twice} twice; an image must occur once")
    return names


def _name_in(line: str, annotated: Container[str]) -> str:
    """Return the name in a line, which may have spaces in it and, in a class's list, -1, 0 or 1 behind it."""
    whole = line.strip()
    *before, last = whole.rsplit(maxsplit=1)
    readings = (whole, *(before if last in ("-1", "0", "1") else ()), whole.split()[0])
    return next((name for name in readings if name in annotated), whole)


def _parse(path: Path) -> tuple[str, tuple[int, int], _Objects]:
    """Return the image's file name, "" where there is no such file, its size, and its objects."""
    try:
        root = ElementTree.parse(path).getroot()
        size = _side(root, "width"), _side(root, "height")
        objects: _Objects = []
        for element in root.iter("object"):
            corners = [
                float(element.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")
            ]
            name = element.findtext("name", "").strip()
            if not name:
                raise InputError(f"{path} has an object without a name; name it, or take it out")
            difficult = element.findtext("difficult", "0").strip().lower() in ("1", "true")
            objects.append((corners, name, difficult))
    except InputError:
        raise
    except (ElementTree.ParseError, LookupError) as error:  # the latter: an encoding that is not known
        raise InputError(f"{path} is not whole XML ({error}); copy it again") from error
    except ValueError as error:
        raise InputError(f"{path} lacks a number for the image's size or a box's corner ({error})") from error
    if min(size) < 1:
        raise InputError(f"{path} says that its image is {size[0]}x{size[1]} pixels; correct it")
    file_name = root.findtext("filename", "").strip()
    picture = path.parent.parent / "JPEGImages" / file_name
    # some tools write other names than they save
    return file_name if picture.is_file() else "", size, objects


def _side(root: ElementTree.Element, name: str) -> int:
    value = float(root.findtext(f"size/{name}", ""))  # some tools write 320.0
    if not value.is_integer():
        raise ValueError(f"{name} {value}")
    return int(value)
