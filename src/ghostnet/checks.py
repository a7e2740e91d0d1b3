"""Numbers that a user gives, checked where they are used: `check_integer`, `is_integer` and `is_number`.

For Python True is an integer and for a user it is a mistake, so that no check takes it.
"""

from __future__ import annotations

from typing import TypeGuard

from ghostnet.errors import InputError


def is_integer(value: object) -> TypeGuard[int]:
    """Return whether a value is an `int` and no `bool`.

    Example:
        >>> is_integer(3), is_integer(3.0), is_integer(True)
        (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is an `int` or a `float` and no `bool`; infinities and NaN are.

    Example:
        >>> is_number(3), is_number(0.5), is_number("3"), is_number(True)
        (True, True, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_integer(name: str, value: object, *, least: int = 1, odd: bool = False, ending: str = "") -> int:
    """Return `value` when it is an integer, large enough.

    Args:
        name: of the argument, as the message writes it: "`ratio`", "threads" or "--limit".
        value: what was given.
        least: the smallest that will do.
        odd: whether it has to be odd, too.
        ending: of the message, with its punctuation: the way out, such as "; 8 suits CPUs".

    Raises:
        InputError: it is something else, a bool or 2.0 for instance.

    Example:
        >>> check_integer("`ratio`", 0, ending="; use 1 to keep a plain convolution")
        Traceback (most recent call last):
        ghostnet.errors.InputError: `ratio` (=0) must be an integer >= 1; use 1 to keep a plain convolution
    """
    if not is_integer(value) or value < least or (odd and value % 2 == 0):
        kind = "an odd integer" if odd else "an integer"
        raise InputError(f"{name} (={value!r}) must be {kind} >= {least}{ending}")
    return value
