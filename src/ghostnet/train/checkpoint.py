"""Checkpoints from which a run goes on to the identical result: written whole or not at all, not unpickled blindly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ghostnet.errors import InputError
from ghostnet.files import atomic_write

_SCHEMA = 1


def save_checkpoint(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write the state of a run; an older checkpoint survives a failure.

    Args:
        path: the checkpoint file.
        state: tensors and plain values only.
    """
    with atomic_write(path) as temporary:
        torch.save({"schema": _SCHEMA, **state}, temporary)


def load_checkpoint(
    path: str | os.PathLike[str], settings: dict[str, Any], identity: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Read a checkpoint of a run with the same settings.

    Args:
        path: the checkpoint file.
        settings: what the run was started with; a checkpoint of another run is refused.
        identity: what else it must share; keys that the checkpoint lacks, which may be older than they, are not
            compared.

    Returns:
        The state, or None where there is no checkpoint.

    Raises:
        InputError: the file is damaged, or belongs to a run with other settings.
    """
    if not Path(path).exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path} is not a readable checkpoint; delete it to start anew") from error
    if not isinstance(state, dict) or state.get("schema") != _SCHEMA:
        raise InputError(f"{path} was written by another version of ghostnet; delete it to start anew")
    saved = state["settings"]
    changed = sorted(key for key in {*saved, *settings} if saved.get(key) != settings.get(key))
    if changed:
        raise other_run(path, changed[0], saved.get(changed[0]), settings.get(changed[0]))
    known, wanted = state.get("identity") or {}, identity or {}
    for key in sorted({*known} & {*wanted}):
        if known[key] != wanted[key]:
            raise other_run(path, key, known[key], wanted[key])
    return state


def other_run(path: str | os.PathLike[str], key: str, saved: Any, wanted: Any) -> InputError:
    """Return the error that a file left by an earlier run is of another one, and in what."""
    return InputError(
        f"{os.fspath(path)} belongs to a run with {key} = {saved!r}, not {wanted!r}; "
        "delete it or name another folder"
    )
