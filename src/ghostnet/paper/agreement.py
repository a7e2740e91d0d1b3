"""When a count agrees with a number that the paper prints.

The paper truncates MACs (141.15 M is "141", 226.996 M is "226") and mostly rounds parameters (5.16 M is "5.2"), and the
peers' rows of Table 7 are copied from papers with other habits. So both readings of the printed digits count.
"""

from __future__ import annotations

_MILLION = 1_000_000


def agrees(count: int, printed_millions: float, decimals: int) -> bool:
    """Return whether a count, truncated or rounded to the printed digits, is the printed number.

    Args:
        count: parameters or MACs.
        printed_millions: what the paper prints, in millions.
        decimals: digits that the paper prints after the point.

    Example:
        >>> agrees(226_996_000, 226, 0), agrees(227_003_256, 226, 0)
        (True, False)
    """
    steps = count * 10**decimals
    return round(printed_millions * 10**decimals) in (
        steps // _MILLION,
        (2 * steps + _MILLION) // (2 * _MILLION),
    )
