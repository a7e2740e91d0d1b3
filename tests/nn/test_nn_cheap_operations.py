"""Cheap operations: linear, one intrinsic map each, any number of ghost maps, gradients everywhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ghostnet.errors import InputError
from ghostnet.nn import CHEAP_OPERATIONS, DepthwiseOperation, WaveletOperation, make_cheap_operation
from ghostnet.nn.cheap_operations import AffineOperation, source_maps

NAMES = sorted(CHEAP_OPERATIONS)


def test_the_three_operations_are_registered():
    assert NAMES == ["affine", "depthwise", "wavelet"]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(1, 5),
    ghosts=st.integers(1, 12),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    kernel_size=st.sampled_from([1, 3, 5, 7]),
)
def test_linear_and_of_the_right_shape(name, channels, ghosts, height, width, kernel_size):
    torch.manual_seed(0)
    operation = make_cheap_operation(name, channels, ghosts, kernel_size).double()
    a, b = torch.randn(2, 2, channels, height, width, dtype=torch.float64)
    output = operation(a)
    assert output.shape == (2, ghosts, height, width)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if name == "affine" else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(operation(2.0 * a - 3.0 * b), 2.0 * output - 3.0 * operation(b), **tolerance)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "ghosts"), [(3, 3), (3, 6), (3, 7), (3, 2), (4, 1)])
def test_each_ghost_map_sees_one_intrinsic_map_in_order(name, channels, ghosts):
    torch.manual_seed(1)
    operation = make_cheap_operation(name, channels, ghosts, 3)
    sources = source_maps(channels, ghosts)
    assert sources == sorted(sources)
    counts = [sources.count(index) for index in range(channels)]
    assert sum(counts) == ghosts
    assert max(counts) == -(-ghosts // channels)
    assert counts == sorted(counts, reverse=True)  # whole sets first, what is cut off is at the end
    for index in range(channels):
        maps = torch.zeros(1, channels, 6, 6)
        maps[:, index] = torch.rand(6, 6) + 0.5
        alive = operation(maps).abs().sum((0, 2, 3)) > 0
        assert alive.tolist() == [source == index for source in sources]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ghosts", [4, 7, 8, 3])
def test_every_parameter_gets_a_gradient(name, ghosts):
    operation = make_cheap_operation(name, 4, ghosts, 3, bias=True)
    operation(torch.randn(2, 4, 5, 5)).square().sum().backward()
    parameters = dict(operation.named_parameters())
    assert len(parameters) >= 2
    for key, parameter in parameters.items():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize(("channels", "ghosts"), [(4, 4), (4, 8), (4, 7), (4, 3), (4, 1)])
def test_depthwise_builds_whole_sets_and_nothing_spare_where_they_divide(channels, ghosts):
    operation = DepthwiseOperation(channels, ghosts, 3)
    made = channels * -(-ghosts // channels)
    assert sum(parameter.numel() for parameter in operation.parameters()) == made * 9
    assert (made == ghosts) == (ghosts % channels == 0)
    assert operation.kernels().shape == (ghosts, 1, 3, 3)


@pytest.mark.parametrize(("channels", "ghosts"), [(4, 8), (4, 7), (4, 3)])
def test_depthwise_kernels_are_in_the_order_of_the_ghost_maps(channels, ghosts):
    operation = DepthwiseOperation(channels, ghosts, 3, bias=True)
    kernels, bias = operation.kernels(), operation.conv.bias[:ghosts]
    maps = torch.randn(2, channels, 5, 5)
    spread = maps[:, source_maps(channels, ghosts)]
    expected = nn.functional.conv2d(spread, kernels, bias, padding=1, groups=ghosts)
    torch.testing.assert_close(operation(maps), expected)


def test_wavelet_with_unit_gains_is_the_identity_and_low_pass_averages():
    operation = WaveletOperation(2, 2)
    maps = torch.randn(1, 2, 5, 7)
    nn.init.ones_(operation.gain)
    torch.testing.assert_close(operation(maps), maps)
    with torch.no_grad():
        operation.gain.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(2, 4))
    expected = nn.functional.avg_pool2d(maps[..., :4, :6], 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(operation(maps)[..., :4, :6], expected)


def test_affine_identity_and_shift():
    operation = AffineOperation(1, 2)
    with torch.no_grad():
        operation.warp.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).expand(2, 2, 3))
        operation.warp[1, 0, 2] = 2 / 4  # one of four columns
    maps = torch.randn(3, 1, 4, 4)
    ghosts = operation(maps)
    torch.testing.assert_close(ghosts[:, :1], maps)
    torch.testing.assert_close(ghosts[:, 1, :, :3], maps[:, 0, :, 1:], rtol=1e-4, atol=1e-5)
    assert ghosts[:, 1, :, 3].abs().max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_under_autocast(name):
    operation = make_cheap_operation(name, 2, 3, 3, bias=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ghosts = operation(torch.randn(1, 2, 5, 5, dtype=torch.bfloat16))
    assert ghosts.dtype == torch.bfloat16


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kernel_size", [0, 2, -1, 3.0, True])
def test_bad_kernel_size(name, kernel_size):
    with pytest.raises(InputError, match=r"`cheap_kernel_size` \(=.*\) must be an odd integer >= 1"):
        make_cheap_operation(name, 2, 2, kernel_size)


@pytest.mark.parametrize("name", NAMES)
def test_empty_operation(name):
    with pytest.raises(InputError, match="from 2 to 0 maps is empty"):
        make_cheap_operation(name, 2, 0, 3)


def test_unknown_operation_lists_near_matches():
    with pytest.raises(InputError, match="unknown cheap operation 'depthwize'; did you mean 'depthwise'"):
        make_cheap_operation("depthwize", 2, 2, 3)
