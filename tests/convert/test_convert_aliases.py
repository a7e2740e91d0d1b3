"""Layers that are held in lists and the like beside their registered place."""

from __future__ import annotations

import functools
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ghostnet
from ghostnet.convert import prune
from ghostnet.convert.aliases import held_elsewhere
from ghostnet.errors import InputError

IMAGES = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Holding(nn.Module):
    """Runs `stem`, then what it holds of `c1`, `n1` and `c2`, in a way of its own."""

    def __init__(self, hold: Any, *names: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.c1, self.n1 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
        self.relu, self.c2, self.c3 = nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)
        held = {name: getattr(self, name) for name in names}
        object.__setattr__(self, "held", hold(held))

    def forward(self, x: Tensor) -> Tensor:
        return self.c3(self.relu(self.c2(self.relu(self.n1(self.c1(self.relu(self.stem(x))))))))


class _Elsewhere(nn.Module):
    def __init__(self, modules: Any) -> None:
        super().__init__()
        self.inner = nn.Sequential(*modules)


PLACES = {
    "list": lambda held: list(held.values()),
    "dict": dict,
    "nested": lambda held: ({"all": (tuple(held.values()), 1)},),
    "set": lambda held: set(held.values()),
    "alias": lambda held: held["c1"],
    "method": lambda held: held["c1"].forward,
    "partial": lambda held: functools.partial(torch.relu, held["c1"]),
    "unregistered module": lambda held: _Elsewhere(held.values()),
}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_is_found(place):
    assert held_elsewhere(Holding(PLACES[place], "c1")) == {"c1"}


def test_what_a_module_holds_of_itself_is_no_other_place():
    model = Holding(PLACES["list"])
    model.c1.forward = types.MethodType(nn.Conv2d.forward, model.c1)
    assert held_elsewhere(model) == set()


def test_a_block_in_a_list_is_another_matter_than_its_layers():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3)))
    model.blocks = list(model)
    assert held_elsewhere(model) == {"0"}
    assert ghostnet.ghostify(model, layers=["0.0"], init="random")[1].converted == ["0.0"]


def test_held_convolutions_are_not_converted():
    _, report = ghostnet.ghostify(Holding(PLACES["list"], "c1").eval(), calibration=IMAGES)
    assert report.converted == ["c2"]
    assert report.layers[1].reason.startswith("held in a list or the like, too")


def test_held_norms_stay_behind_a_ghost_convolution():
    ghost, report = ghostnet.ghostify(
        Holding(PLACES["list"], "n1"), layers=["c1"], init="random", form="ghostnet"
    )
    assert "linear form: a layer after it is held in a list" in report.layers[1].reason
    assert isinstance(ghost.n1, nn.BatchNorm2d)
    assert ghost.held[0] is ghost.n1


@pytest.mark.parametrize(("name", "kept"), [("c1", "stem c1"), ("n1", "c1"), ("c3", "c2 c3")])
def test_what_is_held_loses_no_channels(name, kept):
    model = Holding(PLACES["dict"], name).eval()
    pruned, report = prune(model, "l1", macs=0.9, example_input=IMAGES[:1])
    left = {layer.name for layer in report.layers if "held in a list" in str(layer.reason)}
    assert left == set(kept.split())
    assert pruned.held[name] is getattr(pruned, name)
    with pytest.raises(InputError, match=r"nothing in this Holding can be pruned .*held in a list"):
        prune(Holding(PLACES["dict"], "stem", "c1", "c2", "c3"), "l1", example_input=IMAGES[:1])
