"""Which exact rewrites are quickest for a network on this machine: every sensible set is exported, loaded and timed.

The sets shipped in `passes.toml` were measured with GhostNet on one machine; other networks, processors and versions of
a runtime decide otherwise.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ghostnet.deploy.export import export
from ghostnet.deploy.optimize import optimize
from ghostnet.deploy.passes import checked_passes, default_passes
from ghostnet.deploy.passes.winograd import OF_THEIR_OWN
from ghostnet.deploy.repeated import prediction
from ghostnet.deploy.session import load
from ghostnet.deploy.targets import require_to_open, target_named
from ghostnet.errors import InputError, first_line
from ghostnet.measure import environment, time_interleaved
from ghostnet.nn.copies import copy_model
from ghostnet.nn.eager import eager_module

_BASE = ("squeeze_excite", "fold_batch_norm", "head")
CANDIDATES: tuple[tuple[str, ...], ...] = (
    (),
    _BASE,
    (*_BASE, "join_late"),
    (*_BASE, "split"),
    (*_BASE, "twin", "split"),
    (*_BASE, "twin", "twin_rest", "split"),
    (*_BASE, "pixel_products"),
    (*_BASE, "split", "pixel_products"),
    (*_BASE, "twin", "split", "pixel_products"),
    (*_BASE, "pad_halves"),
    (*_BASE, "twin", "pad_halves"),
    (*_BASE, "twin", "twin_rest", "pad_halves"),
    (*_BASE, "pad_eights"),
    (*_BASE, "split_residuals"),
    (*_BASE, "winograd"),  # in networks without a layer for it these are the sets above, and not timed again
    (*_BASE, "winograd", "join_late"),
    (*_BASE, "winograd", "twin", "split"),
    (*_BASE, "winograd", "twin", "split", "pixel_products"),
    (*_BASE, "winograd", "twin", "twin_rest", "pad_halves"),
    (*_BASE, "winograd", "pad_eights"),
    (*_BASE, "winograd_products"),
    (*_BASE, "winograd_products", "join_late"),
    (*_BASE, "winograd_products", "split", "pixel_products"),
    (*_BASE, "winograd_products", "twin", "split", "pixel_products"),
    (*_BASE, "winograd_products", "winograd", "split"),
    (*_BASE, "winograd_products", "winograd", "twin", "twin_rest", "pad_halves"),
)


@dataclasses.dataclass(frozen=True)
class TuneRow:
    """One set of passes: milliseconds of a call, and its time over that of the export without rewrites."""

    passes: tuple[str, ...]
    median_ms: float
    p10_ms: float
    p90_ms: float
    rounds: int
    ratio: float


@dataclasses.dataclass(frozen=True)
class TuneResult:
    """What `tune` measured, quickest first.

    Attributes:
        passes: the quickest set, for `export(passes=…)` or `optimize(passes=…)`.
        rows: all sets; a file that several sets gave alike is timed once.
        skipped: sets that have no file, and why.
        target: the runtime.
        input_size: shape of one input without the batch.
        threads: threads inside one operator.
        environment: machine and versions.
    """

    passes: tuple[str, ...]
    rows: list[TuneRow]
    target: str
    input_size: tuple[int, ...]
    threads: int
    environment: dict[str, Any]
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Return a plain-text table and the conditions."""
        lines = ["median ms  p10-p90 ms   time ratio  passes"]
        for row in self.rows:
            spread = f"{row.p10_ms:.2f}-{row.p90_ms:.2f}"
            names = ", ".join(row.passes) or "none"
            lines.append(f"{row.median_ms:9.3f}  {spread:<11}  {row.ratio:10.3f}  {names}")
        lines += [f"left out: {names}: {reason}" for names, reason in self.skipped.items()]
        lines.append(f"{self.target}, {self.threads} thread(s), batch 1, {self.environment['cpu']}")
        return "\n".join(lines)


def tune(
    model: nn.Module,
    target: str,
    *,
    input_size: Sequence[int] = (3, 224, 224),
    candidates: Sequence[Sequence[str]] | None = None,
    threads: int = 1,
    min_seconds: float = 1.0,
) -> TuneResult:
    """Export `model` with several sets of passes, time the files in turn in the runtime, and return the quickest set.

    Args:
        model: a module that takes images and that `export` takes; it is untouched, and taken in float32.
        target: a key of `TARGETS`, such as "onnx".
        input_size: shape of one input without the batch.
        candidates: sets of passes to try; None tries `CANDIDATES` and the target's default. The export without any
            rewrite is always among them: ratios are to it.
        threads: threads inside one operator, >= 1.
        min_seconds: least time in seconds for each file.

    Raises:
        InputError: an unknown target or pass, no candidate, or a model that cannot be exported as it is. A set whose
            rewrites or export fail is left out.

    Example:
        >>> tune(network, "onnx").passes  # doctest: +SKIP
        ('squeeze_excite', 'fold_batch_norm', 'head', 'twin', 'pad_halves')
    """
    if candidates is not None and not candidates:
        raise InputError("there is no set of passes to try; leave `candidates` out for the usual ones")
    require_to_open(target_named(target))
    tried = ((), *candidates) if candidates is not None else (*_usual(target), default_passes(target))
    sets = list(dict.fromkeys(checked_passes(names) for names in tried))
    size = tuple(input_size)
    network = copy_model(eager_module(model, "tune")).eval().float()  # as the files are
    with tempfile.TemporaryDirectory() as folder:
        paths, skipped = _exported(network, target, sets, size, Path(folder))
        sessions = {names: load(path, threads=threads) for names, path in paths.items()}
        images = np.random.default_rng(0).standard_normal((1, *size), dtype=np.float32)
        calls = {" ".join(names): prediction(session, images) for names, session in sessions.items()}
        timings = time_interleaved(calls, min_seconds=min_seconds)
        plain = timings[""].median_ms
        rows = [
            TuneRow(
                names, **timings[" ".join(names)].to_dict(), ratio=timings[" ".join(names)].median_ms / plain
            )
            for names in sessions
        ]
        del sessions, calls  # some runtimes keep the files open
    rows.sort(key=lambda row: row.median_ms)
    return TuneResult(rows[0].passes, rows, target, size, threads, environment(), skipped)


def _usual(target: str) -> list[tuple[str, ...]]:
    """Return the candidates that a target can be timed with."""
    own = target in OF_THEIR_OWN
    return [names for names in CANDIDATES if not (own and any("winograd" in name for name in names))]


def _exported(
    model: nn.Module, target: str, sets: Sequence[tuple[str, ...]], size: tuple[int, ...], folder: Path
) -> tuple[Mapping[tuple[str, ...], Path], dict[str, str]]:
    """Write one file a set and say why others have none.

    Sets whose rewrites found nothing to do beyond an earlier set's are left out without a word.
    """
    paths: dict[tuple[str, ...], Path] = {}
    skipped: dict[str, str] = {}
    seen: set[str] = set()
    for number, names in enumerate(sets):
        path = folder / f"{number}{target_named(target).suffixes[0]}"
        try:
            network = optimize(model, passes=names, input_size=size) if names else model
            code = _code(network)
            if code in seen:
                continue
            seen.add(code)
            export(network, target, path, input_size=size, optimized=False)
        except (InputError, RuntimeError) as error:
            if not names:  # without the plain export there is nothing to compare with
                raise
            skipped[", ".join(names)] = first_line(error)
            continue
        paths[names] = path
    return paths, skipped


def _code(network: nn.Module) -> str:
    """Return text that two rewritten networks share when their layers and their order are the same."""
    layers = [f"{type(part).__name__} {part.extra_repr()}" for _, part in network.named_modules()]
    return "\n".join([str(getattr(network, "code", "")), *layers])
