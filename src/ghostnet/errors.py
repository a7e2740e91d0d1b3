"""Errors that a user can act on: one line saying what was given, what is allowed, and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """What the user gave cannot be used; the message is one line and the command line exits with 2."""


class DiskFullError(InputError, OSError):
    """There is no room for a file where the user wants it; an older file there is untouched."""


def first_line(error: BaseException) -> str:
    """Return the first line of another library's message, or the error's type where it has none.

    Example:
        >>> first_line(RuntimeError("shapes differ\\nsee above")), first_line(ValueError())
        ('shapes differ', 'ValueError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unknown_name(kind: str, name: object, known: Iterable[str]) -> InputError:
    """Build the error for a name that does not exist, with its nearest known names.

    Args:
        kind: what was looked up, in the singular ("model", "recipe key").
        name: what was given.
        known: every name that would have been accepted.

    Returns:
        An `InputError` to raise.

    Example:
        >>> str(unknown_name("model", "resnet65", ["resnet56", "vgg16"]))
        "unknown model 'resnet65'; did you mean 'resnet56'?"
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    if near:
        hint = "did you mean " + " or ".join(repr(match) for match in near) + "?"
    elif len(names) <= 12:
        hint = "known: " + (", ".join(names) or "none")
    else:
        hint = f"{len(names)} are known, the first ones: " + ", ".join(names[:8])
    return InputError(f"unknown {kind} {name!r}; {hint}")
