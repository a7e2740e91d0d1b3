"""Integers and shares on the command line, refused with a line that repeats what was given (typer's own does not)."""

from __future__ import annotations

from typing import Any

import typer


def integer(text: object) -> int:
    """Return an option's text as an integer; the parser of `integer_option`.

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


def integer_option(*names: str, help: str) -> Any:
    """Return an option that takes an integer, for `Annotated`.

    Args:
        names: "--top-k"; none leaves the name to typer.
        help: what `--help` says of it.
    """
    return typer.Option(*names, parser=integer, metavar="INTEGER", help=help)


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
