"""Who takes part in a benchmark: networks and files become sessions, one for each setting that they can run in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostnet.deploy.manifest import FILE_PRECISIONS
from ghostnet.deploy.session import Session, identify, load
from ghostnet.deploy.targets import TARGETS, require_to_open, target_named
from ghostnet.errors import InputError, unknown_name

if TYPE_CHECKING:
    from torch import nn

PRECISIONS = ("fp32", "bf16", "fp16", "int8")
_NOISE_IMAGES = 16  # calibrate int8 where only its time counts


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A network that is exported on the fly, to each runtime that it is timed in.

    Attributes:
        model: the network.
        optimized: with exact rewrites, or plainly as anybody would export it.
        passes: names of the rewrites; None takes the runtime's own set.
    """

    model: nn.Module
    optimized: bool = True
    passes: Sequence[str] | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """In which runtimes, precisions and numbers of threads networks are timed, and on which input."""

    runtimes: Sequence[str]
    precisions: Sequence[str]
    threads: Sequence[int]
    input_size: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in self.runtimes:
            target_named(name)
        for precision in self.precisions:
            if precision not in PRECISIONS:
                raise unknown_name("precision", precision, PRECISIONS)
        for kind, given in (
            ("runtime", self.runtimes),
            ("precision", self.precisions),
            ("thread count", self.threads),
        ):
            if not given:
                raise InputError(f"no {kind} is given; name at least one")
            if len(set(given)) < len(given):
                raise InputError(f"the same {kind} is given twice: {', '.join(map(str, given))}")


def line_up(
    networks: Mapping[str, Any], settings: Settings, folder: Path, announce: Callable[[str], None]
) -> tuple[list[tuple[str, Session]], list[str]]:
    """Return a session for each network in each setting, setting by setting, and what had to be left out.

    Args:
        networks: sessions, paths of exported files, candidates or modules by name.
        settings: what to run them in; sessions keep their own, and a file its runtime.
        folder: where files of candidates are written; it must outlive the sessions.
        announce: called with a line before each export.

    Raises:
        InputError: a file that cannot be used, or nothing that can run.
    """
    skipped: list[str] = []
    found: list[tuple[str, Session]] = []
    for number, (name, given) in enumerate(networks.items()):
        if isinstance(given, Session):
            found.append((name, given))
            continue
        for path in _files(name, given, settings, folder / str(number), skipped, announce):
            found += [(name, session) for session in _sessions(name, path, settings, skipped)]
    if not found:
        raise InputError("nothing can be run: " + "; ".join(skipped))
    places = {name: place for place, name in enumerate(networks)}
    names = list(TARGETS)
    found.sort(
        key=lambda pair: (
            names.index(pair[1].target),
            PRECISIONS.index(pair[1].precision),
            pair[1].threads,
            places[pair[0]],
        )
    )
    return found, skipped


def _files(
    name: str,
    given: Any,
    settings: Settings,
    folder: Path,
    skipped: list[str],
    announce: Callable[[str], None],
) -> list[Path]:
    if isinstance(given, str | Path) or hasattr(given, "__fspath__"):
        path = Path(given)
        _, manifest, _ = identify(path)
        skipped += [
            f"{name}: a file keeps its precision; `ghostnet export --precision {asked}` writes {asked}"
            for asked in settings.precisions
            if asked in FILE_PRECISIONS and (manifest is None or manifest.precision != asked)
        ]
        return [path]
    candidate = given if isinstance(given, Candidate) else Candidate(given)
    # the others are the arithmetic's, and have one file
    wanted = dict.fromkeys(
        precision if precision in FILE_PRECISIONS else "fp32" for precision in settings.precisions
    )
    paths = []
    for runtime in settings.runtimes:
        for kind in wanted:
            path = folder / kind / f"{runtime}{TARGETS[runtime].suffixes[0]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            title = TARGETS[runtime].runtime + (f" in {kind}" if kind in FILE_PRECISIONS else "")
            try:
                require_to_open(target_named(runtime, "fp32" if kind == "int8" else kind))
                announce(f"exporting {name} to {title}")
                if kind == "int8":
                    _write_int8(candidate, runtime, path, settings.input_size)
                else:
                    _write(candidate, runtime, path, settings.input_size, kind)
            except (InputError, RuntimeError) as error:  # what one runtime cannot express, another can
                skipped.append(f"{name} in {title}: {error}")
                continue
            paths.append(path)
    return paths


def _write(
    candidate: Candidate, runtime: str, path: Path, input_size: tuple[int, ...], precision: str
) -> None:
    from ghostnet.deploy.export import export

    export(
        candidate.model,
        runtime,
        path,
        input_size=input_size,
        passes=candidate.passes,
        optimized=candidate.optimized,
        precision=precision,
    )


def _write_int8(candidate: Candidate, runtime: str, path: Path, input_size: tuple[int, ...]) -> None:
    """Write int8 with all layers quantised, its ranges from noise: as quick as with images, its answers worthless."""
    from ghostnet.deploy.quantization.quantize import quantize
    from ghostnet.deploy.quantization.search import ANY_COST

    noise = np.random.default_rng(0).standard_normal((_NOISE_IMAGES, *input_size), dtype=np.float32)
    quantize(
        candidate.model,
        runtime,
        path,
        noise,
        limits=ANY_COST,
        input_size=input_size,
        passes=candidate.passes,
        optimized=candidate.optimized,
    )


def _sessions(name: str, path: Path, settings: Settings, skipped: list[str]) -> list[Session]:
    found = []
    _, manifest, target = identify(path)
    if (
        manifest is not None and manifest.precision != "fp32"
    ):  # the file has its precision, whatever was asked for
        return [load(path, threads=count) for count in settings.threads]
    for precision in settings.precisions:
        if precision in FILE_PRECISIONS:
            continue  # that is a file of its own
        if precision not in target.precisions:
            skipped.append(f"{name}: {target.runtime} has no {precision} here")
            continue
        for count in settings.threads:
            if target.threads_in_use not in (None, count):
                skipped.append(
                    f"{name} with threads={count}: {target.runtime} has one number of threads in a process, which is "
                    f"{target.threads_in_use} here; time it with {count} alone"
                )
                continue
            found.append(load(path, threads=count, precision=precision))
    return found
