"""The MACs of Ghost convolutions from those of the convolutions they stand in for, against counting."""

from __future__ import annotations

import pytest
from torch import nn

from ghostnet.measure import profile
from ghostnet.measure.ghost_convolutions import ghost_macs
from ghostnet.nn import GhostConv2d


@pytest.mark.parametrize("ratio", [2, 3, 5])
@pytest.mark.parametrize("settings", [{}, {"stride": 2, "groups": 4}, {"bias": False, "dilation": 2}])
def test_a_ghost_convolutions_macs_are_those_that_are_counted(ratio, settings):
    size = (24, 11, 9)
    convolution = nn.Conv2d(24, 40, 3, padding=1, **settings)
    ghost = GhostConv2d(24, 40, 3, padding=1, **settings, ratio=ratio, cheap_kernel_size=5)
    counted = profile(ghost, size).macs
    assert ghost_macs(ghost, convolution, profile(convolution, size).macs) == counted > 0
