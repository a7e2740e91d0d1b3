"""Layers that are given their input by name: `conv(input=x)`."""

import torch
from torch import Tensor, nn

from ghostnet.convert import ghostify, synthetic_images
from ghostnet.deploy.layer_times import find_sites
from ghostnet.hooks import input_of
from ghostnet.measure.features.redundancy import redundancy


class ByName(nn.Module):
    """A convolution and a batch norm that are called with a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps."""
        return self.norm(input=self.conv(input=x)).relu()


def test_by_place_or_by_name():
    assert input_of((1, 2), {}) == 1
    assert input_of((), {"input": 3, "more": 4}) == 3


def test_such_layers_are_scored_timed_and_fitted_as_others():
    torch.manual_seed(0)
    model = ByName().eval()
    images = torch.randn(4, 3, 8, 8)
    found = redundancy(model, images)
    assert [layer.name for layer in found.layers] == ["conv"]
    sites, left_out = find_sites(model, (3, 8, 8))
    assert [site.name for site in sites] == ["conv"]
    assert left_out == {}
    _, report = ghostify(model, layers=["conv"], calibration=images)
    assert report.converted == ["conv"]
    assert synthetic_images(model, 2, input_size=(3, 8, 8), steps=1).shape == (2, 3, 8, 8)
