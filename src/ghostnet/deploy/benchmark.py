"""Exported networks side by side in ONNX Runtime: interleaved, after warm-up, medians, spread and ratios."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ghostnet.deploy.session import Session, load
from ghostnet.errors import InputError
from ghostnet.measure import environment, time_interleaved


@dataclasses.dataclass(frozen=True)
class BenchmarkRow:
    """One network: milliseconds of a call, file size in bytes, and its time over the first network's."""

    name: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    rounds: int
    bytes: int
    ratio: float


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
    """What `benchmark` measured; `str()` gives a table, `to_dict()` JSON-able values."""

    rows: list[BenchmarkRow]
    batch: int
    threads: int
    input_size: tuple[int, ...]
    environment: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Return a plain-text table and the conditions."""
        width = max(len("network"), *(len(row.name) for row in self.rows))
        lines = [f"{'network':<{width}}  median ms  p10-p90 ms       MB  time ratio"]
        for row in self.rows:
            spread = f"{row.p10_ms:.2f}-{row.p90_ms:.2f}"
            lines.append(
                f"{row.name:<{width}}  {row.median_ms:9.3f}  {spread:<11}  "
                f"{row.bytes / 1e6:7.2f}  {row.ratio:10.3f}"
            )
        found = self.environment
        lines.append(
            f"batch {self.batch}, {self.threads} thread(s), float32, "
            f"onnxruntime {found.get('onnxruntime')}, {found['cpu']}"
        )
        return "\n".join(lines)


def benchmark(
    networks: Mapping[str, Session | str | os.PathLike[str]],
    *,
    input_size: Sequence[int],
    batch: int = 1,
    threads: int = 1,
    min_seconds: float = 2.0,
) -> BenchmarkResult:
    """Time exported networks in turn on the same random input.

    Args:
        networks: sessions or paths of exported files by name; ratios are to the first one's median.
        input_size: shape of one input without the batch.
        batch: images in one call, >= 1.
        threads: threads for networks given as paths, >= 1; a session keeps its own.
        min_seconds: least time in seconds for each network.

    Raises:
        InputError: no network, a bad count, or a file or input size that does not fit.

    Example:
        >>> print(benchmark({"dense": "a.onnx", "ghost": "b.onnx"}, input_size=(3, 32, 32)))  # doctest: +SKIP
    """
    if not networks:
        raise InputError("there is nothing to benchmark; give at least one exported file")
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise InputError(f"batch (={batch!r}) must be an integer >= 1")
    sessions = {
        name: given if isinstance(given, Session) else load(given, threads=threads)
        for name, given in networks.items()
    }
    images = np.random.default_rng(0).standard_normal((batch, *input_size), dtype=np.float32)
    timings = time_interleaved(
        {name: _call(session, images) for name, session in sessions.items()}, min_seconds=min_seconds
    )
    first = next(iter(timings.values())).median_ms
    rows = [
        BenchmarkRow(
            name=name,
            **timing.to_dict(),
            bytes=sessions[name].path.stat().st_size,
            ratio=timing.median_ms / first,
        )
        for name, timing in timings.items()
    ]
    return BenchmarkResult(rows, batch, threads, tuple(input_size), environment())


def _call(session: Session, images: np.ndarray) -> Callable[[], object]:
    return lambda: session.predict(images)
