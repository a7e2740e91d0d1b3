"""Shortcuts that place channels, as conversion leaves them in padded streams, in every format and in int8."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet.deploy import TARGETS, Limits, export, fake_quantized, optimize, quantize
from ghostnet.nn import ChannelPlacement, GhostConv2d

SIZE = (3, 16, 16)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 1, 1)
        self.second, self.norm = GhostConv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)
        self.shortcut = ChannelPlacement.at(
            [3, -1, 0, 1, -1, -1, 7, 6, 5, -1, 4, 2, -1, -1, -1, -1], in_channels=8, stride=2
        )
        self.head = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.first(images))
        maps = F.relu(self.norm(self.second(maps)) + self.shortcut(maps))
        return self.head(maps.mean((2, 3)))


def block() -> Block:
    torch.manual_seed(0)
    made = Block().eval()
    nn.init.normal_(made.norm.running_mean, std=0.3)  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("optimized", [True, False], ids=["optimized", "plain"])
def test_every_format_has_them(tmp_path: Path, name: str, optimized: bool) -> None:
    target = TARGETS[name]
    for module in (*target.write_modules, target.open_module):
        pytest.importorskip(module)
    report = export(
        block(), name, tmp_path / f"net{target.suffixes[0]}", input_size=SIZE, optimized=optimized
    )
    assert report.relative_error is not None
    assert report.relative_error < 1e-5


def test_rewrites_leave_what_they_compute() -> None:
    model, images = block(), torch.randn(2, *SIZE)
    torch.testing.assert_close(optimize(model, input_size=SIZE)(images), model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_int8_has_them(tmp_path: Path, name: str) -> None:
    target = TARGETS[name]
    for module in (*target.write_modules, target.open_module, *(("nncf",) if name == "openvino" else ())):
        pytest.importorskip(module)
    images = torch.randn(32, *SIZE)
    path = tmp_path / f"net{target.suffixes[0]}"
    report = quantize(block(), name, path, images, input_size=SIZE, limits=Limits(min_agreement=0.8))
    assert path.is_file()
    assert not report.float_layers


def test_training_for_int8_keeps_the_places() -> None:
    images = torch.randn(16, *SIZE)
    rounded = fake_quantized(block(), images, input_size=SIZE).train()
    before = {name: value.clone() for name, value in rounded.named_buffers() if value.dim() == 4}
    optimizer = torch.optim.SGD(rounded.parameters(), 0.1)
    rounded(images).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in rounded.named_buffers() if name in before)
