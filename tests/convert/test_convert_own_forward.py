"""Networks and layers whose forward was set on the instance, not in a class."""

from __future__ import annotations

import types

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghostnet
from ghostnet.convert import find_units, prune, sensitivity
from ghostnet.convert.graph import trace_graphs
from ghostnet.errors import InputError

IMAGES = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(8, 4, 1)).eval()


def features(self: nn.Sequential, x: Tensor) -> Tensor:
    """Give the maps of the second convolution as they are: their order is the network's answer."""
    return self[3](self[2](self[1](self[0](x))))


def standardised(self: nn.Conv2d, x: Tensor) -> Tensor:
    weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
    return F.conv2d(x, weight, self.bias)


def doubled(_self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x, 2 * weight, bias)


def test_a_network_is_followed_as_its_instance_runs():
    model = network()
    model.forward = types.MethodType(features, model)
    units = {unit.name: unit for unit in find_units(model)}
    assert units["5"].reason == "it never runs"
    assert units["2"].norm == "3"
    ghost, report = ghostnet.ghostify(model, layers=["2"], calibration=IMAGES)
    assert report.converted == ["2"]
    assert ghost[2].channel_order is not None  # nothing could absorb it
    with torch.no_grad():
        wanted, found = model(IMAGES), ghost(IMAGES)
    assert float((found - wanted).square().sum() / (wanted - wanted.mean()).square().sum()) < 0.7
    pruned, report = prune(model, "l1", macs=0.8, example_input=IMAGES[:1])
    assert report.layers[1].reason.startswith("its channels leave the network")
    assert pruned(IMAGES).shape == wanted.shape


def test_a_part_with_a_forward_of_its_own_is_followed():
    inner = network()
    inner.forward = types.MethodType(features, inner)
    model = nn.Sequential(inner, nn.Conv2d(8, 4, 1))
    for graph in trace_graphs(model):
        assert [str(node.target) for node in graph.nodes if node.op == "call_module"] == [
            *("0.0", "0.1", "0.2", "0.3", "1"),
        ]


@pytest.mark.parametrize("attribute", ["forward", "_conv_forward"])
def test_convolutions_with_a_forward_of_their_own_stay(attribute):
    model = network()
    function = standardised if attribute == "forward" else doubled
    setattr(model[2], attribute, types.MethodType(function, model[2]))
    ghost, report = ghostnet.ghostify(model, layers=["0", "2"], calibration=IMAGES)
    assert report.converted == ["0"]
    assert "forward was replaced on the instance" in report.layers[1].reason
    assert torch.equal(ghost[2].weight, model[2].weight)
    with pytest.raises(InputError, match="is not known to keep them apart"):
        prune(model, "l1", macs=0.8, example_input=IMAGES[:1])


def test_norms_and_activations_with_a_forward_of_their_own_are_followed_and_not_taken_for_what_they_are():
    model = network()
    model[3].forward = types.MethodType(lambda self, x: x * self.weight[:, None, None], model[3])
    model[4].forward = torch.tanh
    unit = find_units(model)[1]
    assert unit.norm is None
    assert unit.activation is None
    for graph in trace_graphs(model):
        assert "3" not in {node.target for node in graph.nodes if node.op == "call_module"}
    _, report = ghostnet.ghostify(model, form="ghostnet", init="random", layers=["2"])
    assert "no batch norm follows it alone" in report.layers[1].reason


def test_forwards_that_a_copy_would_not_run_on_itself_are_refused():
    model = network()
    model.forward = lambda x: model[2](model[0](x))
    for verb, call in {
        "ghostify": lambda: ghostnet.ghostify(model),
        "prune": lambda: prune(model, "l1", example_input=IMAGES[:1]),
        "sensitivity": lambda: sensitivity(model, IMAGES),
    }.items():
        with pytest.raises(InputError, match=f"^the forward that was set on Sequential .*{verb} needs"):
            call()
