"""Files that are either whole or not there: atomic writes, hashes, the no-overwrite rule, and the cache's place."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ghostnet.errors import DiskFullError, InputError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file under a temporary name and rename it into place when the block ends without an error.

    Until the rename an older file at `path` is untouched, so a full disk, a crash or Ctrl-C loses nothing.

    Args:
        path: where the finished file belongs; missing parent folders are made.

    Yields:
        The temporary path, in the same folder, that the block must write.

    Raises:
        DiskFullError: there is no room; the temporary file is removed.
        OSError: the folder cannot be written.

    Example:
        >>> with atomic_write("/tmp/answer.txt") as temporary:
        ...     _ = temporary.write_text("42")
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with _full_disk_named(target):
            yield temporary
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            temporary.chmod(_usual_mode())  # mkstemp makes it private to its owner
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_group(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write several files that belong together, each whole; they move into place when the block ends without an error.

    Args:
        path: one of them; all end up in its folder. Missing parent folders are made.

    Yields:
        An empty temporary folder beside `path`. Files in it keep their names; those of the same name are replaced, and
        so is a folder by a folder, unless it holds what the new one does not.

    Raises:
        DiskFullError: there is no room; what was there is untouched.
        OSError: the folder cannot be written.

    Example:
        >>> with atomic_group("/tmp/net.xml") as folder:
        ...     _ = (folder / "net.xml").write_text("a"), (folder / "net.bin").write_text("b")
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        with _full_disk_named(target):
            yield temporary
            # `path` comes last
            written = sorted(temporary.iterdir(), key=lambda file: file.name == target.name)
            for entry in written:
                for file in files_in(entry):
                    with file.open("rb+") as stream:
                        os.fsync(stream.fileno())
                    file.chmod(_usual_mode())
            in_the_way = [entry for entry in written if (target.parent / entry.name).exists()]
            for entry in in_the_way:
                _refuse_other_make(target.parent / entry.name, entry)
            old = Path(tempfile.mkdtemp(dir=temporary))
            for entry in written:
                if entry in in_the_way and entry.is_dir():  # else it could not be replaced
                    os.replace(target.parent / entry.name, old / entry.name)
                os.replace(entry, target.parent / entry.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _full_disk_named(target: Path) -> Iterator[None]:
    """Say of an error that means a full disk what could not be written, and that nothing is lost."""
    try:
        yield
    except Exception as error:
        if not _says_no_room(error):
            raise
        raise DiskFullError(
            f"no room to write {target} ({error}); nothing that was there is lost: free some space or name "
            "another place"
        ) from error


@functools.cache
def _usual_mode() -> int:
    """Return the permissions that this process gives to new files; they can only be read by setting them."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


def files_in(path: Path) -> list[Path]:
    """Return all files of a folder, however deep, in a fixed order; a file is its own only one."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def size_in_bytes(path: Path) -> int:
    """Return the size of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in files_in(path))


def _refuse_other_make(place: Path, new: Path) -> None:
    """Raise where a folder and a file would take each other's place, or a folder somebody's other files with it."""
    if not new.is_dir():
        if place.is_dir():
            raise OSError(errno.EISDIR, "a folder is there, and a file is to be written")
        return
    names = {entry.name for entry in new.iterdir()}
    if not place.is_dir():
        raise OSError(errno.ENOTDIR, "a file is there, and a folder is to be written")
    if any(entry.name not in names and not entry.name.startswith(".") for entry in place.iterdir()):
        raise OSError(errno.ENOTEMPTY, "the folder that is there holds other files")


def _says_no_room(error: Exception) -> bool:
    """Whether an error, safetensors' own included (it only quotes the number), means a full disk."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    return any(f"(os error {number})" in str(error) for number in _NO_ROOM)


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Return the hexadecimal SHA-256 of a file, read in 1 MiB pieces; of a folder, over all names and contents."""
    digest = hashlib.sha256()
    for file in files_in(Path(path)):
        if file != Path(path):
            digest.update(f"{file.relative_to(path).as_posix()}\n".encode())
        with file.open("rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def refuse_overwrite(path: str | os.PathLike[str], *, force: bool, folders: bool = False) -> None:
    """Raise unless `path` is free or `force` is set, and a file can be written there; asked before the work is done.

    Args:
        path: of a file.
        force: it may replace another one.
        folders: what is written may be a folder, and replace one.

    Raises:
        InputError: something exists at `path` and `force` is false, `path` is a folder, or nothing can be written
            into the folder that it lies in.
    """
    place = Path(path)
    refuse_nameless(place)
    if place.is_dir() and not folders:
        raise InputError(f"{os.fspath(path)} is a folder; name a file")
    if not force and place.exists():
        raise InputError(
            f"{os.fspath(path)} exists; pass --force (in Python force=True) to overwrite it or name another output"
        )
    refuse_unwritable(place.parent)


def refuse_nameless(path: Path) -> None:
    """Raise where a path ends in no name, as "", "." and "/" do: it can get no ending and be no file.

    Raises:
        InputError: it does.
    """
    if not path.name:
        raise InputError(f"{path} is a folder; name a file")


def refuse_unwritable(folder: str | os.PathLike[str]) -> None:
    """Raise unless files can be written into a folder, which may have to be made.

    Raises:
        InputError: a file is in its way, it may not be written, or its name begins with the "~" of a shell.
    """
    if Path(folder).parts[:1] and Path(folder).parts[0].startswith("~"):
        raise InputError(
            f"{os.fspath(folder)} begins with ~, which was not expanded; write the whole path, or pass it through "
            "os.path.expanduser"
        )
    place = Path(folder).absolute()
    known = next(parent for parent in (place, *place.parents) if parent.exists())
    if not known.is_dir():
        raise InputError(
            f"nothing can be written into {os.fspath(folder)}: {known.name} is a file, no folder"
        )
    if not os.access(known, os.W_OK | os.X_OK):
        raise InputError(
            f"nothing can be written into {os.fspath(folder)}: it is read-only; name another place"
        )
    try:  # file systems have reasons of their own
        with tempfile.TemporaryFile(dir=known):
            pass
    except OSError as error:
        raise InputError(
            f"nothing can be written into {os.fspath(folder)}: {error.strerror}; name another place"
        ) from error


def cache_folder() -> Path:
    """Return the folder of what was downloaded: $GHOSTNET_CACHE, else ~/.cache/ghostnet."""
    chosen = os.environ.get("GHOSTNET_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "ghostnet"
