"""Integers and shares on the command line, refused with a line that repeats what was given (typer's own does not)."""

from __future__ import annotations

import typer


def integer(text: object) -> int:
    """Return an option's text as an integer; a parser for `typer.Option`.

    Raises:
        typer.BadParameter: it is none, "2.5" for instance.

    Example:
        >>> integer("2")
        2
    """
    try:
        return int(str(text))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not an integer.") from error


def share(text: object) -> float:
    """Return an option's text as a number above 0 and below 1; a parser for `typer.Option`.

    Raises:
        typer.BadParameter: it is none, "50%" for instance.

    Example:
        >>> share("0.5")
        0.5
    """
    try:
        value = float(str(text))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a number.") from error
    if not 0 < value < 1:
        raise typer.BadParameter(f"{text!r} is not a share: give a number above 0 and below 1.")
    return value
