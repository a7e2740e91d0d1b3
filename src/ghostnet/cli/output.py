"""What every verb answers with: JSON or text on standard output; notes on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any


def answer(value: Any, *, as_json: bool, text: Callable[[], str]) -> None:
    """Print a verb's answer.

    Args:
        value: JSON-able.
        as_json: print `value` as JSON instead of the text.
        text: gives the text; called only when it is wanted.
    """
    print(json.dumps(value, indent=1) if as_json else text())


def note(message: str) -> None:
    """Print one line on standard error."""
    print(message, file=sys.stderr, flush=True)
