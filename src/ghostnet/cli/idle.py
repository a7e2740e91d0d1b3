"""Options that nothing in a call would read: refused in one line, so that nobody believes they took effect."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from ghostnet.errors import InputError

Use = tuple[bool, str, Sequence[str]]


def refuse_idle(context: typer.Context, *uses: Use) -> None:
    """Raise where an option was given on the command line that has no effect in this call.

    Args:
        context: the command's; it knows which options were given and which stand at their defaults.
        uses: whether a use happens in this call, what it is, and the parameters that only it reads, the first two in
            words of the command: `(precision == "int8", "--precision int8", ("max_drop", "min_agreement"))`.

    Raises:
        InputError: names the option and what it is for.
    """
    for happens, what, names in uses:
        for name in () if happens else names:
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                flag = next(entry.opts[0] for entry in context.command.params if entry.name == name)
                raise InputError(f"{flag} is for {what}, and has no effect here; leave it out")
