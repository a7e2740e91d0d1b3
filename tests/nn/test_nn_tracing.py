"""Traces of code that asks what it was given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import ghostnet
from ghostnet.convert import prune
from ghostnet.deploy import optimize


class Asks(nn.Module):
    """Joins a shortcut if it is a tensor, as MONAI's networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        skip = self.norm(self.first(images))
        maps = self.second(skip.relu())
        if isinstance(skip, torch.Tensor) and not isinstance(maps, (list, nn.Parameter)):
            maps = torch.cat([skip, maps], dim=1)
        return self.last(maps)


def test_a_trace_goes_the_way_of_tensors() -> None:
    model, images = ghostnet.deploy.randomise_statistics_(Asks().eval(), (3, 8, 8)), torch.rand(2, 3, 8, 8)
    result = optimize(model)
    assert isinstance(result, fx.GraphModule)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in result.modules())
    with torch.no_grad():
        assert torch.allclose(result(images), model(images), atol=1e-5)
    reasons = {row.name: row.reason for row in ghostnet.ghostify(model, init="random")[1].layers}
    assert reasons["second"] is None
    pruned, report = prune(model, "l1", macs=0.7, example_input=images)
    assert report.converted == ["first", "second"]
    assert pruned.last.in_channels == pruned.first.out_channels + pruned.second.out_channels


class PadsByStride(nn.Module):
    """Reads a convolution's settings in front of it, as ports of TensorFlow's networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(images)
        if images.shape[-1] > 4:
            maps = nn.functional.pad(maps, [0, self.second.stride[0], 0, self.second.kernel_size[0] - 1])
        return self.second(maps)


@pytest.mark.parametrize("sized", [True, False])
def test_a_rewritten_ghost_convolution_has_the_settings_that_code_reads(sized: bool) -> None:
    ghost, _ = ghostnet.ghostify(PadsByStride().eval(), init="random")
    result = optimize(ghost, input_size=(3, 9, 9) if sized else None)
    images = torch.rand(2, 3, 9, 9)
    with torch.no_grad():
        assert torch.allclose(result(images), ghost(images), atol=1e-5)


class PadsBySize(nn.Module):
    """Asks of a size, too, as timm's padding does."""

    def forward(self, images: Tensor) -> Tensor:
        height = images.size()[-2] / 2
        return images * (height.ceil() if isinstance(height, torch.Tensor) else height + 1)


def test_what_stands_for_a_size_is_no_tensor() -> None:
    images = torch.rand(2, 3, 9, 9)
    result = optimize(PadsBySize())
    assert isinstance(result, fx.GraphModule)
    assert torch.allclose(result(images), images * 5.5)
