"""Ctrl-C or SIGTERM while a network trains: the step is finished first, so that what is saved is one step's state.

In the middle of a step the batch norms have seen a batch that the weights have not; a run that went on from there would
end elsewhere than one left alone.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Interrupts:
    """While the block runs, Ctrl-C is put off to the end of a step; a second one is not.

    The handler is installed in the main thread only, and not over one that ignores the signal or is not Python's:
    there Ctrl-C does what it did. SIGTERM is put off likewise, and then goes to the program's own handler of it.

    Args:
        say: tell on standard error that a step is being finished.

    Example:
        >>> with Interrupts() as interrupts:
        ...     with interrupts.put_off():
        ...         done = True
        >>> interrupts.within_step
        False
    """

    def __init__(self, *, say: bool = False) -> None:
        self._say = say
        self._asked: tuple[int, FrameType | None] | None = None
        self._old: dict[signal.Signals, Any] = {}
        self.within_step = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                old = signal.getsignal(number)
                if callable(old):
                    self._old[number] = old
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *_error: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked or not self.within_step:
            self._pass_on(number, frame)
            return
        self._asked = number, frame
        if self._say:
            print("stopping after this step; Ctrl-C again stops at once", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def put_off(self) -> Iterator[None]:
        """Return the block of one step, at whose end a Ctrl-C that came within it is raised.

        Raises:
            KeyboardInterrupt: with `within_step` false where the step is whole, true where it is not.
        """
        self.within_step = True
        yield  # an error in the block passes by what follows: its step is not whole
        self.within_step = False
        if self._asked is not None:
            asked, self._asked = self._asked, None
            self._pass_on(*asked)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:  # a program's own handler may ask a queue for another turn, and go on
            self._old[signal.SIGTERM](number, frame)
        else:
            raise KeyboardInterrupt
