"""What forward hooks of layers with one input share: `input_of`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def input_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return what a layer with one input was given, also by name as in `conv(input=x)`; for hooks `with_kwargs=True`.

    Example:
        >>> input_of((), {"input": 3})
        3
    """
    return args[0] if args else next(iter(kwargs.values()))
