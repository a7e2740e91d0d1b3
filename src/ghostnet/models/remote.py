"""Weights that are not here: from a URL or the Hugging Face hub into the cache, checked, with a way out offline.

A file that someone put into the cache's `weights` folder by hand is taken as it is. What is checked: a SHA-256 or git
identity that the publisher states, else, on the hub, the SHA-256 that the hub names the file by; a file without any is
recorded at its first download and compared with that at every later use.
"""

from __future__ import annotations

import hashlib
import os
import re
import urllib.parse
from collections.abc import Callable
from pathlib import Path

from ghostnet.download import DownloadError, download
from ghostnet.errors import InputError, first_line
from ghostnet.files import atomic_write, cache_folder, sha256_of_file

HUB_PREFIXES = ("hf:", "hf-hub:")
_HUB_FILE = "model.safetensors"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_remote(weights: str) -> bool:
    """Tell whether `weights` names a file on the network."""
    return weights.startswith(("http://", "https://", *HUB_PREFIXES))


def fetch_weights(
    source: str,
    *,
    sha256: str | None = None,
    git_blob: str | None = None,
    read: Callable[[Path], object] | None = None,
    progress: bool = True,
) -> Path:
    """Return the local path of remote weights, fetched if they are not in the cache.

    Args:
        source: "https://host/file.pth", optionally with "#sha256=<64 hex digits>", or "hf:owner/name" or
            "hf:owner/name:file" ("hf-hub:" works too); the file defaults to model.safetensors.
        sha256: expected digest, where known.
        git_blob: expected git object name (SHA-1 of a header and the content), where known.
        read: reads the file; what it raises InputError for when it comes fresh from a URL is not kept. Servers that
            want a log-in answer with a page, and a line that drops is not always noticed.
        progress: show a bar on standard error.

    Raises:
        InputError: a malformed source, or a file in the cache that is not what it was.
        DownloadError: no connection or other bytes; the message names the file to fetch by hand and its place.

    Example:
        >>> fetch_weights("hf:ghostnet")
        Traceback (most recent call last):
        ghostnet.errors.InputError: 'hf:ghostnet' must be hf:owner/name or hf:owner/name:file
    """
    if source.startswith(HUB_PREFIXES):
        return _from_hub(source, sha256, progress)
    url, _, fragment = source.partition("#")
    if fragment:
        sha256 = _digest_in(source, fragment)
    path = cache_folder() / "weights" / _cache_name(url)
    if path.is_file():
        _check_known(path, sha256, git_blob)
        return path
    try:
        download(url, path, sha256=sha256, progress=progress)
    except (DownloadError, TimeoutError) as error:
        raise DownloadError(_by_hand(str(error), url, path)) from error
    try:
        _check_known(path, sha256, git_blob)
        if read is not None:
            read(path)
    except InputError as error:
        path.unlink()
        raise DownloadError(f"{url} sent what is of no use and was thrown away: {error}") from error
    with atomic_write(_record_of(path)) as temporary:
        temporary.write_text(sha256_of_file(path) + "\n", encoding="ascii")
    return path


def _cache_name(url: str) -> str:
    """Two publishers may use one file name, so the name starts with a piece of the address's digest."""
    try:
        name = Path(urllib.parse.urlsplit(url).path).name
    except ValueError as error:
        raise InputError(f"{url!r} is no address: {error}") from error
    if not name:
        raise InputError(f"{url!r} names no file; give the address of the weights themselves")
    return f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"


def _digest_in(source: str, fragment: str) -> str:
    key, _, digest = fragment.partition("=")
    if key != "sha256" or not _SHA256.fullmatch(digest.lower()):
        raise InputError(f"{source!r}: what follows # must be sha256=<64 hexadecimal digits>")
    return digest.lower()


def _by_hand(reason: str, url: str, path: Path) -> str:
    return f"{reason}; fetch {url} by hand and put it at {path}"


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _check_known(path: Path, sha256: str | None, git_blob: str | None) -> None:
    """Compare a file with what is known of it.

    Raises:
        InputError: it differs.
    """
    record = _record_of(path)
    if sha256 is None and git_blob is None and record.is_file():
        sha256 = record.read_text(encoding="ascii").strip()
    if sha256 is not None and sha256_of_file(path) != sha256:
        raise InputError(
            f"{path} does not have the SHA-256 {sha256}; it is damaged or another file: delete it"
        )
    if git_blob is not None and git_blob_of_file(path) != git_blob:
        raise InputError(
            f"{path} is not the published file (git object {git_blob}); delete it and fetch it again"
        )


def git_blob_of_file(path: str | os.PathLike[str]) -> str:
    """Return the name that git gives a file's content: SHA-1 of "blob <size>\\0" and the content."""
    place = Path(path)
    digest = hashlib.sha1(f"blob {place.stat().st_size}\0".encode(), usedforsecurity=False)
    with place.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _from_hub(source: str, sha256: str | None, progress: bool) -> Path:
    from huggingface_hub import hf_hub_download, hf_hub_url
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    repository, _, file = source.split(":", 1)[1].partition(":")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise InputError(f"{source!r} must be hf:owner/name or hf:owner/name:file")
    file = file or _HUB_FILE
    path = cache_folder() / "weights" / f"{repository}/{file}".replace("/", "--")
    if path.is_file():
        _check_known(path, sha256, None)
        return path
    (enable_progress_bars if progress else disable_progress_bars)()
    try:
        found = Path(hf_hub_download(repository, file))
    except Exception as error:  # the hub's client lets through those of its HTTP library, whichever that is
        reason = first_line(error).split(". ")[0].rstrip(".")
        message = f"cannot fetch {file} of {repository} from the hub: {reason}"
        raise DownloadError(_by_hand(message, hf_hub_url(repository, file), path)) from error
    name = found.resolve().name  # the hub's cache names large files by their SHA-256
    _check_known(found, sha256 or (name if _SHA256.fullmatch(name) else None), None)
    return found
