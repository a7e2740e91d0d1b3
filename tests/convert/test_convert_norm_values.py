"""Batch norms whose scale and offset are not theirs alone: masked, parametrised or shared ones keep what they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import ghostnet
from ghostnet.convert import find_units
from ghostnet.nn.copies import copy_model


class Same(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return weight


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
    model = nn.Sequential(*layers, nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1))
    for norm in (model[1], model[4]):
        nn.init.uniform_(norm.weight, 0.2, 2.0)
        nn.init.normal_(norm.bias)
    model.train()(torch.rand(64, 3, 12, 12))
    return model.eval()


def masked(model: nn.Sequential) -> None:
    prune.l1_unstructured(model[4], "weight", amount=0.0)


def parametrised(model: nn.Sequential) -> None:
    parametrize.register_parametrization(model[4], "weight", Same())


def shared(model: nn.Sequential) -> None:
    model[1].weight, model[1].bias = model[4].weight, model[4].bias


@pytest.mark.parametrize("change", [masked, parametrised, shared])
def test_a_norm_that_does_not_hold_its_own_values_is_left_as_it_is(
    change: Callable[[nn.Sequential], None],
) -> None:
    model, images = network(), torch.rand(64, 3, 12, 12)
    change(model)
    before = copy_model(model)
    assert {unit.name: unit.norm for unit in find_units(model)}["3"] is None
    ghost, _ = ghostnet.ghostify(model, layers=["3"], calibration=images)
    assert torch.equal(ghost[4].weight, before[4].weight)
    with torch.no_grad():
        wanted = before(images)
        error = (ghost(images) - wanted).pow(2).mean() / wanted.var()
    assert error < 0.3
