"""Progress on standard error: a bar with rate and time left on a terminal, sparse plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

_PLAIN_INTERVAL_S = 10.0  # a log file wants a line now and then, not a bar


class Progress:
    """A bar over `total` steps; `update` may change the text beside it.

    Args:
        description: what is being done.
        total: number of steps, or None when it is not known.
        unit: what one step is ("batch", "MB").
        start: steps done before, by an interrupted run; they do not count in the rate.
        enabled: False prints nothing at all.

    Example:
        >>> with Progress("epoch 1", total=2, enabled=False) as bar:
        ...     bar.update(1, "loss 0.3")
    """

    def __init__(
        self, description: str, *, total: int | None, unit: str = "it", start: int = 0, enabled: bool = True
    ) -> None:
        self.description = description
        self.total = total
        self.unit = unit
        self.start = self.done = start
        self._text = ""
        self._enabled = enabled
        self._terminal = enabled and sys.stderr.isatty()
        self._started = self._printed = time.monotonic()

    def __enter__(self) -> Progress:
        self._started = self._printed = time.monotonic()
        if self._terminal:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as RichProgress

            self._rich = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
                console=Console(stderr=True),
            )
            self._rich.start()
            self._task = self._rich.add_task(
                self.description, total=self.total, completed=self.start, text=""
            )
        return self

    def update(self, steps: int = 1, text: str = "") -> None:
        """Advance by `steps` and show `text` (loss, rate) at the end of the line."""
        self.done += steps
        self._text = text or self._text
        if self._terminal:
            self._rich.update(self._task, advance=steps, text=self._text)
        elif self._enabled and time.monotonic() - self._printed >= _PLAIN_INTERVAL_S:
            self._print_line()

    def _print_line(self) -> None:
        self._printed = time.monotonic()
        seconds = self._printed - self._started
        rate = (self.done - self.start) / seconds if seconds > 0 else 0.0
        line = f"{self.description}: {self.done}"
        if self.total is not None:
            line += f"/{self.total}"
        line += f" {self.unit}, {seconds:.0f} s"
        if self.total is not None and rate > 0:
            line += f", {max(0.0, (self.total - self.done) / rate):.0f} s left"
        print(f"{line}  {self._text}".rstrip(), file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal:
            self._rich.stop()
        elif self._enabled and kind is None:
            self._print_line()
