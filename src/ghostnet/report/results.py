"""Reading of result files: JSON records that `recipes` wrote, checked for what the tables need.

Left out: the meaning of single metrics; `tables` and `page` know those.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ghostnet.errors import InputError

SCHEMA = 1
_KEYS = ("command", "metrics", "seconds", "seed")
_DEMO_KEYS = ("rows", "seed", "environment", "command", "model")
_ROW_KEYS = ("name", "top1", "top5", "params", "macs")


def read_result(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read one result file.

    Args:
        path: a JSON file of `ghostnet train` or `ghostnet demo`.

    Raises:
        InputError: missing, not JSON, of another schema, or without what its exhibit promises.
    """
    place = Path(path)
    try:
        value = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"there is no result file {place}") from error
    except OSError as error:  # a folder of that name, or a file of another user
        raise InputError(f"{place} cannot be read: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{place} is not JSON ({error}); run its command again") from error
    if not isinstance(value, dict) or value.get("schema") != SCHEMA or "exhibit" not in value:
        raise InputError(f"{place} is not a result of schema {SCHEMA}{_way_out(value)}")
    for key in _KEYS:
        if key not in value and value["exhibit"] != "demo":
            raise InputError(f"{place} lacks {key!r}; run its command again")
    if value["exhibit"] == "demo":
        check_demo(value, str(place))
    elif not isinstance(value["metrics"], dict):
        raise InputError(f"{place} has no object of 'metrics'; run its command again")
    return value


def _way_out(value: object) -> str:
    schema = value.get("schema") if isinstance(value, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        return f" but of {schema}: a newer ghostnet wrote it; update ghostnet to read it"
    return "; run its command again with this version"


def check_demo(result: dict[str, Any], source: str) -> None:
    """Raise unless a demo's result has what its table and page show.

    Raises:
        InputError: the first key that is missing, and where.
    """
    for key in _DEMO_KEYS:
        if key not in result:
            raise InputError(f"{source} lacks {key!r}; run `ghostnet demo` again")
    if not isinstance(result["rows"], list):
        raise InputError(f"{source} has no list of 'rows'; run `ghostnet demo` again")
    for number, row in enumerate(result["rows"]):
        for key in _ROW_KEYS:
            if not isinstance(row, dict) or key not in row:
                raise InputError(f"{source} lacks {key!r} in row {number}; run `ghostnet demo` again")


def read_results(
    folder: str | os.PathLike[str], *, on_error: Callable[[InputError], None] | None = None
) -> list[tuple[Path, dict[str, Any]]]:
    """Read every `<exhibit>/<name>.json` below a folder, sorted by path.

    Args:
        folder: of the results.
        on_error: called with what is wrong with each file that cannot be used, which is then left out; None raises.

    Returns:
        Pairs of the path relative to the folder, and the record.

    Raises:
        InputError: one of them cannot be used, and `on_error` is None.
    """
    root, found = Path(folder), []
    for path in sorted(root.glob("*/*.json")):
        try:
            found.append((path.relative_to(root), read_result(path)))
        except InputError as error:
            if on_error is None:
                raise
            on_error(error)
    return found
