"""`observe`: what layers see while a network is walked node by node."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import ghostnet
from ghostnet.convert.observe import _Walk

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
