"""WebDataset shards: tar files of `KEY.jpg` beside `KEY.cls` (the label in digits), read and written.

Read by a plain index of byte ranges, not by the `webdataset` library: an index knows how many images there are, gives
each a place in a shuffled order that depends on (seed, epoch) alone, and so lets a killed run go on without repeating
or losing one; a stream through a shuffle buffer cannot. Order is by blocks: the images of 16 random shards at a time
are mixed, so that reading stays within a few files. Left out: compressed tars and shards behind URLs.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ghostnet.data.image_folder import IMAGE_ENDINGS, ImageSource
from ghostnet.errors import InputError
from ghostnet.files import atomic_group
from ghostnet.progress import Progress

INDEX_NAME = "shards.json"
_SCHEMA = 1
_BLOCK = 512  # bytes; every tar member starts at a multiple
_MIXED_SHARDS = 16
_MOST_CLASSES = 1_000_000  # a damaged label must not ask for a list of names as long as memory


@dataclass(frozen=True)
class _Shard:
    """One tar file: where each image's bytes lie in it."""

    path: Path
    names: list[str]
    labels: list[int]
    offsets: list[int]
    sizes: list[int]


class ShardFolder:
    """All `.tar` files of a folder (or one of them) as one set of images, sorted by file name.

    Args:
        root: the folder or tar. `shards.json` beside the tars, written by `write_shards`, holds class names and byte
            ranges; without it the tars are scanned and classes are named by their numbers.

    Raises:
        InputError: no shards, a shard that is cut off or differs from the index, an image without a label.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        paths = shard_paths(self.root)
        if not paths:
            raise InputError(f"{self.root} holds no shards; give a folder with .tar files")
        index = self.root / INDEX_NAME if self.root.is_dir() else self.root.parent / INDEX_NAME
        if index.is_file():
            self.classes, shards = _read_index(index, paths)
        else:
            shards = [_scan(path) for path in paths]
            highest = max(max(shard.labels) for shard in shards)
            self.classes = [str(label) for label in range(highest + 1)]
        self._shards = shards
        self.labels = np.asarray([label for shard in shards for label in shard.labels], dtype=np.int64)
        self._starts = np.cumsum([0, *(len(shard.names) for shard in shards)])

    def __len__(self) -> int:
        """Return the number of images."""
        return int(self._starts[-1])

    def _find(self, index: int) -> tuple[_Shard, int]:
        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._shards[which], int(index - self._starts[which])

    def name(self, index: int) -> str:
        """Return the shard's path and the name of the image in it."""
        shard, place = self._find(index)
        return f"{shard.path}:{shard.names[place]}"

    def read(self, index: int) -> bytes:
        """Return the bytes of the image's file."""
        shard, place = self._find(index)
        with shard.path.open("rb") as stream:  # opened anew: no handle is shared between worker processes
            stream.seek(shard.offsets[place])
            return stream.read(shard.sizes[place])

    def order(self, random: np.random.Generator) -> np.ndarray:
        """Return a random order of all images that stays within 16 shards at a time."""
        shards = random.permutation(len(self._shards))
        parts = []
        for start in range(0, len(shards), _MIXED_SHARDS):
            block = [
                np.arange(self._starts[shard], self._starts[shard + 1])
                for shard in shards[start : start + _MIXED_SHARDS]
            ]
            parts.append(random.permutation(np.concatenate(block)))
        return np.concatenate(parts)


def shard_paths(root: Path) -> list[Path]:
    """Return a folder's tar files, or the tar itself; empty where there are none."""
    if root.is_file() and root.suffix == ".tar":
        return [root]
    return sorted(path for path in root.glob("*.tar") if path.is_file()) if root.is_dir() else []


def _cut_off(path: Path, detail: str) -> InputError:
    return InputError(f"shard {path} is cut off or damaged ({detail}); fetch or write it again")


def _scan(path: Path) -> _Shard:
    """Read the headers of a tar: pairs of an image and its label, by key."""
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if member.offset_data + member.size > size:
                    raise _cut_off(path, f"{member.name} ends beyond its {size} bytes")
                folder, _, base = member.name.rpartition("/")
                stem, _, ending = base.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if ending.lower() == "cls":
                    labels[key] = _label(archive, member, path)
                elif f".{ending.lower()}" in IMAGE_ENDINGS:
                    images[key] = (member.name, member.offset_data, member.size)
            end = archive.offset
    except (tarfile.TarError, EOFError, OSError) as error:
        raise _cut_off(path, str(error)) from error
    if not _ends_whole(path, end):
        raise _cut_off(path, "its end mark is missing")
    return _paired(path, images, labels)


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> int:
    stream = archive.extractfile(member)
    text = stream.read(32).strip() if stream is not None else b""
    if not text.isdigit():
        raise InputError(
            f"{path}:{member.name} (={text.decode(errors='replace')!r}) must be a class number in digits"
        )
    if int(text) > _MOST_CLASSES:
        raise InputError(
            f"{path}:{member.name} (={int(text)}) is beyond the {_MOST_CLASSES:,} classes allowed"
        )
    return int(text)


def _ends_whole(path: Path, end: int) -> bool:
    """Tell whether the block of zeros that ends a tar is there; a file cut between two members lacks it."""
    with path.open("rb") as stream:
        stream.seek(end)
        return stream.read(_BLOCK) == _BLOCK * b"\0"


def _paired(path: Path, images: dict[str, tuple[str, int, int]], labels: dict[str, int]) -> _Shard:
    if not images:
        raise InputError(f"shard {path} holds no images; each is a member KEY.jpg beside KEY.cls")
    for key in images:
        if key not in labels:
            raise InputError(f"{path}:{key} has no label; write its class number into a member {key}.cls")
    keys = list(images)
    return _Shard(
        path,
        [images[key][0] for key in keys],
        [labels[key] for key in keys],
        [images[key][1] for key in keys],
        [images[key][2] for key in keys],
    )


def _read_index(index: Path, paths: list[Path]) -> tuple[list[str], list[_Shard]]:
    """Take byte ranges from `shards.json`, after a check of every file's size.

    Raises:
        InputError: the index is damaged, or names and sizes do not agree with the files.
    """
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        if content["schema"] != _SCHEMA:
            raise KeyError("schema")
        classes = [str(name) for name in content["classes"]]
        entries = {entry["file"]: entry for entry in content["shards"]}
        for path in paths:
            if path.name not in entries:
                raise InputError(
                    f"{index} does not know {path.name}; delete the index to have the shards scanned"
                )
            size, wanted = path.stat().st_size, entries[path.name]["bytes"]
            if size != wanted:
                raise _cut_off(path, f"it has {size} bytes, {index.name} says {wanted}")
        missing = sorted(set(entries) - {path.name for path in paths}) if len(paths) > 1 else []
        if missing:
            raise InputError(
                f"{index} names {missing[0]}, which is not there; fetch it or write the shards again"
            )
        fields = ("names", "labels", "offsets", "sizes")
        return classes, [_Shard(path, *(entries[path.name][field] for field in fields)) for path in paths]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{index} is not an index of shards; delete it to have them scanned") from error


def write_shards(
    source: ImageSource,
    out_dir: str | Path,
    *,
    images_per_shard: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> list[Path]:
    """Write a set of images as WebDataset shards with an index; the files' bytes are passed on as they are.

    Args:
        source: an `ImageFolder`, for instance.
        out_dir: a new or empty folder; gets `000000.tar`, … and `shards.json`.
        images_per_shard: the last shard may hold fewer.
        seed: of the order in which images are dealt to shards, so that each holds a mixture of classes.
        progress: show a bar on standard error.

    Returns:
        The shards' paths.

    Raises:
        InputError: the folder holds shards already, or `images_per_shard` is below 1 or `seed` below 0.
    """
    out = Path(out_dir)
    if images_per_shard < 1:
        raise InputError(f"`images_per_shard` (={images_per_shard}) must be an integer >= 1")
    if seed < 0:
        raise InputError(f"`seed` (={seed}) must be an integer >= 0")
    if shard_paths(out) or (out / INDEX_NAME).exists():
        raise InputError(f"{out} holds shards already; name another folder or remove them")
    order = np.random.default_rng([seed, 0x5AAD]).permutation(len(source))
    entries, names = [], []
    # all of them move into place at the end: half a set without its index looks like a whole one
    with (
        atomic_group(out / INDEX_NAME) as folder,
        Progress("write shards", total=len(order), unit="images", enabled=progress) as bar,
    ):
        for number, start in enumerate(range(0, len(order), images_per_shard)):
            names.append(f"{number:06d}.tar")
            chosen = order[start : start + images_per_shard]
            entries.append(_write_shard(source, chosen, folder / names[-1], bar))
        index = {"schema": _SCHEMA, "classes": list(source.classes), "shards": entries}
        (folder / INDEX_NAME).write_text(json.dumps(index) + "\n", encoding="utf-8")
    return [out / name for name in names]


def _write_shard(source: ImageSource, indices: np.ndarray, path: Path, bar: Progress) -> dict[str, object]:
    names: list[str] = []
    offsets: list[int] = []
    sizes: list[int] = []
    labels = [int(source.labels[index]) for index in indices]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for index, label in zip(indices, labels, strict=True):
            key = f"{int(index):09d}"
            content = source.read(int(index))
            ending = os.path.splitext(source.name(int(index)))[1].lower() or ".jpg"
            _add(archive, key + ending, content)
            offsets.append(archive.offset - _padded(len(content)))
            names.append(key + ending)
            sizes.append(len(content))
            _add(archive, f"{key}.cls", str(label).encode())
            bar.update()
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "names": names,
        "labels": labels,
        "offsets": offsets,
        "sizes": sizes,
    }


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
