"""Networks that begin with what a runtime may compute in place, on the images themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ghostnet.deploy import TARGETS, export, load


class Normalises(nn.Module):
    """A network with its normalisation inside."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps."""
        return self.conv((x - 0.45) / 0.225)


FIRST = {
    "normalisation": Normalises,
    "batch norm": lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3)),
    "activation": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 8, 3)),
}


@pytest.mark.parametrize("target", ["onnx", "openvino", "ncnn", "mnn", "c"])
@pytest.mark.parametrize("name", FIRST)
def test_the_images_are_left_as_they_are(name: str, target: str, tmp_path: Path) -> None:
    for module in (*TARGETS[target].write_modules, TARGETS[target].open_module):
        pytest.importorskip(module)
    torch.manual_seed(0)
    model = FIRST[name]().eval()
    images = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        expected = model(images.clone()).numpy()
    given = images.numpy().copy()
    path = tmp_path / f"net{TARGETS[target].suffixes[0]}"
    export(model, target, path, input_size=(3, 12, 12))
    found = load(path).predict(given)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(given, images.numpy())
