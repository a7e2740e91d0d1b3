"""Equations 4 and 5: theoretical speed-up and compression of a Ghost module (§3.1), in closed form.

What a network gains is counted by `measure`; these formulas are per layer and assume that `ratio` divides n.
"""

from __future__ import annotations

from ghostnet.errors import InputError


def theoretical_speedup(in_channels: int, kernel_size: int, *, ratio: int, cheap_kernel_size: int) -> float:
    """Return r_s = c·k² / (c·k²/s + (s-1)/s·d²), dense MACs over Ghost MACs of one layer (eq. 4).

    Args:
        in_channels: c, >= 1.
        kernel_size: k, side of the primary kernel, >= 1.
        ratio: s, >= 1.
        cheap_kernel_size: d, side of the depthwise kernel, >= 1.

    Raises:
        InputError: a value below 1.

    Example:
        >>> round(theoretical_speedup(256, 3, ratio=2, cheap_kernel_size=3), 3)
        1.992
    """
    _check(in_channels, kernel_size, ratio, cheap_kernel_size)
    dense = in_channels * kernel_size**2
    return dense / (dense / ratio + (ratio - 1) / ratio * cheap_kernel_size**2)


def compression_ratio(
    in_channels: int, kernel_size: int, *, out_channels: int, ratio: int, cheap_kernel_size: int
) -> float:
    """Return r_c = n·c·k² / (n/s·c·k² + (s-1)·n/s·d²), dense weights over Ghost weights of one layer (eq. 5).

    n cancels, so r_c equals r_s: every weight is used once per output pixel in both.

    Args:
        in_channels: c, >= 1.
        kernel_size: k, side of the primary kernel, >= 1.
        out_channels: n, >= 1.
        ratio: s, >= 1.
        cheap_kernel_size: d, side of the depthwise kernel, >= 1.

    Raises:
        InputError: a value below 1.

    Example:
        >>> round(compression_ratio(256, 3, out_channels=512, ratio=4, cheap_kernel_size=3), 3)
        3.954
    """
    _check(in_channels, kernel_size, ratio, cheap_kernel_size)
    if out_channels < 1:
        raise InputError(f"`out_channels` (={out_channels!r}) must be >= 1.")
    dense = out_channels * in_channels * kernel_size**2
    cheap = (ratio - 1) * out_channels / ratio * cheap_kernel_size**2
    return dense / (dense / ratio + cheap)


def approximate_ratio(in_channels: int, *, ratio: int) -> float:
    """Return s·c / (s + c - 1), what eq. 4 and 5 become when d = k; it tends to s for s ≪ c.

    Args:
        in_channels: c, >= 1.
        ratio: s, >= 1.

    Raises:
        InputError: a value below 1.

    Example:
        >>> round(approximate_ratio(256, ratio=2), 3)
        1.992
    """
    _check(in_channels, 1, ratio, 1)
    return ratio * in_channels / (ratio + in_channels - 1)


def _check(in_channels: int, kernel_size: int, ratio: int, cheap_kernel_size: int) -> None:
    given = {
        "in_channels": in_channels,
        "kernel_size": kernel_size,
        "ratio": ratio,
        "cheap_kernel_size": cheap_kernel_size,
    }
    for name, value in given.items():
        if value < 1:
            raise InputError(f"`{name}` (={value!r}) must be >= 1.")
