"""Chatter of exporters and runtimes kept off the console: what Python prints and logs, and what C++ prints."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_python() -> Iterator[None]:
    """Keep an exporter's chatter (prints, warnings, logs) off the console; its errors still raise."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def quiet_native() -> Iterator[None]:
    """Keep what a C++ library prints off this process's terminal; its verdict comes as a code or an error."""
    _flush_streams()
    kept = {stream: os.dup(stream) for stream in (1, 2)}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in kept:
            os.dup2(nowhere, stream)
        yield
    finally:
        _flush_streams()
        for stream, copy in kept.items():
            os.dup2(copy, stream)
            os.close(copy)
        os.close(nowhere)


def _flush_streams() -> None:
    """Write out what Python and C hold back: each text goes where its stream led when it was printed."""
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(TypeError, OSError, AttributeError):  # Windows has no library of that name
        ctypes.CDLL(None).fflush(None)
