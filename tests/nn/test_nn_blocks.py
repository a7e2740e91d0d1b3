"""GhostModule, GhostBottleneck and SqueezeExcite: structure of §3, shapes, gradients, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ghostnet.errors import InputError
from ghostnet.nn import GhostBottleneck, GhostConv2d, GhostModule, SqueezeExcite
from ghostnet.nn.dfc_attention import DFCAttention
from ghostnet.nn.squeeze_excite import hidden_channel_count


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_ghost_module_keeps_or_halves_the_size(kernel_size, stride):
    module = GhostModule(6, 9, kernel_size, stride=stride)
    assert module(torch.randn(2, 6, 7, 9)).shape == (2, 9, -(-7 // stride), -(-9 // stride))
    assert isinstance(module.primary_conv, nn.Conv2d)
    assert module.primary_conv.bias is None
    assert isinstance(module.cheap_operation, nn.Module)
    assert module.primary_norm is not None
    assert module.cheap_norm is not None


def test_ghost_module_without_activation_is_not_clipped():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 5)
    assert GhostModule(4, 8)(x).min() == 0
    assert GhostModule(4, 8, activation=None)(x).min() < 0


def test_ghost_module_config_rebuilds_it():
    module = GhostModule(4, 8, 3).eval()
    rebuilt = GhostModule.from_config(module.config()).eval()
    assert isinstance(rebuilt, GhostConv2d)
    rebuilt.load_state_dict(module.state_dict())
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(rebuilt(x), module(x))


def test_ghost_module_refuses_a_pair():
    with pytest.raises(InputError, match=r"`kernel_size` .* use GhostConv2d for pairs"):
        GhostModule(4, 8, (3, 3))


CASES = [
    (16, 48, 24, 3, 2, 0.0),
    (24, 72, 24, 3, 1, 0.0),
    (24, 72, 40, 5, 2, 0.25),
    (80, 96, 112, 3, 1, 0.25),
]


@pytest.mark.parametrize(("inner", "hidden", "outer", "kernel_size", "stride", "se_ratio"), CASES)
def test_bottleneck(inner, hidden, outer, kernel_size, stride, se_ratio):
    torch.manual_seed(0)
    block = GhostBottleneck(inner, hidden, outer, kernel_size=kernel_size, stride=stride, se_ratio=se_ratio)
    output = block(torch.randn(2, inner, 9, 7))
    assert output.shape == (2, outer, -(-9 // stride), -(-7 // stride))
    assert output.min() < 0  # no activation after the sum
    output.square().sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
    assert isinstance(block.shortcut, nn.Identity) == (stride == 1 and inner == outer)
    assert (block.downsample is None) == (stride == 1)
    assert (block.squeeze_excite is None) == (se_ratio == 0)
    activations = [module for module in block.modules() if isinstance(module, nn.ReLU)]
    assert len(activations) == 1 + (se_ratio > 0)  # the expansion's, and that inside squeeze-excite


def test_bottleneck_parameter_count_by_hand():
    block = GhostBottleneck(16, 48, 24, stride=2)
    expand = 16 * 24 + 24 * 9 + 2 * 48
    downsample = 48 * 9 + 2 * 48
    project = 48 * 12 + 12 * 9 + 2 * 24
    shortcut = 16 * 9 + 2 * 16 + 16 * 24 + 2 * 24
    assert (
        sum(parameter.numel() for parameter in block.parameters()) == expand + downsample + project + shortcut
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 4}, r"`kernel_size` \(=4\) must be an odd integer"),
        ({"stride": 3}, r"`stride` \(=3\) must be 1 or 2"),
        ({"se_ratio": 1.5}, r"`se_ratio` \(=1.5\) must be in \[0, 1\]"),
        ({"ratio": 0}, r"`ratio` \(=0\) must be an integer >= 1"),
        ({"cheap_kernel_size": 2}, r"`cheap_kernel_size` \(=2\) must be an odd integer"),
    ],
)
def test_bottleneck_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        GhostBottleneck(8, 16, 8, **arguments)


@pytest.mark.parametrize(
    ("channels", "divisor", "hidden"),
    [
        (72, 4, 20),
        (120, 4, 32),
        (480, 4, 120),
        (672, 4, 168),
        (72, 1, 18),
        (120, 1, 30),
        (2, 4, 4),
        (2, 1, 1),
    ],
)
def test_squeezed_width(channels, divisor, hidden):
    assert hidden_channel_count(channels, reduction_ratio=0.25, divisor=divisor) == hidden
    assert SqueezeExcite(channels, divisor=divisor).reduce.out_channels == hidden


@pytest.mark.parametrize(
    ("gate", "bias", "scale"), [("hard_sigmoid", 0.6, 0.6), ("clip", 0.6, 0.6), ("clip", 2.0, 1.0)]
)
def test_gates(gate, bias, scale):
    module = SqueezeExcite(8, gate=gate)
    nn.init.zeros_(module.expand.weight)
    nn.init.constant_(module.expand.bias, bias)
    x = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(module(x), x * scale)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gate": "hardsigmoid"}, "unknown gate 'hardsigmoid'; did you mean 'hard_sigmoid'"),
        ({"reduction_ratio": 0}, r"`reduction_ratio` \(=0\) must be in \(0, 1\]"),
        ({"divisor": 0}, r"`divisor` \(=0\) must be >= 1"),
    ],
)
def test_squeeze_excite_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        SqueezeExcite(8, **arguments)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")  # TorchScript's own farewell
@pytest.mark.parametrize("size", [(8, 9), (1, 6), (1, 1)])
def test_a_trace_of_dfc_attention_is_silent_and_holds_for_other_sizes(size):
    torch.manual_seed(0)
    attention = DFCAttention(4, 8).eval()
    with torch.no_grad():
        traced = torch.jit.trace(attention, torch.randn(1, 4, *size))
        larger = torch.randn(2, 4, *(side if side == 1 else 3 * side for side in size))
        assert torch.equal(traced(larger), attention(larger))
