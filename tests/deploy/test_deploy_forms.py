"""Global maximum pooling, which LiteRT's and ExecuTorch's tools cannot express, is exchanged for a window's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ghostnet.deploy import TARGETS, export, load
from ghostnet.deploy.targets.forms import expressible
from ghostnet.deploy.targets.target import runs_here


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.AdaptiveMaxPool2d((1, 1)), nn.Flatten(), nn.Linear(6, 4)
    ).eval()


def test_the_exchange_is_exact_and_leaves_the_network_alone() -> None:
    model, images = network(), torch.randn(2, 3, 9, 7)
    exchanged = expressible(model)
    assert torch.equal(exchanged(images), model(images))
    assert isinstance(model[1], nn.AdaptiveMaxPool2d)
    assert not any(isinstance(module, nn.AdaptiveMaxPool2d) for module in exchanged.modules())
    assert torch.equal(expressible(nn.AdaptiveMaxPool2d(1))(images), images.amax((2, 3), keepdim=True))
    other = nn.Sequential(nn.AdaptiveMaxPool2d(2))
    assert expressible(other) is other


@pytest.mark.parametrize("name", TARGETS)
def test_such_a_network_exports(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    for module in (*target.write_modules, target.open_module):
        pytest.importorskip(module)
    model, images = network(), torch.randn(2, 3, 8, 9)
    path = tmp_path / f"net{target.suffixes[0]}"
    report = export(model, name, path, input_size=(3, 8, 9))
    assert report.relative_error is not None
    assert report.relative_error < 1e-5
    if not runs_here(target):
        return
    found = load(path).predict(images.numpy())
    assert np.allclose(found, model(images).detach().numpy(), atol=1e-5)
