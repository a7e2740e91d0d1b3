"""Pass "scale_shift" and channels that are picked, in PyTorch itself: converted networks gain by `optimize` there."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from ghostnet.convert import ghostify
from ghostnet.deploy import optimize
from ghostnet.deploy.passes import default_passes
from ghostnet.deploy.passes.channels_last import picked_channels
from ghostnet.deploy.passes.scale_shift import ScaleShift
from ghostnet.deploy.random_weights import randomise_statistics_
from ghostnet.deploy.targets import TARGETS
from ghostnet.nn import GhostConv2d

SIZE = (3, 12, 12)


class Residual(nn.Module):
    """A stream that channels of a Ghost convolution are added to, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(40, 40, 3, padding=1), nn.BatchNorm2d(40), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        return self.body(stem) + stem


def converted() -> nn.Module:
    torch.manual_seed(0)
    ghost, _ = ghostify(
        randomise_statistics_(Residual(), SIZE), init="random", example_input=torch.zeros(1, *SIZE)
    )
    layer = ghost.body[0]
    assert isinstance(layer, GhostConv2d)
    layer.set_channel_order_(torch.randperm(40))
    return ghost.eval()


def scales_alone(model: nn.Module) -> bool:
    return any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.groups == module.in_channels > 1
        for module in model.modules()
    )


def test_what_folding_leaves_on_the_intrinsic_maps_is_a_product_and_a_sum() -> None:
    model = converted()
    before = optimize(model, passes=[name for name in default_passes() if name != "scale_shift"])
    after = optimize(model, input_size=SIZE)
    assert scales_alone(before)
    assert not scales_alone(after)
    assert any(isinstance(module, ScaleShift) for module in after.modules())
    images = torch.randn(2, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(after(images), model(images), atol=1e-5, rtol=1e-5)


def test_it_is_for_pytorch_itself() -> None:
    assert "scale_shift" in default_passes()
    assert not any("scale_shift" in default_passes(target) for target in TARGETS)


@pytest.mark.parametrize(
    ("layer", "becomes"),
    [
        (nn.Conv2d(8, 8, 1, groups=8), True),
        (nn.Conv2d(8, 8, 1, groups=8, bias=False), True),
        (nn.Conv2d(8, 8, 1, groups=8, padding="same"), True),
        (nn.Conv2d(8, 8, 1, groups=8, stride=2), False),
        (nn.Conv2d(8, 8, 1, groups=8, padding=1), False),
        (nn.Conv2d(8, 16, 1, groups=8), False),
        (nn.Conv2d(8, 8, 1, groups=4), False),
        (nn.Conv2d(8, 8, 3, groups=8), False),
        (nn.Conv2d(8, 8, 1), False),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1, groups=8)), False),
    ],
)
def test_only_scales_of_channels_become_one(layer: nn.Module, becomes: bool) -> None:
    result = optimize(nn.Sequential(layer), passes=["scale_shift"])
    assert any(isinstance(module, ScaleShift) for module in result.modules()) is becomes
    images = torch.randn(2, 8, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(result(images), layer(images))


def test_picked_channels_keep_the_format_of_maps() -> None:
    result = optimize(converted(), input_size=SIZE)
    assert isinstance(result, fx.GraphModule)
    assert [
        node.target for node in result.graph.nodes if node.target in (picked_channels, torch.index_select)
    ] == [picked_channels]
    maps = torch.randn(2, 6, 5, 4)
    for channels in (torch.tensor([5, 0, 1, 2, 4, 3]), torch.tensor([2, 2, 4])):
        expected = maps.index_select(1, channels)
        for form in (torch.contiguous_format, torch.channels_last):
            found = picked_channels(maps.contiguous(memory_format=form), channels)
            assert torch.equal(found, expected)
            assert found.is_contiguous(memory_format=form)
    assert torch.equal(picked_channels(maps[:, :, :1, :1], channels), maps[:, channels, :1, :1])


@pytest.mark.slow
def test_the_script_compares_the_forms() -> None:
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "optimized_in_pytorch.py"))
    script["CASES"]["tiny"] = ("resnet20", 32)
    found = script["measure"]("tiny", seconds=0.0)
    assert set(found["ratios"]) == {
        *("dense", "dense, optimized", "dense, compiled", "ghost", "ghost, optimized", "ghost, compiled"),
        "ghost, without scale_shift",
    }
    assert found["ratios"]["ghost, optimized"] < found["ratios"]["ghost, without scale_shift"]
    assert 0.45 < found["macs_ratio"] < 0.6
