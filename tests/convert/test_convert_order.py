"""Absorbing channel orders: exact where it happens, and it happens only where it is exact."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet.convert import absorb_channel_orders_, ghostify
from ghostnet.nn import GhostConv2d

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Chain(nn.Module):
    """Everything that an order can pass: norms, activations, pools, flattening; a linear end."""

    def __init__(self, end: str = "flatten") -> None:
        super().__init__()
        self.end = end
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one = nn.Sequential(nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2))
        self.two, self.three = nn.Conv2d(12, 10, 3, bias=False), nn.Conv2d(12, 10, 1)
        self.four = nn.Sequential(nn.Conv2d(10, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.1))
        self.head = nn.Linear(6 if end == "mean" else 24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.stem(x))
        x = F.relu(self.two(x) + self.three(x)[:, :, 1:-1, 1:-1])
        x = self.four(F.avg_pool2d(x, 1))
        if self.end == "mean":
            return self.head(x.mean((2, 3)))
        x = F.adaptive_avg_pool2d(x, (2, 2))
        return self.head(torch.flatten(x, 1) if self.end == "flatten" else x.view(x.size(0), -1))


def with_orders(model: nn.Module, layers="all") -> nn.Module:
    """Convert at random, and give every layer a random order and every norm random statistics."""
    generator = torch.Generator().manual_seed(1)
    ghost_model, _ = ghostify(model, init="random", layers=layers, cheap_kernel_size=1)
    for module in ghost_model.modules():
        if isinstance(module, GhostConv2d):
            module.set_channel_order_(torch.randperm(module.out_channels, generator=generator))
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                values.copy_(torch.rand(values.shape, generator=generator) + 0.5)
    for edit in ghost_model.ghostnet_edits:
        edit["config"] = ghost_model.get_submodule(edit["path"]).config()
    return ghost_model.eval()


@pytest.mark.parametrize("end", ["flatten", "view", "mean"])
def test_absorbing_is_exact(end):
    model = with_orders(Chain(end))
    before = model(IMAGES)
    absorbed = absorb_channel_orders_(model)
    # two and three meet in an addition and keep their index
    assert set(absorbed) == {"stem", "one.0", "four.0"}
    assert model.one[0].channel_order is None
    assert model.two.channel_order is not None
    assert torch.allclose(model(IMAGES), before, atol=1e-5)
    recorded = {edit["path"]: edit["config"]["channel_order"] for edit in model.ghostnet_edits}
    assert recorded == {"stem": False, "one.0": False, "two": True, "three": True, "four.0": False}


class Mixing(nn.Module):
    """A first convolution whose maps go through `how`, which no reader can be permuted for."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.mixed = nn.Conv2d(12, 12, 3, groups=12 if how == "depthwise" else 1)
        self.extra = nn.Conv2d(3, 12, 1)
        self.norm = nn.GroupNorm(3, 12)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.how == "add":
            y = y + self.extra(x)
        if self.how == "slice":
            y = torch.cat([y[:, :6], self.extra(x)[:, :6]], 1)
        if self.how == "norm":
            y = self.norm(y)
        if self.how == "branch" and x.sum() > 1e9:
            y = -y
        if self.how == "output":
            return y
        if self.how == "twice":
            return self.mixed(self.mixed(y))
        return self.mixed(y)


@pytest.mark.parametrize("how", ["add", "slice", "norm", "depthwise", "branch", "output", "twice"])
def test_order_is_kept_where_absorbing_would_be_wrong(how):
    model = with_orders(Mixing(how), layers=["conv"])
    before = model(IMAGES)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    assert absorb_channel_orders_(model) == []
    assert model.conv.channel_order is not None
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert torch.equal(model(IMAGES), before)


def test_shared_reader_keeps_the_order():
    model = with_orders(Mixing("plain"), layers=["conv"])
    model.tied = nn.Conv2d(12, 12, 3)
    model.tied.weight = model.mixed.weight
    assert absorb_channel_orders_(model) == []


def test_plain_reader_is_absorbed():
    model = with_orders(Mixing("plain"), layers=["conv"])
    before = model(IMAGES)
    assert absorb_channel_orders_(model) == ["conv"]
    assert torch.allclose(model(IMAGES), before, atol=1e-5)


def test_resnet_keeps_orders_of_the_residual_stream_only():
    from torchvision.models import resnet18

    model = with_orders(resnet18(num_classes=4), layers=["layer1.*", "layer2.*"])
    before = model(IMAGES)
    absorbed = absorb_channel_orders_(model)
    assert set(absorbed) == {f"layer{stage}.{block}.conv1" for stage in (1, 2) for block in (0, 1)}
    assert torch.allclose(model(IMAGES), before, atol=1e-5)
