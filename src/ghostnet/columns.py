"""Rows of cells as lines of text whose columns stand one below the other: `aligned`.

Left out: rules, headings and what is written below a table, which are its owner's.
"""

from __future__ import annotations

from collections.abc import Container, Sequence


def aligned(rows: Sequence[Sequence[str]], *, numbers: Container[int]) -> list[str]:
    """Return one line a row, two spaces between its columns and none at its end.

    Args:
        rows: cells, equally many in each.
        numbers: the columns that are flush right, counted from 0.

    Example:
        >>> print("\\n".join(aligned([("name", "n", "why"), ("a", "10", "")], numbers=[1])))
        name   n  why
        a     10
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
