"""Global maximum pooling, which litert-torch cannot lower, is exchanged for a maximum over pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ghostnet.deploy import export, load
from ghostnet.deploy.targets.litert_forms import expressible


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


def test_such_a_network_exports(tmp_path: Path) -> None:
    for module in ("litert_torch", "ai_edge_litert"):
        pytest.importorskip(module)
    model, images = network(), torch.randn(2, 3, 8, 8)
    export(model, "litert", tmp_path / "net.tflite", input_size=(3, 8, 8))
    found = load(tmp_path / "net.tflite").predict(images.numpy())
    assert np.allclose(found, model(images).detach().numpy(), atol=1e-5)
