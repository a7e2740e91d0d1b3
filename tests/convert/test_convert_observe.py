"""`observe`: what layers see while a network is walked node by node."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

import ghostnet
from ghostnet.convert import prune, sensitivity
from ghostnet.convert.observe import _Traced, _Walk, observe

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.depthwise(x)


class _DeepShortcut(nn.Module):
    """The shortcut that the target of `conv` makes up for runs through blocks that add up."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.shortcut = nn.Sequential(*(_Residual() for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.norm(self.conv(x)) + self.shortcut(x)


def test_a_shortcut_ahead_of_its_turn_runs_each_node_once(monkeypatch):
    runs = []
    run = _Walk.run

    def counted(self: _Walk, node: object, *args: object) -> object:
        runs.append(node)
        assert len(runs) < 1000  # two to the power of the blocks otherwise
        return run(self, node, *args)

    monkeypatch.setattr(_Walk, "run", counted)
    _, report = ghostnet.ghostify(
        _DeepShortcut(14).eval(), layers=["conv"], calibration=IMAGES, refit_plain=False
    )
    assert report.converted == ["conv"]
    assert 50 < len(runs) < 100


class _Normalised(nn.Module):
    """Makes tensors of its buffers and of numbers before it looks at the images."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]))
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.2]))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.tensor(2.0)
        scale += 1  # in place
        return (x - self.mean.view(1, 3, 1, 1)) / self.std.view(1, 3, 1, 1) * scale / 3


def _small(first: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)]
    return nn.Sequential(first, *layers).eval()


def test_tensors_that_are_made_in_a_forward_are_there_when_images_are_given():
    dense = _small(_Normalised())
    assert isinstance(observe(dense, dense, [IMAGES]), _Traced)
    plain = _small(nn.Identity())
    images = _Normalised()(IMAGES)
    ghost, _ = ghostnet.ghostify(dense, calibration=IMAGES)
    expected, _ = ghostnet.ghostify(plain, calibration=images)
    torch.testing.assert_close(ghost(IMAGES), expected(images))
    costs = [sensitivity(*given, ratios=(2,)).layers for given in ((dense, IMAGES), (plain, images))]
    assert [one.costs[2] for one in costs[0]] == pytest.approx([one.costs[2] for one in costs[1]], rel=1e-3)
    pruned, _ = prune(dense, "channel", macs=0.7, calibration=IMAGES)
    expected, _ = prune(plain, "channel", macs=0.7, calibration=images)
    torch.testing.assert_close(pruned(IMAGES), expected(images))


def test_frozen_norms_make_tensors_in_their_forward():
    dense = torchvision.models.resnet18(norm_layer=FrozenBatchNorm2d).eval()
    images = torch.rand(2, 3, 32, 32)
    _, report = ghostnet.ghostify(
        dense, layers=["layer2.0.downsample.0"], calibration=images, refit_plain=False
    )
    assert report.converted == ["layer2.0.downsample.0"]


class _InBfloat16(nn.Module):
    """Runs its layers under autocast, which fx cannot follow here."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = _small(nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = self.layers(x)
        return y.float() if y.dtype == torch.bfloat16 else y


def test_layers_under_autocast_are_fitted_in_the_type_of_their_weights():
    dense = _InBfloat16().eval()
    _, report = ghostnet.ghostify(dense, calibration=IMAGES)
    _, expected = ghostnet.ghostify(dense.layers, calibration=IMAGES)
    found = [layer.reconstruction_error for layer in report.layers[1:]]
    assert found == pytest.approx([layer.reconstruction_error for layer in expected.layers[1:]], rel=0.05)
