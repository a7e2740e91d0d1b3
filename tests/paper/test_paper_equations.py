"""Equations 4 and 5 against their limits, each other, and the spec."""

from __future__ import annotations

import math

import pytest

from ghostnet.errors import InputError
from ghostnet.paper import approximate_ratio, compression_ratio, theoretical_speedup


def test_speedup_by_hand():
    # c·k² = 64·9 = 576; 576 / (288 + 4.5)
    assert math.isclose(theoretical_speedup(64, 3, ratio=2, cheap_kernel_size=3), 576 / 292.5)


@pytest.mark.parametrize("in_channels", [1, 16, 512])
@pytest.mark.parametrize("ratio", [1, 2, 5])
def test_exact_form_is_the_approximation_when_d_equals_k(in_channels, ratio):
    exact = theoretical_speedup(in_channels, 3, ratio=ratio, cheap_kernel_size=3)
    assert math.isclose(exact, approximate_ratio(in_channels, ratio=ratio))


def test_both_equations_agree_and_tend_to_the_ratio():
    for out_channels in (8, 512):
        compression = compression_ratio(64, 3, out_channels=out_channels, ratio=4, cheap_kernel_size=5)
        assert math.isclose(compression, theoretical_speedup(64, 3, ratio=4, cheap_kernel_size=5))
    assert abs(theoretical_speedup(100_000, 3, ratio=4, cheap_kernel_size=3) - 4) < 1e-3
    assert theoretical_speedup(64, 3, ratio=1, cheap_kernel_size=7) == 1.0


@pytest.mark.parametrize("name", ["in_channels", "ratio", "cheap_kernel_size", "kernel_size"])
def test_values_below_one(name):
    values = {"in_channels": 4, "kernel_size": 3, "ratio": 2, "cheap_kernel_size": 3, name: 0}
    with pytest.raises(InputError, match=rf"`{name}` \(=0\) must be >= 1"):
        theoretical_speedup(**values)
    with pytest.raises(InputError, match=rf"`{name}` \(=0\) must be >= 1"):
        compression_ratio(out_channels=8, **values)


def test_no_output_channels():
    with pytest.raises(InputError, match=r"`out_channels` \(=0\) must be >= 1"):
        compression_ratio(4, 3, out_channels=0, ratio=2, cheap_kernel_size=3)
