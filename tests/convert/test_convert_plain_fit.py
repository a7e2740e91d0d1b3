"""Convolutions that stay plain are refitted to what the converted ones before them give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ghostnet.convert import ghostify
from ghostnet.convert.graph import find_units
from ghostnet.convert.sequential import initialise_from_dense_
from ghostnet.deploy import randomise_statistics_
from ghostnet.errors import InputError

SIZE = (3, 12, 12)
IMAGES = torch.randn(256, *SIZE, generator=torch.Generator().manual_seed(1))
FRESH = torch.randn(64, *SIZE, generator=torch.Generator().manual_seed(2))


def network(*, norm: bool = True, bias: bool = False, groups: int = 1) -> nn.Sequential:
    """Four convolutions, the third of which has groups."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for incoming, outgoing, stride in ((3, 8, 1), (8, 16, 1), (16, 16, 2), (16, 16, 1)):
        own = groups if stride == 2 else 1
        layers.append(nn.Conv2d(incoming, outgoing, 3, stride, 1, groups=own, bias=bias))
        layers += [nn.BatchNorm2d(outgoing)] if norm else []
        layers.append(nn.ReLU())
    model = nn.Sequential(*layers).eval()
    randomise_statistics_(model, SIZE)
    return model


def convolutions(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]


@torch.no_grad()
def error(model: nn.Module, other: nn.Module) -> float:
    wanted = model(FRESH)
    return float((wanted - other(FRESH)).square().sum() / (wanted - wanted.mean(0)).square().sum())


@pytest.mark.parametrize(("norm", "bias"), [(True, False), (True, True), (False, True), (False, False)])
def test_they_make_up_for_a_part_of_the_error(norm: bool, bias: bool) -> None:
    model = network(norm=norm, bias=bias)
    name = convolutions(model)[1]
    fitted, report = ghostify(model, layers=[name], calibration=IMAGES)
    left, other = ghostify(model, layers=[name], calibration=IMAGES, refit_plain=False)
    assert error(model, fitted) < 0.8 * error(model, left)
    reasons = [layer.reason or "" for layer in report.layers]
    assert [reason.endswith("; refitted") for reason in reasons] == [False, False, True, True]
    assert not any("refitted" in (layer.reason or "") for layer in other.layers)
    assert [layer.reconstruction_error is None for layer in report.layers] == [True, False, True, True]


@pytest.mark.parametrize("groups", [4, 16])
@pytest.mark.parametrize(("norm", "bias"), [(True, False), (False, True)])
def test_groups_are_refitted_each_on_its_own_inputs(groups: int, norm: bool, bias: bool) -> None:
    model = network(norm=norm, bias=bias, groups=groups)
    names = convolutions(model)
    made, report = ghostify(model, layers=[names[1]], calibration=IMAGES)
    assert report.layers[2].reason.endswith("refitted")
    for name in names[3:]:  # as if the last layer had been left alone
        model.get_submodule(name).weight.requires_grad_(False)
    here, _ = ghostify(model, layers=[names[1]], calibration=IMAGES)
    model.get_submodule(names[2]).weight.requires_grad_(False)
    left, _ = ghostify(model, layers=[names[1]], calibration=IMAGES)
    assert error(model, here) < 0.98 * error(model, left)
    assert error(model, made) < 0.9 * error(model, left)


def test_a_network_in_channels_last() -> None:
    model = network(groups=4)
    name = convolutions(model)[1]
    made, _ = ghostify(model, layers=[name], calibration=IMAGES[:32])
    last = network(groups=4).to(memory_format=torch.channels_last)
    other, _ = ghostify(last, layers=[name], calibration=IMAGES[:32].to(memory_format=torch.channels_last))
    assert error(made, other) < 1e-6


@pytest.mark.parametrize("count", [2, 4, 8])
def test_few_images_do_no_harm(count: int) -> None:
    model = network()
    name = convolutions(model)[1]
    made, _ = ghostify(model, layers=[name], calibration=IMAGES[:count])
    left, _ = ghostify(model, layers=[name], calibration=IMAGES[:count], refit_plain=False)
    assert error(model, made) < 1.02 * error(model, left)


def test_one_image_changes_no_filter() -> None:
    model = network()
    names = convolutions(model)
    made, _ = ghostify(model, layers=[names[2]], calibration=IMAGES[:1])
    kept, new = (net.get_submodule(names[3]).weight for net in (model, made))
    torch.testing.assert_close(new.sort(1).values, kept.sort(1).values, atol=1e-2, rtol=0)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("bias", [False, True])
def test_the_norm_behind_has_the_statistics_of_the_maps_that_it_gets_now(bias: bool, mode: str) -> None:
    model = network(bias=bias)
    names = convolutions(model)
    model.get_submodule(names[2]).padding_mode = mode
    made, _ = ghostify(model, layers=[names[1]], calibration=IMAGES)
    seen: list[Tensor] = []
    made.get_submodule(names[2]).register_forward_hook(lambda *given: seen.append(given[2]))
    with torch.no_grad():
        made(IMAGES)
    norm = made.get_submodule(str(int(names[2]) + 1))
    assert isinstance(norm, nn.BatchNorm2d)
    maps = seen[0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean, maps.mean(1), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(norm.running_var, maps.var(1, correction=0), atol=1e-3, rtol=1e-3)


def test_layers_before_the_first_converted_one_stay_as_they_are() -> None:
    model = network()
    names = convolutions(model)
    made, _ = ghostify(model, layers=[names[2]], calibration=IMAGES)
    state, new = model.state_dict(), made.state_dict()
    assert all(torch.equal(state[f"{name}.weight"], new[f"{name}.weight"]) for name in names[:2])
    assert not torch.equal(state[f"{names[3]}.weight"], new[f"{names[3]}.weight"])


def test_without_an_error_before_it_a_layer_keeps_its_weights() -> None:
    model = network()
    names = convolutions(model)
    with torch.no_grad():
        weight = model.get_submodule(names[1]).weight
        weight[8:] = -0.5 * weight[:8].flip(0)
    made, _ = ghostify(model, layers=[names[1]], calibration=IMAGES)
    assert error(model, made) < 1e-8


def test_what_may_not_be_changed_is_not() -> None:
    model = network()
    names = convolutions(model)
    model.get_submodule(names[2]).weight.requires_grad_(False)
    kept = model.get_submodule(names[2]).weight.clone()
    made, report = ghostify(model, layers=[names[1]], calibration=IMAGES)
    new = made.get_submodule(names[2]).weight  # its inputs may have come in another order
    assert torch.equal(new.sort(1).values, kept.sort(1).values)
    assert not report.layers[2].reason.endswith("refitted")
    assert report.layers[3].reason.endswith("refitted")


def test_without_images_or_the_dense_start_nothing_is_refitted() -> None:
    model = network()
    names = convolutions(model)
    for settings in ({}, {"init": "random", "calibration": IMAGES}):
        made, report = ghostify(model, layers=[names[1]], **settings)
        assert torch.equal(made.get_submodule(names[3]).weight, model.get_submodule(names[3]).weight)
        assert not any("refitted" in (layer.reason or "") for layer in report.layers)


def test_a_plain_layer_that_is_none() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)).eval()
    made, _ = ghostify(model, layers=["1"])
    batches: list[Tensor] = [IMAGES]
    with pytest.raises(InputError, match="`1` is no plain convolution; `plain` names those"):
        initialise_from_dense_(model, made, find_units(model)[1:], batches, plain=["1"])
