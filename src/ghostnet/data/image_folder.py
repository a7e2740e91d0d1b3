"""Folders of images, one subfolder a class: what is in them, and a split that keeps the classes' shares.

`ImageSource` is what every set of compressed images looks like to the loader; `shards.py` has the other kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ghostnet.errors import InputError

IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"),
    ".avif",  # an old Pillow cannot decode it; then its images are named and left out, not passed over in silence
)


class ImageSource(Protocol):
    """Compressed images with labels, readable in any order from any process.

    Attributes:
        classes: class names; a label is an index into them.
        labels: int64 `(count,)`.
    """

    classes: list[str]
    labels: np.ndarray

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return what an error calls the image."""

    def read(self, index: int) -> bytes:
        """Return the bytes of the image's file."""

    def order(self, random: np.random.Generator) -> np.ndarray:
        """Return a random order of all indices."""


class _Files:
    """Image files on disk, read when asked for; a base of sources, which say what `paths` are."""

    paths: list[Path]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def name(self, index: int) -> str:
        """Return the image's path."""
        return str(self.paths[index])

    def read(self, index: int) -> bytes:
        """Return the bytes of the image's file."""
        return self.paths[index].read_bytes()

    def order(self, random: np.random.Generator) -> np.ndarray:
        """Return a random order of all images."""
        return random.permutation(len(self))


class ImageFolder(_Files):
    """Images below one folder a class; classes are the sorted folder names, images are sorted by path.

    Args:
        root: the folder; hidden files and folders and files without an image's ending are ignored.

    Raises:
        InputError: no such folder, no class folders, or a class without images.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise InputError(
                f"there is no folder {self.root}; give one with a subfolder of images for each class"
            )
        folders = sorted(p for p in self.root.iterdir() if p.is_dir() and not p.name.startswith("."))
        if not folders:
            raise InputError(
                f"{self.root} has no subfolders; put the images of each class into a folder of its name, or learn "
                "from a trained network without labels: --teacher FILE --unlabelled"
            )
        self.classes = [folder.name for folder in folders]
        self.paths = []
        labels: list[int] = []
        for label, folder in enumerate(folders):
            found = list_images(folder)
            if not found:
                raise InputError(
                    f"class {folder.name!r} in {self.root} holds no images; add some or remove its folder"
                )
            self.paths += found
            labels += [label] * len(found)
        self.labels = np.asarray(labels, dtype=np.int64)


class UnlabelledImages(_Files):
    """All images below a folder, sorted by path, whatever its subfolders are; every label is 0 and no class has a name.

    Args:
        root: the folder.

    Raises:
        InputError: no such folder, or no image in it.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise InputError(f"there is no folder {self.root} of images")
        self.paths = list_images(self.root)
        if not self.paths:
            raise InputError(f"{self.root} holds no images (files ending in {', '.join(IMAGE_ENDINGS)})")
        self.classes: list[str] = []
        self.labels = np.zeros(len(self.paths), dtype=np.int64)


def list_images(folder: Path) -> list[Path]:
    """Return the image files below a folder, sorted by path; hidden ones and those in hidden folders are left out."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS)
    return sorted(path for path in found if not _is_hidden(path.relative_to(folder)) and path.is_file())


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


class Subset:
    """Some images of a source, in the given order, with labels possibly renumbered.

    Args:
        source: where the images are.
        indices: which of them.
        labels: new labels for them; None keeps the source's.
        classes: names for the new labels; None keeps the source's.
    """

    def __init__(
        self,
        source: ImageSource,
        indices: Iterable[int],
        *,
        labels: np.ndarray | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.source = source
        self.indices = np.asarray(list(indices), dtype=np.int64)
        self.classes = list(source.classes if classes is None else classes)
        self.labels = source.labels[self.indices] if labels is None else labels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.indices)

    def name(self, index: int) -> str:
        """Return what an error calls the image."""
        return self.source.name(int(self.indices[index]))

    def read(self, index: int) -> bytes:
        """Return the bytes of the image's file."""
        return self.source.read(int(self.indices[index]))

    def order(self, random: np.random.Generator) -> np.ndarray:
        """Return a random order of all images, the source's own kind of order where it has one."""
        place = np.full(len(self.source), -1, dtype=np.int64)
        place[self.indices] = np.arange(len(self))
        ordered = place[self.source.order(random)]
        return ordered[ordered >= 0]


def split_stratified(source: ImageSource, fraction: float, seed: int) -> tuple[Subset, Subset]:
    """Split a set in two so that each class gives about the same share, and at least one image, to the second.

    Args:
        source: the whole set.
        fraction: share of the second part, in (0, 1).
        seed: decides which images; the same seed gives the same split.

    Returns:
        The part to train on and the part held out.

    Raises:
        InputError: a fraction outside (0, 1), or a class with fewer than two images.
    """
    random = _split_order(fraction, seed)
    held: list[np.ndarray] = []
    for label, name in enumerate(source.classes):
        members = random.permutation(np.flatnonzero(source.labels == label))
        if len(members) < 2:
            raise InputError(
                f"class {name!r} has {len(members)} image; a split into training and held-out images needs two"
            )
        held.append(_held_out(members, fraction))
    return _parts(source, np.concatenate(held))


def split_at_random(source: ImageSource, fraction: float, seed: int) -> tuple[Subset, Subset]:
    """Split a set in two at random, whatever its labels, at least one image in each part.

    Args:
        source: the whole set.
        fraction: share of the second part, in (0, 1).
        seed: decides which images; the same seed gives the same split.

    Returns:
        The part to train on and the part held out.

    Raises:
        InputError: a fraction outside (0, 1), or fewer than two images.
    """
    random, count = _split_order(fraction, seed), len(source)
    if count < 2:
        raise InputError(f"a split into training and held-out images needs two, and there is {count}")
    return _parts(source, _held_out(random.permutation(count), fraction))


def _split_order(fraction: float, seed: int) -> np.random.Generator:
    """Return what puts the images of a split in order, once the share makes sense."""
    if not 0 < fraction < 1:
        raise InputError(f"the held-out share (={fraction}) must be above 0 and below 1")
    return np.random.default_rng([seed, 0x5917])


def _held_out(members: np.ndarray, fraction: float) -> np.ndarray:
    """Return the first of two or more members: about a share, at least one, and not all."""
    return members[: min(max(1, round(fraction * len(members))), len(members) - 1)]


def _parts(source: ImageSource, held: np.ndarray) -> tuple[Subset, Subset]:
    chosen = np.sort(held)
    return Subset(source, np.setdiff1d(np.arange(len(source)), chosen)), Subset(source, chosen)
