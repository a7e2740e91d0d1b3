"""Copies of networks whose layers keep things that `deepcopy` does not take."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

import ghostnet
from ghostnet.errors import InputError
from ghostnet.nn.copies import copy_model


class Caching(nn.Sequential):
    """Keeps the maps of its last forward pass, as networks with auxiliary losses do."""

    def forward(self, x: Tensor) -> Tensor:
        self.maps = {"all": [layer(x) for layer in self]}
        return self.maps["all"][0]


def test_maps_kept_from_a_forward_pass_in_training_are_no_obstacle():
    model = nn.Sequential(Caching(nn.Conv2d(3, 8, 3)), nn.Conv2d(8, 8, 3))
    model(torch.rand(1, 3, 8, 8))
    copied = copy_model(model)
    assert not copied[0].maps["all"][0].requires_grad
    assert torch.equal(copied[0].maps["all"][0], model[0].maps["all"][0])
    assert ghostnet.ghostify(model, init="random")[1].converted == ["1"]


def test_an_attribute_that_cannot_be_copied_is_named():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    model[1].lock = threading.Lock()
    with pytest.raises(InputError, match=r"^`lock` of 1 cannot be copied: .*lock"):
        ghostnet.ghostify(model, init="random")
