"""Records that can be read but hold something else than their exhibit shows: each is named, and the rest is used."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ghostnet.errors import InputError
from ghostnet.report.catalogue import Records

_FAULTS = (KeyError, TypeError, ValueError, IndexError, StopIteration, AttributeError, ArithmeticError)


def usable_records(
    results: Records,
    use: Callable[[Records], object],
    *,
    folder: str | os.PathLike[str],
    on_error: Callable[[str], None],
) -> Records:
    """Return the records that a use of them stands, without those at which it breaks.

    Args:
        results: from `read_results`.
        use: what is to be done with them. Where it breaks it is tried on each record alone, and if those that are left
            break it still (two may be joined in a row), on the first, the first two and so on.
        folder: of the results, for the lines.
        on_error: called with one line for each record that is left out.

    Raises:
        InputError: `use` raised it; that is no record's fault.

    Example:
        >>> records = [(Path("a/x.json"), {"metrics": {}}), (Path("a/y.json"), {"metrics": {"n": 1}})]
        >>> def use(given):
        ...     return [record["metrics"]["n"] for _, record in given]
        >>> [path.name for path, _ in usable_records(records, use, folder="results", on_error=print)]
        results/a/x.json cannot be shown (KeyError: 'n'); run its command again
        ['y.json']
    """
    sound = list(results)
    for together in (False, True):
        if _fault(use, sound) is None:
            return sound
        tried, sound = sound, []
        for path, result in tried:
            fault = _fault(use, [*(sound if together else ()), (path, result)])
            if fault is None:
                sound.append((path, result))
            else:
                what = f"{type(fault).__name__}: {fault}"
                on_error(f"{Path(folder) / path} cannot be shown ({what}); run its command again")
    return sound


def _fault(use: Callable[[Records], object], results: Records) -> Exception | None:
    try:
        use(results)
    except InputError:
        raise
    except _FAULTS as error:
        return error
    return None
