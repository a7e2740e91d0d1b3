"""Measurements in fresh processes, which hold nothing of this one: a module of ours runs and answers in JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ghostnet

_INTERRUPTED = (-signal.SIGINT, 128 + signal.SIGINT)


def run_fresh(module: str, arguments: Sequence[str], *, subject: str) -> Any:
    """Run `python -m MODULE ARGUMENTS` with this interpreter and return the JSON in its last line.

    Args:
        module: dotted name of a module of this package; it is found however this process found the package.
        arguments: texts.
        subject: what is measured, for the message of a failure.

    Raises:
        KeyboardInterrupt: the process was interrupted.
        RuntimeError: it failed; the message ends with its own last line.
    """
    paths = [str(Path(ghostnet.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode in _INTERRUPTED:
        raise KeyboardInterrupt
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"no message, code {done.returncode}"]
        raise RuntimeError(f"{subject} fails in a process of its own: {said[-1]}")
    return json.loads(done.stdout.splitlines()[-1])
