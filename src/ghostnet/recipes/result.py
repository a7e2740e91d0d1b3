"""The result of a run as JSON: what was run, on what, for how long, and what came of it."""

from __future__ import annotations

import functools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from ghostnet.files import atomic_write
from ghostnet.measure import environment

SCHEMA = 1


def make_result(
    exhibit: str, *, metrics: dict[str, Any], seconds: float, seed: int, recipe: Any
) -> dict[str, Any]:
    """Return a result record.

    Args:
        exhibit: the table, figure or experiment that it belongs to.
        metrics: what was measured.
        seconds: wall time.
        seed: of the run.
        recipe: the resolved recipe, JSON-able.
    """
    return {
        "schema": SCHEMA,
        "exhibit": exhibit,
        "command": " ".join([_program(), *map(shlex.quote, sys.argv[1:])]),
        "commit": source_commit(),
        "environment": environment(),
        "seconds": round(seconds, 1),
        "seed": seed,
        "recipe": recipe,
        "metrics": metrics,
    }


def _program() -> str:
    """Return what starts this command, `torchrun` included where it did."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun
    return "ghostnet" if processes == 1 else f"torchrun --nproc-per-node {processes} -m ghostnet"


def write_record(
    path: Path,
    metrics: dict[str, Any],
    *,
    seconds: float,
    recipe: dict[str, Any],
    more: dict[str, Any] | None = None,
    unplaced: str = "runs",
) -> None:
    """Write what a command measured; the folder that it goes into is its exhibit.

    Args:
        path: the record.
        metrics: what was measured, JSON-able.
        seconds: wall time.
        recipe: what was asked for, with a `name`.
        more: further keys beside the usual ones.
        unplaced: the exhibit of a path without a folder.
    """
    exhibit = path.parent.name or unplaced
    record = make_result(exhibit, metrics=metrics, seconds=seconds, seed=0, recipe=recipe)
    write_json(path, record | (more or {}))


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


@functools.cache
def source_commit() -> str | None:
    """Return the commit of the source tree that this package runs from, or None for an installed one.

    Asked once a process: a long run calls this first, so that a commit made meanwhile is not taken for its own.
    """
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
