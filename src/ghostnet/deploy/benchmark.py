"""Networks side by side in any runtimes: interleaved, after warm-up, medians, spread and ratios.

Each row is a network in one setting: runtime, precision, threads. The measurement can be repeated in fresh processes
(`repeated.py`). Peak memory and cold start come from others (`probe.py`), which hold nothing but numpy and the runtime.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ghostnet.checks import check_integer
from ghostnet.columns import aligned
from ghostnet.deploy.fresh import run_fresh
from ghostnet.deploy.lineup import Settings, line_up
from ghostnet.deploy.repeated import time_repeatedly, time_sessions
from ghostnet.deploy.session import Session
from ghostnet.deploy.targets import TARGETS
from ghostnet.errors import InputError
from ghostnet.files import size_in_bytes
from ghostnet.measure import Timing, environment


@dataclasses.dataclass(frozen=True)
class BenchmarkRow:
    """One network in one setting.

    Attributes:
        name: the network's.
        runtime: key of `TARGETS`.
        precision: of the arithmetic.
        threads: inside one operator.
        median_ms, p10_ms, p90_ms: milliseconds of a call; of several processes, the median over them of each.
        rounds: timed calls, of all processes.
        bytes: of the files without the manifest.
        ratio: median over that of the first network in the same setting; where it has no row there, over its first row.
            Of several processes, the median of their ratios.
        cold_start_ms: loading (the runtime's library included) and the first call in a fresh process, or None.
        peak_memory_mb: the most memory of that process, or None.
        ratios: of each process in order, where there are several.
    """

    name: str
    runtime: str
    precision: str
    threads: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    rounds: int
    bytes: int
    ratio: float
    cold_start_ms: float | None = None
    peak_memory_mb: float | None = None
    ratios: list[float] = dataclasses.field(default_factory=list)


_HEADER = ("network", "runtime", "precision", "threads", "median ms", "p10-p90 ms", "time ratio", "MB")
_FRESH_HEADER = ("cold start ms", "peak MB")


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
    """What `benchmark` measured; `str()` gives a table, `to_dict()` JSON-able values.

    Attributes:
        rows: settings in order, the networks in order within each.
        batch: images in one call.
        threads: as they were asked for.
        input_size: shape of one input without the batch.
        environment: processor and versions.
        skipped: what could not be run, with the reason.
        processes: how often it was all measured, each time in a fresh process if there are several.
    """

    rows: list[BenchmarkRow]
    batch: int
    threads: int | list[int]
    input_size: tuple[int, ...]
    environment: dict[str, Any]
    skipped: list[str] = dataclasses.field(default_factory=list)
    processes: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary; `processes` and each row's `ratios` are in it if there are several."""
        found = dataclasses.asdict(self)
        if self.processes == 1:
            del found["processes"]
            for row in found["rows"]:
                del row["ratios"]
        return found

    def __str__(self) -> str:
        """Return a plain-text table and the conditions."""
        fresh = any(row.cold_start_ms is not None for row in self.rows)
        table = [_HEADER + (_FRESH_HEADER if fresh else ()), *(_cells(row, fresh) for row in self.rows)]
        lines = aligned(table, numbers=range(3, len(table[0])))
        runtimes = dict.fromkeys(row.runtime for row in self.rows)
        versions = ", ".join(
            f"{TARGETS[name].runtime} {self.environment.get(TARGETS[name].package)}" for name in runtimes
        )
        often = f"{self.processes} processes, ratios (lowest-highest), " if self.processes > 1 else ""
        lines.append(
            f"{often}batch {self.batch}, input {self.input_size}, {versions}, {self.environment['cpu']}"
        )
        if self._elsewhere():
            lines.append(
                "a setting without a ratio of 1.000: its ratios are to the first network in another setting"
            )
        return "\n".join([*lines, *(f"left out: {reason}" for reason in self.skipped)])

    def _elsewhere(self) -> bool:
        """Tell whether the first network has no row in some setting, where ratios are to its row in another."""
        settings = {(row.runtime, row.precision, row.threads): False for row in self.rows}
        for row in self.rows:
            settings[row.runtime, row.precision, row.threads] |= row.ratio == 1
        return not all(settings.values())


def _cells(row: BenchmarkRow, fresh: bool) -> tuple[str, ...]:
    cells = (
        row.name,
        row.runtime,
        row.precision,
        str(row.threads),
        f"{row.median_ms:.3f}",
        f"{row.p10_ms:.2f}-{row.p90_ms:.2f}",
        f"{row.ratio:.3f}{_spread(row.ratios)}",
        f"{row.bytes / 1e6:.2f}",
    )
    if not fresh:
        return cells
    return (*cells, f"{row.cold_start_ms or 0:.0f}", f"{row.peak_memory_mb or 0:.0f}")


def _spread(ratios: Sequence[float]) -> str:
    """Return " (lowest-highest)" where ratios differ."""
    return f" ({min(ratios):.3f}-{max(ratios):.3f})" if len(set(ratios)) > 1 else ""


def benchmark(
    networks: Mapping[str, Any],
    *,
    input_size: Sequence[int],
    batch: int = 1,
    threads: int | Sequence[int] = 1,
    min_seconds: float = 2.0,
    runtimes: Sequence[str] = ("onnx",),
    precisions: Sequence[str] = ("fp32",),
    cold_starts: int = 3,
    processes: int = 1,
    announce: Callable[[str], None] | None = None,
) -> BenchmarkResult:
    """Time networks in turn (A B A B …) on the same random input, each in every setting that it can run in.

    Within one process a ratio depends by some percent on the order in which the networks were loaded; `processes`
    repeats the measurement in fresh ones, each with another order, and gives medians over them.

    Args:
        networks: by name: a session, the path of an exported file, a `Candidate`, or a module, which stands for a
            candidate with rewrites. Candidates are exported to each of `runtimes`; a file has the runtime that it has.
        input_size: shape of one input without the batch.
        batch: images in one call, >= 1.
        threads: threads inside one operator, one number or several, >= 1; a session keeps its own.
        min_seconds: least time in seconds for each row, in each process.
        runtimes: keys of `TARGETS`.
        precisions: "fp32", "bf16", "fp16", "int8"; a runtime without one is left out there, and the result says so.
            Int8 of candidates has ranges from noise: its time counts, its answers do not. Files keep their precision.
        cold_starts: fresh processes for each row, whose median gives cold start and peak memory; 0 for none.
        processes: 1 measures in this process; more, in that many fresh ones.
        announce: called with a line before each export, and before each of several processes.

    Raises:
        InputError: no network, a bad count or name, a file or input size that does not fit, or nothing that can run.
        RuntimeError: a fresh process fails.

    Example:
        >>> print(benchmark({"dense": "a.onnx", "ghost": "b.xml"}, input_size=(3, 32, 32)))  # doctest: +SKIP
    """
    if not networks:
        raise InputError("there is nothing to benchmark; give at least one exported file or network")
    counts = [threads] if isinstance(threads, int) else list(threads)
    for name, count, least in (
        ("batch", batch, 1),
        ("cold_starts", cold_starts, 0),
        ("processes", processes, 1),
        *(("threads", n, 1) for n in counts),
    ):
        check_integer(name, count, least=least)
    settings = Settings(tuple(runtimes), tuple(precisions), tuple(counts), tuple(input_size))
    tell = announce or (lambda _line: None)
    with tempfile.TemporaryDirectory() as folder:
        sessions, skipped = line_up(networks, settings, Path(folder), tell)
        loaded = [session for _, session in sessions]
        if processes == 1:
            timings = [time_sessions(loaded, (batch, *input_size), min_seconds)]
        else:
            timings = time_repeatedly(
                loaded,
                input_size=input_size,
                batch=batch,
                min_seconds=min_seconds,
                processes=processes,
                announce=tell,
            )
        rows = _rows(next(iter(networks)), sessions, timings)
        if cold_starts:
            rows = [
                dataclasses.replace(row, **_fresh(session, (batch, *input_size), cold_starts))
                for row, (_, session) in zip(rows, sessions, strict=True)
            ]
    asked = counts[0] if len(counts) == 1 else counts
    found = environment() | {TARGETS[row.runtime].package: _version(row.runtime) for row in rows}
    return BenchmarkResult(rows, batch, asked, tuple(input_size), found, skipped, processes)


def _rows(
    first: str, sessions: Sequence[tuple[str, Session]], timings: Sequence[Sequence[Timing]]
) -> list[BenchmarkRow]:
    ratios = [_ratios(first, sessions, process) for process in timings]
    rows = []
    for index, (name, session) in enumerate(sessions):
        own = [process[index] for process in ratios]
        rows.append(
            BenchmarkRow(
                name,
                *_setting(session),
                **_over_processes([process[index] for process in timings]).to_dict(),
                bytes=sum(size_in_bytes(file) for file in session.files),
                ratio=statistics.median(own),
                ratios=own if len(own) > 1 else [],
            )
        )
    return rows


def _ratios(first: str, sessions: Sequence[tuple[str, Session]], timings: Sequence[Timing]) -> list[float]:
    """Return the ratio of each row within one process."""
    references = {
        _setting(session): timing.median_ms
        for (name, session), timing in zip(sessions, timings, strict=True)
        if name == first
    }
    elsewhere = next(iter(references.values()), timings[0].median_ms)
    return [
        timing.median_ms / references.get(_setting(session), elsewhere)
        for (_, session), timing in zip(sessions, timings, strict=True)
    ]


def _over_processes(timings: Sequence[Timing]) -> Timing:
    return Timing(
        median_ms=statistics.median(timing.median_ms for timing in timings),
        p10_ms=statistics.median(timing.p10_ms for timing in timings),
        p90_ms=statistics.median(timing.p90_ms for timing in timings),
        rounds=sum(timing.rounds for timing in timings),
    )


def _setting(session: Session) -> tuple[str, str, int]:
    return session.target, session.precision, session.threads


def _fresh(session: Session, shape: Sequence[int], times: int) -> dict[str, Any]:
    """Return medians over fresh processes of the time until the first answer, and of the peak memory."""
    found = [_probed(session, shape) for _ in range(times)]
    return {
        "cold_start_ms": statistics.median(run["load_ms"] + run["first_ms"] for run in found),
        "peak_memory_mb": statistics.median(run["peak_memory_mb"] for run in found),
    }


def _probed(session: Session, shape: Sequence[int]) -> dict[str, float]:
    arguments = [*map(str, session.load_arguments().values()), *map(str, shape)]
    return dict(run_fresh("ghostnet.deploy.probe", arguments, subject=session.path.name))


def _version(runtime: str) -> str | None:
    try:
        return importlib.metadata.version(TARGETS[runtime].package)
    except importlib.metadata.PackageNotFoundError:
        return None
