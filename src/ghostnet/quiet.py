"""Chatter of exporters and runtimes kept off the console: what Python prints and logs, and what C++ prints.

The console is the process's, and several threads may load or run networks at once: the first that wants it quiet makes
it so, and the last brings it back.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator


class HeldTogether:
    """A change of something that the whole process shares, made by the first of several users, undone by the last.

    Args:
        change: returns the context manager that makes and undoes it. The thread that undoes it may be another.

    Example:
        >>> greeted = HeldTogether(lambda: contextlib.redirect_stdout(io.StringIO()))
        >>> with greeted.held(), greeted.held():
        ...     print("nobody reads this")
    """

    def __init__(self, change: Callable[[], contextlib.AbstractContextManager[object]]) -> None:
        self._change = change
        self._lock = threading.Lock()
        self._users = 0
        self._undo = contextlib.ExitStack()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep the change for the block."""
        with self._lock:
            if self._users == 0:
                self._undo.enter_context(self._change())
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._undo.close()


def quiet_python() -> contextlib.AbstractContextManager[None]:
    """Keep an exporter's chatter (prints, warnings, logs) off the console; its errors still raise."""
    return _PYTHON.held()


def quiet_native() -> contextlib.AbstractContextManager[None]:
    """Keep what a C++ library prints off this process's terminal; its verdict comes as a code or an error."""
    return _NATIVE.held()


@contextlib.contextmanager
def _without_python() -> Iterator[None]:
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
def _without_native() -> Iterator[None]:
    _flush_streams()
    nowhere = [os.open(os.devnull, os.O_WRONLY)]
    while (
        nowhere[-1] <= 2
    ):  # a service's stream was closed, and its number would go to a copy or to a runtime's file
        nowhere.append(os.open(os.devnull, os.O_WRONLY))
    kept = {stream: os.dup(stream) for stream in (1, 2)}
    try:
        for stream in kept:
            os.dup2(nowhere[-1], stream)
        yield
    finally:
        _flush_streams()
        for stream, copy in kept.items():
            os.dup2(copy, stream)
            os.close(copy)
        for opened in nowhere:
            os.close(opened)


def _flush_streams() -> None:
    """Write out what Python and C hold back: each text goes where its stream led when it was printed.

    The streams that Python began with count as well: another thread may have put something in their place.
    """
    for stream in {sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__}:
        with contextlib.suppress(
            OSError, ValueError
        ):  # closed, or a pipe that nobody reads: the next print tells
            if stream is not None:
                stream.flush()
    with contextlib.suppress(TypeError, OSError, AttributeError):  # Windows has no library of that name
        ctypes.CDLL(None).fflush(None)


_PYTHON = HeldTogether(_without_python)
_NATIVE = HeldTogether(_without_native)
