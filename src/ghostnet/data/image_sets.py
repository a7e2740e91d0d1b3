"""From a path to sets of images: class folders or shards, whole or in `train` and `val`, labels by a network's classes.

Left out: downloading; ImageNet itself has to be brought by who may have it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ghostnet.data.cifar10 import CIFAR10_CLASSES, Cifar10
from ghostnet.data.image_folder import ImageFolder, ImageSource, Subset, split_stratified
from ghostnet.data.shards import ShardFolder, shard_paths
from ghostnet.errors import InputError, unknown_name
from ghostnet.files import files_in
from ghostnet.progress import Progress

_TRAINING = ("train", "training")
_HELD_OUT = ("val", "validation", "valid", "test", "testing")


def open_images(path: str | os.PathLike[str]) -> ImageSource:
    """Open one set: a folder with a subfolder a class, a folder of `.tar` shards, or one shard.

    Raises:
        InputError: nothing there, or neither of them.
    """
    root = Path(path).expanduser()
    if shard_paths(root):
        return ShardFolder(root)
    if root.is_file():
        raise InputError(
            f"{root} is a file; give a folder with a subfolder a class, a folder of shards or a .tar"
        )
    return ImageFolder(root)


def open_held_out(path: str | os.PathLike[str]) -> ImageSource:
    """Open what a network is evaluated on: the `val` (or `test`) folder where there is one, else the whole set."""
    root = Path(path).expanduser()
    found = _part(root, _HELD_OUT)
    return open_images(found if found is not None and not _is_class(root, found) else path)


def refuse_parts(path: str | os.PathLike[str]) -> None:
    """Raise where a folder holds a set in parts, `train` and `val`, whose names would be taken for those of classes.

    Raises:
        InputError: it does; the line names the parts.
    """
    root = Path(path).expanduser()
    found = [_part(root, names) for names in (_TRAINING, _HELD_OUT)]
    parts = [part for part in found if part is not None and not _is_class(root, part)]
    if parts and not shard_paths(root):
        names = " and ".join(part.name for part in parts)
        raise InputError(f"{root} holds a set in parts, {names}, which are no classes; name one, {parts[0]}")


def training_folder(path: str | os.PathLike[str]) -> Path:
    """Return what a network may look at before it is evaluated: the `train` folder where there is one, else all."""
    root = Path(path).expanduser()
    found = _part(root, _TRAINING)
    return found if found is not None and not _is_class(root, found) else root


def open_split(
    path: str | os.PathLike[str], *, held_out_fraction: float, seed: int
) -> tuple[ImageSource, ImageSource]:
    """Open what a network is trained on and what is held out.

    Args:
        path: a folder with `train` and `val` (or `test`), each a set, or one set that is split class by class, be it
            in a folder `train` or not. The case of these names does not matter.
        held_out_fraction: share of the split; not used where the folders say it.
        seed: of the split.

    Returns:
        Training set and held-out set, labels of both in the training set's classes.

    Raises:
        InputError: neither, a class that only the held-out part has, nothing to train on, or a set that cannot be
            split.
    """
    root = Path(path).expanduser()
    training, held_out = _part(root, _TRAINING), _part(root, _HELD_OUT)
    if training is not None and held_out is not None:
        trained = open_images(training)
        return trained, with_labels_of(open_images(held_out), trained.classes, str(held_out))
    parts_alone = not shard_paths(root) and _only_parts(root)  # else the name is that of a class among others
    if held_out is not None and parts_alone:
        raise InputError(
            f"{root} has {held_out.name} but nothing to train on; add a folder train, or give {held_out} to split it"
        )
    whole = training if training is not None and parts_alone else root
    return split_stratified(open_images(whole), held_out_fraction, seed)


def _part(root: Path, names: tuple[str, ...]) -> Path | None:
    folders = {folder.name.lower(): folder for folder in sorted(_folders(root), reverse=True)}
    return next((folders[name] for name in names if name in folders), None)


def _is_class(root: Path, folder: Path) -> bool:
    """Tell whether a folder named like a part is one class among others: `train` beside `bus` and `car`."""
    if _only_parts(root) or (_part(root, _TRAINING) is not None and _part(root, _HELD_OUT) is not None):
        return False
    return not _folders(folder) and not shard_paths(folder)


def _only_parts(root: Path) -> bool:
    return all(folder.name.lower() in (*_TRAINING, *_HELD_OUT) for folder in _folders(root))


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return [entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def with_labels_of(source: ImageSource, classes: Sequence[str], place: str) -> ImageSource:
    """Return a source whose labels are indices into a network's class names.

    Raises:
        InputError: a class of the source that the network does not know.
    """
    names = list(classes)
    if source.classes == names:
        return source
    for name in source.classes:
        if name not in names:
            raise unknown_name(f"class in {place}: the network was not trained on", name, names)
    renumbered = np.asarray([names.index(name) for name in source.classes], dtype=np.int64)[source.labels]
    return Subset(source, range(len(source)), labels=renumbered, classes=names)


def with_class_indices(source: ImageSource, count: int, place: str) -> ImageSource:
    """Return a source whose labels fit a network of `count` classes whose names are not known.

    Folders named by class numbers are taken at their word; names of another kind must be `count`, in sorted order.

    Raises:
        InputError: neither holds.
    """
    numbers = [int(name) if name.isdecimal() else -1 for name in source.classes]
    if all(0 <= number < count for number in numbers) and len(set(numbers)) == len(numbers):
        renumbered = np.asarray(numbers, dtype=np.int64)[source.labels]
        names = [str(number) for number in range(count)]
        return Subset(source, range(len(source)), labels=renumbered, classes=names)
    if all(number >= 0 for number in numbers):
        beyond = next((name for name in source.classes if int(name) >= count), source.classes[0])
        raise InputError(
            f"{place} has a class {beyond!r}, the network {count} classes, and its file names none; name each folder "
            f"by its class number (0 to {count - 1})"
        )
    if len(source.classes) == count:
        return source
    raise InputError(
        f"{place} has {len(source.classes)} classes, the network {count}, and its file names none; "
        f"name the folders by class number (0 to {count - 1})"
    )


def write_cifar10_folder(
    dataset: Cifar10,
    out_dir: str | os.PathLike[str],
    *,
    per_class: int | None = None,
    classes: Sequence[str] = CIFAR10_CLASSES,
    progress: bool = False,
) -> dict[str, int]:
    """Write CIFAR-10 as PNG files: `train/CLASS/00001.png` and `val/CLASS/…`, for those who want to see folders work.

    Args:
        dataset: from `load_cifar10`.
        out_dir: a new or empty folder, or one that an interrupted call left: what is there is not written again.
        per_class: training images a class, the first ones; None writes all. The test set shrinks in proportion.
        classes: names of the classes to write.
        progress: show a bar on standard error.

    Returns:
        Number of images in the folder, by part.

    Raises:
        InputError: the folder holds other files, `per_class` is not between 5 and 5,000, or a class is unknown or
            named twice.
    """
    out = Path(out_dir)
    for name in classes:
        if name not in CIFAR10_CLASSES:
            raise unknown_name("class of CIFAR-10", name, CIFAR10_CLASSES)
    twice = next((name for name in classes if list(classes).count(name) > 1), None)
    if twice is not None:
        raise InputError(f"class {twice!r} is named twice; name each once")
    wanted = [CIFAR10_CLASSES.index(name) for name in classes]
    if per_class is not None and not 5 <= per_class <= 5000:
        raise InputError(f"--per-class (={per_class}) must be between 5 and 5000")
    fewer = None if per_class is None else per_class // 5
    parts = {
        "train": _chosen(out / "train", dataset.train_images, dataset.train_labels, per_class, wanted),
        "val": _chosen(out / "val", dataset.test_images, dataset.test_labels, fewer, wanted),
    }
    known = {path for files in parts.values() for path in files}
    if out.exists() and any(file.with_suffix(".png") not in known for file in files_in(out)):
        raise InputError(f"{out} is not empty; name another folder")
    for part, files in parts.items():
        _write_missing(files, f"write {part}", progress)
    return {part: len(files) for part, files in parts.items()}


def _chosen(
    folder: Path, images: np.ndarray, labels: np.ndarray, most: int | None, wanted: Sequence[int]
) -> dict[Path, np.ndarray]:
    """Return the pixels of the first images of each wanted class, by their files."""
    chosen = np.concatenate([np.flatnonzero(labels == label)[:most] for label in wanted])
    return {folder / CIFAR10_CLASSES[labels[index]] / f"{index:05d}.png": images[index] for index in chosen}


def _write_missing(files: Mapping[Path, np.ndarray], description: str, progress: bool) -> None:
    """Write the images that are not there, each under another name first: a file of its own name is whole."""
    from PIL import Image

    missing = [path for path in files if not path.is_file()]
    done = len(files) - len(missing)
    with Progress(description, total=len(files), unit="images", start=done, enabled=progress) as bar:
        for path in missing:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".part")
            Image.fromarray(files[path]).save(unfinished, format="PNG")
            unfinished.replace(path)
            bar.update()
