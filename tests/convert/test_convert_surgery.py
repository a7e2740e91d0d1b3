"""Replacing convolutions: what is kept, what is recorded, and that nothing is doubled."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet.convert import RandomInit, ghostify
from ghostnet.nn import GhostConv2d, apply_edits_


class Net(nn.Module):
    """A dedicated, a functional and no activation after conv-BN; a convolution without BN."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.two, self.norm2 = nn.Conv2d(8, 8, 3, padding="same"), nn.BatchNorm2d(8)
        self.three, self.norm3 = nn.Conv2d(8, 8, 3, 2, (1, 0)), nn.BatchNorm2d(8)
        self.four = nn.Conv2d(8, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm2(self.two(self.one(self.stem(x)))))
        return self.four(self.norm3(self.three(x)))


IMAGES = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def test_linear_form_keeps_norms_and_the_original():
    model = Net().eval()
    before = copy.deepcopy(model.state_dict())
    ghost_model, report = ghostify(model, init="random", example_input=IMAGES)
    assert report.converted == ["one.0", "two", "three", "four"]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(isinstance(module, GhostConv2d) for module in model.modules())
    assert isinstance(ghost_model.one[1], nn.BatchNorm2d)
    assert ghost_model.one[0].norm_name is None
    assert ghost_model(IMAGES).shape == model(IMAGES).shape
    assert not any(module.training for module in ghost_model.modules())


def test_ghostnet_form_moves_norm_and_activation_inside():
    ghost_model, report = ghostify(Net(), init="random", form="ghostnet", example_input=IMAGES)
    assert (ghost_model.one[0].norm_name, ghost_model.one[0].activation_name) == ("batch", "relu")
    assert type(ghost_model.one[1]) is type(ghost_model.one[2]) is nn.Identity
    assert ghost_model.two.activation_name == "relu"  # the functional ReLU behind it changes nothing
    assert type(ghost_model.norm2) is nn.Identity
    assert (ghost_model.three.norm_name, ghost_model.three.activation_name) == ("batch", None)
    assert ghost_model.four.norm_name is None
    remark = {layer.name: layer.reason for layer in report.layers}["four"]
    assert "linear form: no batch norm" in str(remark)
    assert not any(type(module) is nn.BatchNorm2d for name, module in ghost_model.named_children())


def test_ghostnet_form_keeps_linear_where_an_activation_cannot_move():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8),
        nn.ELU(),
        nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8),
    )
    model.append(nn.Hardswish())
    ghost_model, report = ghostify(model, init="random", form="ghostnet", example_input=IMAGES)
    assert "ELU after it cannot move" in str(report.layers[1].reason)
    assert type(ghost_model[2]) is nn.BatchNorm2d
    assert ghost_model[4].activation_name == "hardswish"
    assert type(ghost_model[6]) is nn.Identity


@pytest.mark.parametrize("form", ["linear", "ghostnet"])
def test_recorded_edits_rebuild_the_network_bit_for_bit(form):
    model = Net()
    model.ghostnet_origin = {"library": "test", "name": "net", "args": {}}
    ghost_model, _ = ghostify(model, init="random", form=form, layers=["two"], example_input=IMAGES)
    ghost_model, _ = ghostify(
        ghost_model, init="random", form=form, example_input=IMAGES
    )  # adds to the first
    assert ghost_model.ghostnet_edits[0]["path"] == "two"
    assert ghost_model.ghostnet_origin == model.ghostnet_origin
    again = apply_edits_(Net(), ghost_model.ghostnet_edits).eval()
    again.load_state_dict(ghost_model.state_dict())
    assert torch.equal(again(IMAGES), ghost_model.eval()(IMAGES))


def test_dtype_mode_and_requires_grad_are_kept():
    model = Net().double().eval()
    model.two.requires_grad_(False)
    ghost_model, _ = ghostify(model, init="random", example_input=IMAGES)
    assert {parameter.dtype for parameter in ghost_model.parameters()} == {torch.float64}
    assert not any(parameter.requires_grad for parameter in ghost_model.two.parameters())
    assert all(parameter.requires_grad for parameter in ghost_model.four.parameters())


def test_random_init_depends_on_its_seed_only():
    model = Net()
    one, _ = ghostify(model, init="random", layers=["four"])
    torch.rand(3)  # moves the global random state
    two, _ = ghostify(model, init="random", layers=["four"])
    three, _ = ghostify(model, init=RandomInit(1), layers=["four"])
    assert torch.equal(one.four.primary_conv.weight, two.four.primary_conv.weight)
    assert not torch.equal(two.four.primary_conv.weight, three.four.primary_conv.weight)


def test_random_init_leaves_the_global_random_state_alone():
    model = Net()
    state = torch.get_rng_state()
    ghostify(model, init="random", example_input=IMAGES)
    assert torch.equal(state, torch.get_rng_state())


def test_ratio_one_returns_the_same_function():
    model = Net().eval()
    same, report = ghostify(model, ratio=1, calibration=IMAGES)
    assert same is not model
    assert report.converted == []
    assert torch.equal(same(IMAGES), model(IMAGES))


def test_calibration_sets_the_norms_of_a_random_network():
    ghost_model, _ = ghostify(Net(), init="random", calibration=[IMAGES[:1], IMAGES[1:]])
    assert ghost_model.norm2.running_mean.abs().sum() > 0


def test_a_network_that_fx_cannot_trace_is_converted():
    class Branching(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    ghost_model, report = ghostify(Branching(), init="random", form="ghostnet", calibration=IMAGES)
    assert report.converted == ["one.0", "two", "three", "four"]
    assert ghost_model.one[0].activation_name == "relu"
    assert type(ghost_model.one[1]) is nn.Identity
    assert type(ghost_model.one[2]) is nn.ReLU  # without a graph it may be shared, and ReLU twice is ReLU
    assert ghost_model(IMAGES).shape == Net()(IMAGES).shape


def test_dense_init_records_the_orders_that_stay():
    class Residual(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.four(self.norm3(self.three(x + self.norm2(self.two(self.one(x))))))

    torch.manual_seed(0)
    ghost_model, report = ghostify(
        Residual().eval(), calibration=torch.randn(8, 3, 8, 8), cheap_kernel_size=1, streams=False
    )
    assert all(layer.reconstruction_error is not None for layer in report.layers if layer.action == "ghost")
    assert ghost_model.two.channel_order is not None  # it ends in the addition
    assert ghost_model.three.channel_order is None
    again = apply_edits_(Residual(), ghost_model.ghostnet_edits).eval()
    again.load_state_dict(ghost_model.state_dict())
    assert torch.equal(again(IMAGES), ghost_model(IMAGES))


def test_a_norm_that_moves_inside_keeps_its_eps_and_momentum():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=1e-3, momentum=0.01), nn.ReLU())
    ghost, _ = ghostify(model, layers="all", init="random", form="ghostnet")
    assert [(n.eps, n.momentum) for n in (ghost[0].primary_norm, ghost[0].cheap_norm)] == [(1e-3, 0.01)] * 2
