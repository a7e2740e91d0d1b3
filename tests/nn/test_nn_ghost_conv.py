"""GhostConv2d: the shapes of nn.Conv2d, the authors' computation, configs, export, and every error."""

from __future__ import annotations

import copy
import json
import warnings

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from ghostnet.errors import InputError
from ghostnet.nn import CHEAP_OPERATIONS, GhostConv2d

PAIR = st.one_of(st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3)))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own, for nn.Conv2d too
@settings(max_examples=80, deadline=None)
@given(
    groups=st.sampled_from([1, 1, 2, 3]),
    in_factor=st.integers(1, 3),
    out_factor=st.integers(1, 7),
    ratio=st.integers(1, 5),
    cheap_kernel_size=st.sampled_from([1, 3, 5]),
    kernel_size=PAIR,
    stride=PAIR,
    dilation=PAIR,
    padding=st.one_of(st.integers(0, 3), st.just("valid"), st.just("same")),
    size=st.tuples(st.integers(7, 12), st.integers(7, 12)),
    bias=st.booleans(),
)
def test_shape_and_gradients_as_conv2d(
    groups,
    in_factor,
    out_factor,
    ratio,
    cheap_kernel_size,
    kernel_size,
    stride,
    dilation,
    padding,
    size,
    bias,
):
    in_channels, out_channels = groups * in_factor, groups * out_factor
    assume(ratio <= out_channels and (ratio == 1 or out_factor > 1))
    assume(padding != "same" or stride in (1, (1, 1)))
    arguments = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
    ghost = GhostConv2d(*arguments, ratio=ratio, cheap_kernel_size=cheap_kernel_size)
    plain = nn.Conv2d(*arguments)
    x = torch.randn(2, in_channels, *size)
    output = ghost(x)
    assert output.shape == plain(x).shape
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
        assert getattr(ghost, name) == getattr(plain, name), name
    assert ghost.intrinsic_channels % groups == 0
    output.square().sum().backward()
    for name, parameter in ghost.named_parameters():
        assert parameter.grad is not None, name
    rebuilt = GhostConv2d.from_config(json.loads(json.dumps(ghost.config())))
    rebuilt.load_state_dict(ghost.state_dict())
    assert torch.equal(rebuilt(x), output)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("out_channels", [8, 7])
def test_ratio_2_equals_the_usual_ghost_module_code(out_channels, bias):
    ghost = GhostConv2d(3, out_channels, 3, 2, 1, bias=bias)
    half = -(-out_channels // 2)
    assert ghost.intrinsic_channels == half
    primary, cheap = (
        nn.Conv2d(3, half, 3, 2, 1, bias=bias),
        nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=bias),
    )
    primary.load_state_dict(ghost.primary_conv.state_dict())
    kept = out_channels - half
    with torch.no_grad():
        cheap.weight[:kept] = ghost.cheap_operation.kernels()
        if bias:
            cheap.bias[:kept] = ghost.cheap_operation.conv.bias[:kept]
    x = torch.randn(2, 3, 9, 9)
    maps = primary(x)
    expected = torch.cat([maps, cheap(maps)], dim=1)[:, :out_channels]
    torch.testing.assert_close(ghost(x), expected)


def test_ratio_1_is_a_plain_convolution():
    ghost, plain = GhostConv2d(4, 6, 3, padding=1, ratio=1), nn.Conv2d(4, 6, 3, padding=1)
    assert ghost.cheap_operation is None
    ghost.primary_conv.load_state_dict(plain.state_dict())
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(ghost(x), plain(x))


def test_ratio_may_equal_the_channels():
    ghost = GhostConv2d(2, 5, 3, ratio=5)
    assert ghost.intrinsic_channels == 1
    assert ghost(torch.zeros(1, 2, 4, 4)).shape == (1, 5, 2, 2)


def test_intrinsic_channels_round_up_to_groups():
    ghost = GhostConv2d(4, 12, 3, groups=4, ratio=2)
    assert ghost.intrinsic_channels == 8
    assert ghost(torch.zeros(1, 4, 5, 5)).shape == (1, 12, 3, 3)


def test_norm_and_activation_follow_both_branches():
    ghost = GhostConv2d(3, 8, 3, padding=1, bias=False, norm="batch", activation="relu").eval()
    for norm in (ghost.primary_norm, ghost.cheap_norm):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 6, 6)
    maps = ghost.primary_norm(ghost.primary_conv(x)).relu()
    ghosts = ghost.cheap_norm(ghost.cheap_operation(maps)).relu()
    torch.testing.assert_close(ghost(x), torch.cat([maps, ghosts], dim=1))
    assert ghost(x).min() == 0


@pytest.mark.parametrize(
    "activation", ["relu", "relu6", "silu", "hardswish", "gelu", "leaky_relu", "sigmoid"]
)
def test_every_activation_trains(activation):
    ghost = GhostConv2d(2, 4, 3, activation=activation)
    ghost(torch.randn(2, 2, 5, 5)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in ghost.parameters())


def test_channel_order_permutes_and_survives_config_and_state_dict():
    ghost = GhostConv2d(3, 7, 3)
    x, order = torch.randn(1, 3, 6, 6), torch.tensor([3, 1, 6, 0, 2, 5, 4])
    before = ghost(x)
    ghost.set_channel_order_(order)
    assert torch.equal(ghost(x), before[:, order])
    assert ghost.config()["channel_order"] is True
    rebuilt = GhostConv2d.from_config(ghost.config())
    rebuilt.load_state_dict(ghost.state_dict())
    assert torch.equal(rebuilt(x), ghost(x))
    assert torch.equal(copy.deepcopy(ghost)(x), ghost(x))
    ghost.set_channel_order_(None)
    assert torch.equal(ghost(x), before)
    assert "channel_order" not in ghost.state_dict()


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 0, 1, 2], [1, 2, 3, 4], [[0, 1], [2, 3]]])
def test_channel_order_must_be_a_permutation(order):
    with pytest.raises(InputError, match="must be a permutation of 0 to 3"):
        GhostConv2d(2, 4, 3).set_channel_order_(torch.tensor(order))


@pytest.mark.parametrize("name", sorted(CHEAP_OPERATIONS))
@pytest.mark.parametrize("out_channels", [8, 7])
def test_export_trace_and_fx_give_the_same_output(name, out_channels):
    ghost = GhostConv2d(3, out_channels, 3, ratio=3, cheap_operation=name).eval()
    ghost.set_channel_order_(torch.arange(out_channels).flip(0))
    x = torch.randn(2, 3, 7, 7)
    expected = ghost(x)
    program = torch.export.export(ghost, (x,))
    torch.testing.assert_close(program.module()(x), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit announces its retirement
        traced = torch.jit.trace(ghost, x)
    torch.testing.assert_close(traced(x), expected)
    if name == "depthwise":  # the others read shapes, which fx cannot follow
        torch.testing.assert_close(torch.fx.symbolic_trace(ghost)(x), expected)


def test_no_slice_in_the_export_where_the_maps_divide_evenly():
    program = torch.export.export(GhostConv2d(3, 9, 3, ratio=3).eval(), (torch.randn(1, 3, 7, 7),))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert len(targets) == 3
    assert not any("slice" in target for target in targets)


def test_repr_names_the_ghost_arguments():
    text = repr(GhostConv2d(3, 8, 3))
    assert text.startswith(
        "GhostConv2d(\n  3, 8, kernel_size=(3, 3), stride=(1, 1), ratio=2, cheap_kernel_size=3\n"
    )


@pytest.mark.parametrize("ratio", [0, -1, 2.5, True, "2", None])
def test_bad_ratio(ratio):
    with pytest.raises(InputError) as caught:
        GhostConv2d(4, 8, 3, ratio=ratio)
    assert (
        str(caught.value)
        == f"`ratio` (={ratio!r}) must be an integer >= 1; use 1 to keep a plain convolution."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 9}, r"`ratio` \(=9\) must not be larger than `out_channels` \(=8\); use a smaller ratio"),
        ({"cheap_kernel_size": 2}, r"`cheap_kernel_size` \(=2\) must be an odd integer >= 1"),
        ({"cheap_kernel_size": 0}, r"`cheap_kernel_size` \(=0\) must be an odd integer >= 1"),
        ({"cheap_operation": "wavelets"}, "unknown cheap operation 'wavelets'; did you mean 'wavelet'"),
        ({"norm": "batchnorm"}, "unknown norm 'batchnorm'; did you mean 'batch'"),
        ({"activation": "relu7"}, "unknown activation 'relu7'; did you mean 'relu"),
        ({"groups": 3}, r"`in_channels` \(=4\) must be divisible by `groups` \(=3\)"),
        ({"groups": 0}, r"`groups` \(=0\) must be an integer >= 1"),
        ({"in_channels": 0}, r"`in_channels` \(=0\) must be an integer >= 1"),
        ({"in_channels": 3, "groups": 3}, r"`out_channels` \(=8\) must be divisible by `groups` \(=3\)"),
        (
            {"in_channels": 8, "groups": 8},
            r"`groups` \(=8\) leaves no ghost map .* use ratio 1 or fewer groups",
        ),
        ({"padding_mode": "mirror"}, "nn.Conv2d refuses these arguments: padding_mode must be one of"),
        (
            {"padding": "same", "stride": 2},
            "nn.Conv2d refuses these arguments: padding='same' is not supported",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        GhostConv2d(**{"in_channels": 4, "out_channels": 8, "kernel_size": 3, **arguments})
    assert "\n" not in str(caught.value)


def test_bad_configs():
    config = GhostConv2d(3, 8, 3).config()
    with pytest.raises(InputError, match="unknown ghost_conv2d config key 'ratios'; did you mean 'ratio'"):
        GhostConv2d.from_config({**config, "ratios": 2})
    del config["kernel_size"]
    with pytest.raises(InputError, match="a ghost_conv2d config needs `kernel_size`"):
        GhostConv2d.from_config(config)


@pytest.mark.parametrize("norm", [None, "batch"])
def test_maps_of_one_image_may_come_without_a_batch_as_for_a_convolution(norm):
    ghost = GhostConv2d(3, 7, 3, padding=1, ratio=3, norm=norm).eval()
    ghost.set_channel_order_(torch.tensor([6, 0, 1, 2, 3, 4, 5]))
    images = torch.rand(1, 3, 6, 5)
    assert ghost(images[0]).shape == nn.Conv2d(3, 7, 3, padding=1)(images[0]).shape
    assert torch.equal(ghost(images[0]), ghost(images)[0])


def test_a_config_keeps_what_the_norms_were_given():
    ghost = GhostConv2d(3, 8, 3, norm="batch")
    assert "norm_options" not in ghost.config()  # files that older versions read
    ghost.set_norm_options_(1e-3, None)
    again = GhostConv2d.from_config(json.loads(json.dumps(ghost.config())))
    assert [(n.eps, n.momentum) for n in (again.primary_norm, again.cheap_norm)] == [(1e-3, None)] * 2
    with pytest.raises(InputError, match="norm_options"):
        GhostConv2d.from_config({**ghost.config(), "norm_options": {"eps": 1e-3}})
