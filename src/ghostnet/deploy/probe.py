"""Cold start and peak memory of an exported network, measured in a process of its own.

Run as `python -m ghostnet.deploy.probe FILE THREADS PRECISION N C H W`; it prints one line of JSON. The process holds
numpy and the runtime and nothing else, as a device would.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ghostnet.deploy.session import load


def measure(path: str, *, threads: int, precision: str, shape: Sequence[int]) -> dict[str, Any]:
    """Load a file, run it once, and return `load_ms`, `first_ms` and the memory before and at its peak in MB.

    Args:
        path: of an exported file.
        threads: inside one operator.
        precision: of the arithmetic.
        shape: of the images, `(N, C, H, W)`; a file may leave its own open.
    """
    before = _memory_mb()
    start = time.perf_counter()
    session = load(path, threads=threads, precision=precision)
    loaded = time.perf_counter()
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    ready = time.perf_counter()
    session.predict_all(images)
    done = time.perf_counter()
    return {
        "load_ms": 1e3 * (loaded - start),
        "first_ms": 1e3 * (done - ready),
        "base_memory_mb": before,
        "peak_memory_mb": _memory_mb(),
    }


def _memory_mb() -> float:
    """Return the most memory that this process ever held, in MB.

    The kernel's `ru_maxrss` would not do: it survives exec, so that a child of a large process reports its parent's.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    if sys.platform == "win32":
        return float("nan")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


if __name__ == "__main__":
    file, threads, precision, *shape = sys.argv[1:]
    print(json.dumps(measure(file, threads=int(threads), precision=precision, shape=[*map(int, shape)])))
