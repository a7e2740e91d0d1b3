"""Padded shortcuts are found by what they do, and streams behind them come in orders of their own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghostnet
from ghostnet import deploy, ghostify
from ghostnet.convert import prune
from ghostnet.convert.shortcuts import find_padded_shortcuts, with_placements
from ghostnet.models.cifar_resnet import PaddedShortcut
from ghostnet.nn import ChannelPlacement, GhostConv2d

IMAGES = torch.randn(4, 3, 13, 12, generator=torch.Generator().manual_seed(5))


class Lambda(nn.Module):
    """A function as a module, as many write this shortcut."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, maps: Tensor) -> Tensor:
        return self.function(maps)


class Drawn(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return F.pad(F.dropout(maps, training=self.training), (0, 0, 0, 0, 4, 4))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, maps: Tensor) -> Tensor:
        return F.pad(maps * self.scale, (0, 0, 0, 0, 4, 4))


def padded(maps: Tensor) -> Tensor:
    return F.pad(maps[:, :, ::2, ::2], (0, 0, 0, 0, 2, 6))


def in_turn(maps: Tensor) -> Tensor:
    maps = F.avg_pool2d(maps, 1, 2)
    return torch.stack([maps, torch.zeros_like(maps)], dim=2).flatten(1, 2)


def beside(maps: Tensor) -> Tensor:
    return torch.cat([maps[:, :, ::3, ::3], maps.new_zeros(len(maps), 1, -(-maps.shape[2] // 3), 4)], dim=1)


def through(shortcut: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), shortcut).eval()


@pytest.mark.parametrize(
    ("shortcut", "made", "stride"),
    [
        (PaddedShortcut(8, 16), 16, 2),
        (Lambda(padded), 16, 2),
        (Lambda(in_turn), 16, 2),
        (Lambda(lambda maps: torch.cat([maps, torch.zeros_like(maps)], dim=1)), 16, 1),
        (Lambda(lambda maps: torch.cat([maps, maps], dim=1)), 16, 1),
    ],
    ids=["ours", "sliced", "in_turn", "concatenated", "twice"],
)
def test_shortcuts_are_found_however_they_are_written(shortcut: nn.Module, made: int, stride: int) -> None:
    network = through(shortcut)
    found = find_padded_shortcuts(network, IMAGES)
    assert {path: placement.config() for path, placement in found.items()} == {
        "1": {"in_channels": 8, "out_channels": made, "stride": stride}
    }
    placed = with_placements(network, found)
    assert torch.equal(placed(IMAGES), network(IMAGES))
    assert isinstance(placed[1], ChannelPlacement)
    assert not isinstance(network[1], ChannelPlacement)


@pytest.mark.parametrize(
    "shortcut",
    [
        nn.Identity(),
        nn.Conv2d(8, 16, 1),
        Lambda(lambda maps: maps.flip(1)),
        Lambda(lambda maps: F.pad(F.avg_pool2d(maps, 2), (0, 0, 0, 0, 4, 4))),
        Lambda(lambda maps: F.pad(maps, (0, 0, 0, 0, 4, 4), value=1.0)),
        Lambda(lambda maps: F.pad(maps[:, :, 1::2, ::2], (0, 0, 0, 0, 4, 4))),
        Lambda(lambda maps: F.pad(maps, (1, 1, 0, 0, 4, 4))),
        Lambda(lambda maps: torch.cat([maps, maps.relu()], dim=1)),
        Lambda(beside),  # of one width alone
        Lambda(lambda maps: F.pad(maps, (0, 0, 0, 0, 4, 4)).flatten(1)),
        Drawn(),
        Scaled(),
    ],
    ids=[
        "identity", "convolution", "as_many", "means", "ones", "second_row", "border", "relu", "one_size", "flat",
        "drawn", "trained",
    ],
)  # fmt: skip
def test_whatever_else_it_is_stays(shortcut: nn.Module) -> None:
    assert find_padded_shortcuts(through(shortcut), IMAGES) == {}


def test_modules_in_two_places_or_with_hooks_stay() -> None:
    shared = Lambda(padded)
    assert find_padded_shortcuts(nn.Sequential(shared, nn.Conv2d(11, 3, 1), shared), IMAGES) == {}
    network = through(shared)
    shared.register_forward_hook(lambda *_: None)
    assert find_padded_shortcuts(network, IMAGES) == {}


def test_a_network_that_does_not_run_on_the_example_has_none() -> None:
    assert find_padded_shortcuts(through(Lambda(padded)), torch.zeros(1, 5, 8, 8)) == {}


def resnet() -> nn.Module:
    torch.manual_seed(0)
    network = ghostnet.create_model("resnet20", width_mult=0.5).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return network


def ordered(model: nn.Module) -> list[bool]:
    return [module.channel_order is not None for module in model.modules() if isinstance(module, GhostConv2d)]


PLACED = ["layer2.0.shortcut", "layer3.0.shortcut"]


@pytest.mark.parametrize("images", [torch.randn(8, 3, 16, 16), None], ids=["images", "none"])
def test_each_stage_has_an_order_of_its_own(images: Tensor | None) -> None:
    network = resnet()
    before = copy.deepcopy(network.state_dict())
    found, report = ghostify(network, calibration=images)
    assert report.settings["streams"] is True
    assert ordered(found) == [False] * 18
    assert [name for name, part in found.named_modules() if isinstance(part, ChannelPlacement)] == PLACED
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert report.params_after == sum(value.numel() for value in found.parameters())


def test_the_dense_network_computes_the_same_in_the_new_orders() -> None:
    network = resnet()
    layer = ["layer3.2.conv2"]
    found, _ = ghostify(network, layers=layer, calibration=torch.randn(8, 3, 16, 16), refit_plain=False)
    assert [name for name, part in found.named_modules() if isinstance(part, ChannelPlacement)] == PLACED[1:]
    with torch.no_grad():
        for part in (found, network):  # the layer itself counts no more
            part.layer3[2].bn2.weight.zero_()
            part.layer3[2].bn2.bias.zero_()
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(found(images), network(images), rtol=1e-4, atol=1e-4)


def test_a_file_of_it_is_read_again(tmp_path: Path) -> None:
    found, _ = ghostify(resnet(), calibration=torch.randn(8, 3, 32, 32))
    ghostnet.save(found, tmp_path / "net.safetensors")
    images = torch.randn(2, 3, 32, 32)
    again = ghostnet.load(tmp_path / "net.safetensors")
    torch.testing.assert_close(again(images), found(images))
    pytest.importorskip("onnxscript")
    report = deploy.export(again, "onnx", tmp_path / "net.onnx", input_size=(3, 32, 32))
    assert not {"Gather", "Pad"} & report.operators.keys()


def test_it_trains_on_with_the_places_as_they_are() -> None:
    found, _ = ghostify(resnet(), calibration=torch.randn(8, 3, 16, 16))
    places = found.get_submodule(PLACED[0]).weight.clone()
    optimizer = torch.optim.SGD(found.parameters(), 0.1, weight_decay=0.1)
    found.train()
    F.cross_entropy(found(torch.randn(4, 3, 16, 16)), torch.arange(4)).backward()
    optimizer.step()
    assert torch.equal(found.get_submodule(PLACED[0]).weight, places)
    assert found.layer1[0].conv1.primary_conv.weight.grad.abs().max() > 0  # behind two of them


def test_it_is_converted_or_pruned_again() -> None:
    found, _ = ghostify(resnet(), layers=["layer3.*.conv2"], calibration=torch.randn(8, 3, 16, 16))
    twice, report = ghostify(found, layers=["layer1.*.conv1"], calibration=torch.randn(8, 3, 16, 16))
    assert len(report.converted) == 3
    assert twice(IMAGES).shape == (4, 10)
    pruned, _ = prune(found, macs=0.9, example_input=torch.zeros(1, 3, 32, 32))
    assert pruned(IMAGES).shape == (4, 10)


def test_streams_behind_padded_shortcuts_lose_channels(tmp_path: Path) -> None:
    network, image = resnet(), torch.zeros(1, 3, 16, 16)
    before = copy.deepcopy(network.state_dict())
    pruned, report = prune(network, macs=0.4, example_input=image, streams=True)
    assert report.macs_ratio == pytest.approx(0.4, rel=0.03)
    first, second = (pruned.get_submodule(path) for path in PLACED)
    assert first.in_channels < 8
    assert first.out_channels == second.in_channels < 16
    assert second.out_channels < 32
    assert pruned.conv1.out_channels < 8
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    ghostnet.save(pruned, tmp_path / "net.safetensors")
    again = ghostnet.load(tmp_path / "net.safetensors")
    torch.testing.assert_close(again(IMAGES), pruned(IMAGES))


def test_placements_of_pruned_streams_say_what_is_left() -> None:
    network, image = resnet(), torch.randn(1, 3, 16, 16)
    pruned, _ = prune(network, macs=0.5, example_input=image, streams=True, multiple=4)
    for path in PLACED:
        weight = pruned.get_submodule(path).weight.flatten(1)
        assert set(weight.unique().tolist()) == {0.0, 1.0}
        assert weight.sum(1).max() == weight.sum(0).max() == 1
