"""A C compiler for this machine, and what it makes of a network's program, kept in the cache."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ghostnet.errors import InputError
from ghostnet.files import cache_folder

_KEPT_SECONDS = 30 * 24 * 3600.0
_NAMES = ("cc", "gcc", "clang")
_OPENMP = "-fopenmp"
_FLAGS = (
    "-std=gnu11",
    "-O3",
    "-ffp-contract=fast",  # one rounding for a product and a sum, where the processor has it
    "-fno-math-errno",
    "-fno-trapping-math",
    "-w",
    "-shared",
    "-fPIC",
)


def compiler() -> list[str]:
    """Return the command of a C compiler: $CC, else cc, gcc or clang, else the one in the package ziglang.

    Raises:
        InputError: there is none.
    """
    chosen = shlex.split(os.environ.get("CC", ""))
    if chosen:
        if shutil.which(chosen[0]) is None:
            raise InputError(f"the C compiler $CC (={chosen[0]}) is not installed; unset CC or name another")
        return chosen
    for name in _NAMES:
        if shutil.which(name) is not None:
            return [name]
    if _has_ziglang():
        return [sys.executable, "-m", "ziglang", "cc"]
    raise InputError("there is no C compiler; install gcc or clang, or run: pip install ziglang")


def _has_ziglang() -> bool:
    return importlib.util.find_spec("ziglang") is not None


@functools.cache
def version_of(command: tuple[str, ...]) -> str:
    """Return the first line of what a compiler says of itself.

    Raises:
        InputError: it does not run.
    """
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise InputError(f"the C compiler {command[0]} does not run: {error.strerror}") from error
    lines = (done.stdout or done.stderr).strip().splitlines()
    if done.returncode != 0 or not lines:
        raise InputError(
            f"the C compiler {shlex.join(command)} does not run (--version gives code {done.returncode})"
        )
    return lines[0]


def built(source: Path, *, threads: bool = False) -> Path:
    """Return the shared library of a program, compiled for this very processor if it was not yet.

    Args:
        source: the program.
        threads: whether it is to run on several, by OpenMP.

    Raises:
        InputError: there is no compiler, or it knows no OpenMP and that is asked for.
        ValueError: the program does not compile.
    """
    plain = compiler()
    command = [*plain, *_FLAGS, *([_OPENMP] if threads else [])]
    about = [
        version_of(tuple(plain)),
        shlex.join(command),
        _processor(),
        source.read_text(encoding="utf-8"),
    ]
    name = hashlib.sha256("\0".join(about).encode()).hexdigest()[:32]
    library = _folder() / f"{name}.so"
    with contextlib.suppress(FileNotFoundError):
        os.utime(library)  # in use
        return library
    _forget_unused(library.parent)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        complaint = ""
        for flags in ([_native()], []):  # not every compiler knows every processor
            done = subprocess.run(
                [*command, *flags, str(source.absolute()), "-o", str(made), "-lm"],
                cwd=folder,
                capture_output=True,
                text=True,
                errors="replace",
            )
            if done.returncode == 0 and made.is_file():
                os.replace(made, library)
                return library
            complaint = _complaint(done.stderr)
    if threads and not _knows_openmp(plain):
        raise InputError(
            f"the C compiler {shlex.join(plain)} has no OpenMP, so C files run on one thread; leave threads at 1, "
            "or name another compiler in $CC (gcc has it)"
        )
    raise ValueError(f"{command[0]} cannot compile it ({complaint})")


def _forget_unused(folder: Path) -> None:
    """Remove libraries that nobody asked for in a month: what a plan has timed is rarely asked for again."""
    oldest = time.time() - _KEPT_SECONDS
    for library in folder.glob("*.so"):
        with contextlib.suppress(OSError):  # another process may be as quick
            if library.stat().st_mtime < oldest:
                library.unlink()


def _knows_openmp(command: list[str]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "tried.c"
        source.write_text("int tried(void) { return 0; }\n")
        made = [*command, _OPENMP, "-shared", "-fPIC", str(source), "-o", str(source.with_suffix(".so"))]
        return subprocess.run(made, capture_output=True, cwd=folder).returncode == 0


def _folder() -> Path:
    """Return where libraries are kept: the cache, or a folder of this user's alone where that cannot be written."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    # absolute: the compiler runs in a folder of its own, and the program may change its own later
    for place in (cache_folder().absolute() / "c", Path(tempfile.gettempdir()) / f"ghostnet-c-{user}"):
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        if os.access(place, os.W_OK) and place.stat().st_uid == user:
            return place
    raise InputError(f"cannot write {cache_folder()}; name another place in GHOSTNET_CACHE")


def _native() -> str:
    """Return the flag that means this very processor."""
    return "-mcpu=native" if platform.machine().lower() in ("arm64", "aarch64") else "-march=native"


@functools.cache
def _processor() -> str:
    """Return what tells processors apart: a folder may be shared by machines."""
    place = Path("/proc/cpuinfo")
    lines = place.read_text(errors="replace").splitlines() if place.is_file() else []
    told = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([platform.machine(), platform.processor(), *sorted(set(told))])


def _complaint(text: str) -> str:
    """Return the first error of a compiler without the place, which is a name of ours."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.partition("error:")[2].strip() for line in lines if "error:" in line]
    return (errors or lines or ["no message"])[0]
