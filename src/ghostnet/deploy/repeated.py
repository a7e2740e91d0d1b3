"""The measurement of networks in turn, repeated in fresh processes that load them in different orders.

Within one process the ratio of two networks depends on the order in which they were loaded and on where their memory
lies. Run as `python -m ghostnet.deploy.repeated JOB`, JOB being JSON; it prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ghostnet.deploy.fresh import run_fresh
from ghostnet.deploy.session import Session, load
from ghostnet.errors import InputError
from ghostnet.measure.latency import Timing, time_interleaved


def load_orders(count: int, processes: int) -> list[list[int]]:
    """Return for each process the order in which it loads `count` networks and calls them in turn.

    These are the rows of a Williams design: over `count` processes (twice as many for an odd count) every network is
    loaded at every place, and right behind every other one, equally often.

    Args:
        count: of networks, >= 1.
        processes: >= 1.

    Example:
        >>> load_orders(3, 4)
        [[0, 1, 2], [0, 2, 1], [2, 0, 1], [2, 1, 0]]
    """
    base = [(place + 1) // 2 if place % 2 else -(place // 2) for place in range(count)]
    orders = []
    for process in range(processes):
        order = [(number + process) % count for number in base]
        orders.append(order[::-1] if count % 2 and process % 2 else order)
    return orders


def time_repeatedly(
    sessions: Sequence[Session],
    *,
    input_size: Sequence[int],
    batch: int,
    min_seconds: float,
    processes: int,
    announce: Callable[[str], None],
) -> list[list[Timing]]:
    """Return the timings of each process, in the order of the sessions.

    Args:
        sessions: their files are loaded anew in each process.
        input_size: shape of one input without the batch.
        batch: images in one call.
        min_seconds: least time in seconds for each session in each process.
        processes: how many.
        announce: called with a line before each process.

    Raises:
        RuntimeError: a process fails; the message ends with its own line.
    """
    found = []
    for number, order in enumerate(load_orders(len(sessions), processes), start=1):
        announce(f"timing in process {number} of {processes}")
        job = {
            "networks": [sessions[index].load_arguments() for index in order],
            "images": [batch, *input_size],
            "min_seconds": min_seconds,
        }
        answers = run_fresh("ghostnet.deploy.repeated", [json.dumps(job)], subject="the benchmark")
        by_index = {index: Timing(**answer) for index, answer in zip(order, answers, strict=True)}
        found.append([by_index[index] for index in range(len(sessions))])
    return found


def time_sessions(sessions: Sequence[Session], shape: Sequence[int], min_seconds: float) -> list[Timing]:
    """Time sessions in turn on the same random images.

    Args:
        sessions: loaded, in the order in which they are called.
        shape: of the images, with the batch.
        min_seconds: least time in seconds for each.
    """
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    calls = {str(number): prediction(session, images) for number, session in enumerate(sessions)}
    return list(time_interleaved(calls, min_seconds=min_seconds).values())


def prediction(session: Session, images: np.ndarray) -> Callable[[], object]:
    """Return the call that times a session: all its outputs for the same images.

    Args:
        session: loaded.
        images: as `Session.predict_all` takes them.

    Example:
        >>> time_interleaved({"net": prediction(session, images)})  # doctest: +SKIP
    """
    return lambda: session.predict_all(images)


def _main(job: dict[str, Any]) -> list[dict[str, Any]]:
    sessions = [load(**network) for network in job["networks"]]
    return [timing.to_dict() for timing in time_sessions(sessions, job["images"], job["min_seconds"])]


if __name__ == "__main__":
    try:
        print(json.dumps(_main(json.loads(sys.argv[1]))))
    except InputError as error:
        sys.exit(str(error))
