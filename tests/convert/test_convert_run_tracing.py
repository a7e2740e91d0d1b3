"""Conversion and pruning of networks whose code `torch.fx` cannot follow, by a run on an example."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ghostnet.convert import ghostify, prune
from ghostnet.convert.graph import find_units, trace_graphs
from ghostnet.convert.observe import _Traced, observe
from ghostnet.convert.pruning.sites import find_sites
from ghostnet.errors import InputError
from ghostnet.nn import GhostConv2d

IMAGES = torch.rand(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Padded(nn.Module):
    """Pads by the size of its input in functions, as networks from TensorFlow do, and decides by sizes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.second, self.third = nn.Conv2d(16, 16, 3, stride=2), nn.Conv2d(16, 8, 3, padding=1)
        self.weight = nn.Parameter(torch.rand(8, 8, 1, 1))
        self.head = nn.Linear(8, 5)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3 or x.shape[2] != x.shape[3]:
            raise ValueError("square images of three channels, please")
        x = F.relu(self.norm(self.first(x)))
        missing = (-x.shape[2]) % 2 + 1
        x = F.relu(self.second(F.pad(x, (missing // 2, missing - missing // 2) * 2)))
        x = F.conv2d(F.relu(self.third(x)), self.weight)
        return self.head(x.mean((2, 3)))


def test_a_run_shows_what_a_trace_would() -> None:
    model = Padded()
    with pytest.raises(Exception, match=r"symbolically|control flow|Proxy"):
        fx.symbolic_trace(model)
    assert trace_graphs(model) == []
    assert len(trace_graphs(model, IMAGES)) == 2
    units = {unit.name: unit for unit in find_units(model, IMAGES)}
    assert list(units) == ["first", "second", "third", "conv2d()"]
    assert units["first"].norm == "norm"
    assert units["second"].activation == "relu"
    assert str(units["conv2d()"].reason).startswith("a functional convolution")
    assert model.norm.num_batches_tracked == 0


def test_pruning_takes_dead_channels_and_nothing_else() -> None:
    model = Padded()
    dead = {"first": [1, 4, 5, 8, 9, 12, 13, 15], "second": [0, 3, 4, 7, 8, 11, 12, 15]}
    with torch.no_grad():
        for name, channels in dead.items():
            layer = model.get_submodule(name)
            layer.weight[channels], layer.bias[channels] = 0, 0
        model.norm.running_mean.zero_(), model.norm.bias.zero_()
    sites, _ = find_sites(model, find_units(model, IMAGES), IMAGES)
    assert {site.name: site.readers for site in sites} == {"first": ("second",), "second": ("third",)}
    pruned, _ = prune(model, "l1", macs=0.4, example_input=IMAGES)
    with torch.no_grad():
        torch.testing.assert_close(pruned(IMAGES), model(IMAGES))
    assert (pruned.first.out_channels, pruned.second.out_channels) == (8, 8)


def test_pruning_without_an_example_says_what_to_give() -> None:
    with pytest.raises(
        InputError, match="this Padded cannot be traced without an example_input, and pruning must"
    ):
        find_sites(Padded(), find_units(Padded()))


def test_pruning_what_decides_by_pixels_is_refused() -> None:
    class Decides(Padded):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if float(x.max()) > 0.5 else 2 * x)

    with pytest.raises(
        InputError, match="this Decides cannot be traced, in training and evaluation, and pruning"
    ):
        prune(Decides(), "l1", example_input=IMAGES)


def test_orders_of_channels_are_absorbed() -> None:
    ghost, report = ghostify(Padded(), calibration=IMAGES)
    assert report.converted == ["second", "third"]
    orders = {
        name: module.channel_order is not None
        for name, module in ghost.named_modules()
        if isinstance(module, GhostConv2d)
    }
    assert orders == {"second": False, "third": True}  # a function reads the last one


def test_layers_are_observed_in_step_where_images_are_of_one_size() -> None:
    dense = Padded()
    assert isinstance(observe(dense, dense, [IMAGES[:8], IMAGES[8:11]]), _Traced)
    assert not isinstance(observe(dense, dense, [IMAGES[:8], IMAGES[8:, :, :8, :8]]), _Traced)


@pytest.mark.parametrize("pad", [(0, 0, 0, 0, 1, 1), (1, 1, 1, 1, 0, 4)])
def test_padding_with_channels_ends_a_place(pad: tuple[int, ...]) -> None:
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            more = sum(pad[4:])
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8 + more, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(F.pad(self.first(x), pad)).mean((2, 3))

    model = Adds()
    with pytest.raises(InputError, match="nothing in this Adds can be pruned"):
        find_sites(model, find_units(model))
