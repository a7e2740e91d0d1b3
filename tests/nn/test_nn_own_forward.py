"""Forwards set on instances: which networks a copy can run, and tracing of the root's."""

from __future__ import annotations

import copy
import functools
import types

import pytest
import torch
from torch import Tensor, fx, nn

from ghostnet.errors import InputError
from ghostnet.nn.own_forward import check_own_forwards, has_own_forward
from ghostnet.nn.tracing import trace


def first_alone(self: nn.Module, x: Tensor) -> Tensor:
    return self[0](x)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())


def _set(model: nn.Module, kind: str) -> None:
    model.forward = {
        "method": types.MethodType(first_alone, model),
        "partial": functools.partial(first_alone, model),
        "nothing": torch.relu,
        "closure": lambda x: model[0](x),
        "default": lambda x, layer=model[0]: layer(x),
        "compiled": torch.compile(model.forward, backend="eager"),
        "decorated": torch.no_grad()(model.forward),
        "method of a closure": types.MethodType(lambda _self, x: model[0](x), model),
        "list": lambda x, layers=list(model): layers[0](x),
    }[kind]


@pytest.mark.parametrize("kind", ["method", "partial", "nothing"])
def test_what_is_copied_with_its_module_is_taken(kind):
    model = network()
    _set(model, kind)
    check_own_forwards(model, "ghostify")
    copied = copy.deepcopy(model)
    with torch.no_grad():
        model[0].weight.zero_()
    x = torch.ones(1, 3, 2, 2)
    assert has_own_forward(copied)
    assert torch.equal(copied(x), x) if kind == "nothing" else not torch.equal(copied(x), model(x))


@pytest.mark.parametrize(
    "kind", ["closure", "default", "compiled", "decorated", "method of a closure", "list"]
)
@pytest.mark.parametrize("inside", [False, True], ids=["root", "inside"])
def test_functions_that_read_the_network_from_around_them_are_refused(kind, inside):
    model = network()
    _set(model, kind)
    model = nn.Sequential(model) if inside else model
    place = r"Sequential \(0\)" if inside else "Sequential"
    with pytest.raises(
        InputError, match=f"^the forward that was set on {place} reads .*prune needs a method"
    ):
        check_own_forwards(model, "prune")


MODEL = network()


def test_globals_are_around_a_function_too():
    model = nn.Sequential(MODEL)
    model.forward = lambda x: MODEL(x)
    with pytest.raises(InputError, match="reads Sequential from around it"):
        check_own_forwards(model, "ghostify")


def test_the_root_s_own_forward_is_traced():
    class Network(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](x)

    def both(self: nn.Module, x: Tensor, again: bool = True) -> Tensor:
        x = type(self).forward(self, x)
        return self[0](x) if again else x

    model = Network(nn.ReLU(), nn.Tanh())
    model.forward = types.MethodType(both, model)
    graph = trace(fx.Tracer(), model)
    assert [node.target for node in graph.nodes if node.op == "call_module"] == ["1", "0"]
    assert [node.op for node in graph.nodes].count("placeholder") == 1
    assert type(model) is Network
