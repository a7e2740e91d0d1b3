"""Downloads that survive a dropped line: resumed by HTTP Range, checked by SHA-256, renamed when whole.

Left out: parallel ranges and mirrors. Proxies are those of the environment (`https_proxy` and its kin).
"""

from __future__ import annotations

import http.client
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

from ghostnet.errors import InputError
from ghostnet.files import sha256_of_file
from ghostnet.progress import Progress

_PIECE = 1 << 18
_DROPS = 3  # connections lost in a row, none of which brought the file any further
_PAUSE_S = 0.5


class DownloadError(OSError):
    """A file could not be fetched, or what arrived is not what was promised; the message is one line."""


class _DroppedError(Exception):
    """The connection ended before the file did; what has arrived lies in the partial file."""


def download(
    url: str,
    path: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    size: int | None = None,
    description: str | None = None,
    timeout_s: float = 20.0,
    progress: bool = True,
) -> Path:
    """Fetch `url` into `path`, going on where an earlier, interrupted call with a known hash stopped.

    Args:
        url: http or https.
        path: where the whole file belongs; until then `<path>.part` grows beside it.
        sha256: hexadecimal digest; a file that differs is thrown away and fetched once more from its start.
        size: bytes, where known; an answer of another length is refused.
        description: beside the bar; the file's name when left out.
        timeout_s: for connecting and for each read.
        progress: show a bar on standard error.

    Returns:
        `path`.

    Raises:
        InputError: another scheme than http or https, or no address at all.
        DownloadError: no connection, an HTTP error, repeated drops, or twice the wrong bytes.
        OSError: the disk is full or the folder cannot be written.

    Example:
        >>> download("ftp://example.org/file", "file")
        Traceback (most recent call last):
        ghostnet.errors.InputError: 'ftp://example.org/file' must start with http:// or https://
    """
    if url.partition(":")[0].lower() not in ("http", "https"):
        raise InputError(f"{url!r} must start with http:// or https://")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    if sha256 is None:
        part.unlink(missing_ok=True)  # nothing could tell whether an old beginning belongs to today's file
    for _ in range(2):
        with Progress(description or target.name, total=_megabytes(size), unit="MB", enabled=progress) as bar:
            _fetch(url, part, size, timeout_s, bar)
        if sha256 is None or sha256_of_file(part) == sha256:
            os.replace(part, target)
            return target
        part.unlink()
    raise DownloadError(
        f"{url} was fetched twice and neither time has the SHA-256 {sha256}; the file there has changed or "
        "something on the way alters it"
    )


def _megabytes(size: int | None) -> int | None:
    return None if size is None else max(1, size >> 20)


def _fetch(url: str, part: Path, size: int | None, timeout_s: float, bar: Progress) -> None:
    """Bring `part` to its full length, over as many connections as that takes."""
    furthest = _length(part)
    drops = 0
    opened = False
    while size is None or _length(part) != size:
        try:
            with _open(url, _length(part), timeout_s) as response:
                opened = True
                _receive(response, part, size, bar)
                return
        except _DroppedError as error:
            # a host that was never reached is reported at once: offline machines should not wait for it
            drops = 0 if _length(part) > furthest else drops + 1
            if not opened or drops > _DROPS:
                raise DownloadError(f"cannot fetch {url}: {error}") from error
            furthest = max(furthest, _length(part))
            time.sleep(_PAUSE_S)


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _open(url: str, start: int, timeout_s: float) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "ghostnet", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        # not urlopen, which remembers the proxies of its first call
        opener = urllib.request.build_opener()
        response: http.client.HTTPResponse = opener.open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # our part is as long as the file or longer, so it is not its beginning
            return _open(url, 0, timeout_s)
        raise DownloadError(f"cannot fetch {url}: HTTP {error.code} {error.reason}") from error
    except OSError as error:
        raise _DroppedError(str(getattr(error, "reason", error)) or type(error).__name__) from error
    except (http.client.InvalidURL, ValueError) as error:
        raise InputError(f"{url!r} is no address: {error}") from error
    except http.client.HTTPException as error:  # its text is what came, in whatever bytes
        raise _DroppedError(f"what answers there does not speak HTTP ({type(error).__name__})") from error
    return response


def _receive(response: http.client.HTTPResponse, part: Path, size: int | None, bar: Progress) -> None:
    """Append or, where the server sends the whole file, write anew, to the end of the file."""
    start = _start_of(response, _length(part))
    length = response.headers.get("Content-Length")
    total = start + int(length) if length is not None and length.isdigit() else size
    if size is not None and total != size:
        raise DownloadError(f"{response.url} has {total} bytes where {size} are expected; it is another file")
    bar.total = _megabytes(total)
    with part.open("ab" if start else "wb") as stream:
        received = start + _copy(response, stream, start, bar)
    if total is not None and received != total:
        raise _DroppedError(f"the connection ended after {received} of {total} bytes")


def _start_of(response: http.client.HTTPResponse, length: int) -> int:
    if response.status != 206:
        return 0
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != length:
        raise DownloadError(f"{response.url} answered with another range than was asked for")
    return length


def _copy(response: http.client.HTTPResponse, stream: IO[bytes], start: int, bar: Progress) -> int:
    """Copy what the connection gives; only its failures count as drops, a full disk passes through."""
    copied = 0
    bar.update((start >> 20) - bar.done)
    while True:
        try:
            piece = response.read(_PIECE)
        except (OSError, http.client.HTTPException) as error:
            raise _DroppedError(str(error) or type(error).__name__) from error
        if not piece:
            return copied
        stream.write(piece)
        copied += len(piece)
        bar.update(((start + copied) >> 20) - bar.done)
