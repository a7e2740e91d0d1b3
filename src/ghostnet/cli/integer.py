"""Integers on the command line, refused with a line that repeats what was given (typer's own does not)."""

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
