"""Branches that fuse: the module really changes, outputs stay to 1e-5, the original is untouched; V2 attention."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ghostnet import create_model
from ghostnet.errors import InputError
from ghostnet.nn import (
    AddGhostModule,
    BottleneckStyle,
    DFCAttention,
    GhostBottleneck,
    ReparamConv2d,
    ReparamGhostModule,
    fuse_reparameterised,
)


def randomise_statistics_(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean):
                value.data.copy_(0.5 * torch.randn(value.shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    return model.eval()


CONVS = [  # outputs, kernel, and the rest; the input has 6 channels
    (8, 1, {"branches": 3}),
    (6, 3, {"groups": 6, "branches": 3, "scale": True, "skip": True}),
    (12, 5, {"groups": 6, "scale": True}),
    (6, 5, {"groups": 6, "stride": 2, "branches": 3, "scale": True}),
    (6, 3, {"groups": 2, "skip": True}),
]


@pytest.mark.parametrize(("out_channels", "kernel_size", "arguments"), CONVS)
@torch.no_grad()
def test_fused_convolution_is_exact(out_channels, kernel_size, arguments):
    torch.manual_seed(0)
    module = randomise_statistics_(ReparamConv2d(6, out_channels, kernel_size, **arguments))
    fused = module.fused()
    assert type(fused) is nn.Conv2d
    x = torch.randn(2, 6, 9, 7)
    expected = module(x)
    assert expected.abs().max() > 0.5
    assert (fused(x) - expected).abs().max() < 1e-5
    # every branch has a part in it: without any one of them the result is another
    for name, branch in module.named_modules():
        if isinstance(branch, nn.BatchNorm2d):
            kept = branch.bias.clone()
            branch.bias.add_(1)
            assert (fused(x) - module(x)).abs().max() > 0.5, name
            branch.bias.copy_(kept)


@pytest.mark.parametrize("name", ["ghostnetv3_050", "repghostnet_050"])
@torch.no_grad()
def test_a_fused_network_has_fewer_parts_and_the_same_outputs(name):
    torch.manual_seed(0)
    model = randomise_statistics_(create_model(name, num_classes=10))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fused = fuse_reparameterised(model)
    assert any(isinstance(module, ReparamConv2d) for module in model.modules())
    assert not any(isinstance(module, ReparamConv2d) for module in fused.modules())
    assert sum(p.numel() for p in fused.parameters()) < sum(p.numel() for p in model.parameters())
    assert len(list(fused.modules())) < 0.8 * len(list(model.modules()))
    x = torch.randn(2, 3, 64, 64)
    expected = model(x)
    scale = max(1.0, float(expected.abs().max()))
    assert (fused(x) - expected).abs().max() < 1e-5 * scale
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(InputError, match=r"GhostNet has no re-parameterised branches to fuse"):
        fuse_reparameterised(fused)


def test_fused_networks_can_be_trained():
    fused = fuse_reparameterised(nn.Sequential(ReparamConv2d(4, 4, 3, groups=4, skip=True)))
    fused(torch.randn(1, 4, 5, 5)).sum().backward()
    assert all(parameter.grad is not None for parameter in fused.parameters())
    assert isinstance(fuse_reparameterised(ReparamConv2d(2, 2, 1)), nn.Conv2d)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 2}, r"`kernel_size` \(=2\) must be an odd integer"),
        ({"kernel_size": -1}, r"`kernel_size` \(=-1\) must be an odd integer"),
        ({"kernel_size": 3, "branches": 0}, r"`branches` \(=0\) must be an integer >= 1"),
        ({"kernel_size": 3, "stride": 2, "skip": True}, r"a `skip` branch needs stride 1"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        ReparamConv2d(4, 4, **arguments)


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_every_branch_gets_a_gradient(ratio):
    module = ReparamGhostModule(5, 10, ratio=ratio, activation=False)
    out = module(torch.randn(2, 5, 6, 6))
    assert out.shape == (2, 10, 6, 6)
    out.square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_add_module_is_plain_after_fusion():
    module = randomise_statistics_(AddGhostModule(5, 10))
    fused = fuse_reparameterised(module)
    kinds = [type(part).__name__ for part in fused.modules() if not list(part.children())]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "ReLU"]


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1), (1, 6)])
def test_attention_is_a_gate_of_the_input_size(size):
    gate = DFCAttention(3, 6).eval()(torch.randn(2, 3, *size))
    assert gate.shape == (2, 6, *size)
    assert gate.min() > 0
    assert gate.max() < 1


def test_attention_reaches_along_rows_and_columns():
    attention = DFCAttention(1, 1).eval()
    x = torch.zeros(1, 1, 16, 16, requires_grad=True)
    attention(x)[0, 0, 8, 8].backward()
    reached = x.grad[0, 0].abs() > 0
    assert int(reached.any(1).sum()) == int(reached.any(0).sum()) == 10  # 5 positions of 2x2 pixels


@pytest.mark.parametrize(
    "style",
    [BottleneckStyle("reparam", attention=True), BottleneckStyle("add"), BottleneckStyle(attention=True)],
)
def test_bottleneck_styles(style):
    block = GhostBottleneck(8, 24, 12, kernel_size=5, stride=2, se_ratio=0.25, style=style)
    out = block(torch.randn(2, 8, 9, 7))
    assert out.shape == (2, 12, 5, 4)
    out.square().sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())


def test_unknown_style():
    with pytest.raises(InputError, match=r"unknown bottleneck module 'ad'; did you mean 'add'"):
        GhostBottleneck(8, 8, 8, style=BottleneckStyle("ad"))


def test_networks_with_old_style_weight_norm_are_copied_too():
    with pytest.warns(FutureWarning, match="deprecated"):
        last = nn.utils.weight_norm(nn.Conv2d(4, 2, 1))
    model = nn.Sequential(ReparamConv2d(4, 4, 3, branches=2), last).eval()
    images = torch.randn(1, 4, 5, 5)
    expected = model(images)  # its weight is no leaf from now on
    torch.testing.assert_close(fuse_reparameterised(model)(images), expected)
