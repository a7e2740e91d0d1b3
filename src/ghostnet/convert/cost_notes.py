"""Measured costs of layers on disk, so that an interrupted measurement goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from ghostnet.errors import InputError
from ghostnet.files import atomic_write


class CostNotes:
    """Costs on disk, written as they are measured; without a path nothing is kept.

    Args:
        path: the file, or None.
        fingerprint: of what the costs belong to; called where there is a path.
    """

    def __init__(self, path: str | Path | None, fingerprint: Callable[[], str]) -> None:
        self._path = None if path is None else Path(path)
        self._costs: dict[str, float] = {}
        if self._path is None:
            return
        self._head = {"kind": "ghostnet sensitivity", "fingerprint": fingerprint()}
        if not self._path.exists():
            return
        if self._path.is_dir():
            raise InputError(f"{path} is a folder; name a file for the costs")
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            head = {key: found[key] for key in self._head}
            self._costs = {str(key): float(value) for key, value in found["costs"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} holds no measured costs of layers; name another file") from error
        if head != self._head:
            raise InputError(
                f"{path} belongs to another network, other images or settings; name another file"
            )

    def get(self, name: str, ratio: int) -> float | None:
        """Return a cost that was measured before."""
        return self._costs.get(f"{name}/{ratio}")

    def put(self, name: str, ratio: int, cost: float) -> None:
        """Keep a cost."""
        self._costs[f"{name}/{ratio}"] = cost
        if self._path is not None:
            with atomic_write(self._path) as temporary:
                temporary.write_text(json.dumps({**self._head, "costs": self._costs}, indent=1) + "\n")
