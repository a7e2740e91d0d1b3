"""Several runs of a plan at once, each in a process with its share of the cores.

Small networks do not fill a machine one by one: on two cores two trainings of one thread each end sooner than the same
two with both threads, one after the other; on a GPU several processes share the device. Each run keeps its own
checkpoint and result, so that it makes no difference to a run what else goes on.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import SpawnProcess
from typing import Protocol

from ghostnet.errors import InputError

_POLL_SECONDS = 0.2


class Run(Protocol):
    """What is needed of a run: `name` is unique, `needs` names the runs that must have ended before."""

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> Sequence[str]: ...


class _Lines(io.TextIOWrapper):
    """Standard error of a run beside others: no terminal, so that progress comes in lines instead of one bar."""

    def isatty(self) -> bool:
        return False


def run_side_by_side(runs: Sequence[Run], work: Callable[[Run], None], jobs: int) -> None:
    """Do `work` for each run, `jobs` at a time; Ctrl-C reaches all of them and waits for their checkpoints.

    Args:
        runs: in an order in which they could be done one by one.
        work: picklable; done in a fresh process.
        jobs: processes at a time.

    Raises:
        InputError: runs failed (each has said why); those that need them were left out, the others were finished.
    """
    waiting = list(runs)
    failed: list[str] = []
    running: dict[str, SpawnProcess] = {}
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    try:
        while waiting or running:
            for name, process in list(running.items()):
                if not process.is_alive():
                    failed += [name] if process.exitcode else []
                    del running[name]
            for run in list(waiting):
                if any(need in failed for need in run.needs):
                    waiting.remove(run)
                    failed.append(run.name)
            unfinished = {run.name for run in waiting} | set(running)
            for run in list(waiting):
                if len(running) < jobs and not unfinished & set(run.needs):
                    waiting.remove(run)
                    running[run.name] = context.Process(target=_alone, args=(work, run, threads))
                    running[run.name].start()
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        for process in running.values():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGINT)
        for process in running.values():
            process.join()
        raise
    if failed:
        raise InputError(f"{len(failed)} of {len(runs)} runs did not end: {', '.join(failed)}; see above")


def _alone(work: Callable[[Run], None], run: Run, threads: int) -> None:
    """Be the process of one run."""
    import torch

    os.setpgrp()  # the terminal's Ctrl-C goes to the parent, which passes it on once
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell's background job ignores it
    sys.stderr = _Lines(sys.stderr.buffer, encoding="utf-8", line_buffering=True)
    torch.set_num_threads(threads)
    try:
        work(run)
    except InputError as error:
        print(f"{run.name}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(1)
