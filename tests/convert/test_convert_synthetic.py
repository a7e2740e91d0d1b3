from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import ghostnet
from ghostnet.convert import ghostify, synthetic_images
from ghostnet.convert.dead_leaves import dead_leaves
from ghostnet.convert.synthetic import _distance
from ghostnet.errors import InputError


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _distances(model: nn.Module, images: Tensor) -> float:
    """How far the maps of `images` are from what the batch norms remember, on average."""
    found: list[float] = []
    hooks = [
        module.register_forward_pre_hook(lambda norm, inputs: found.append(float(_distance(norm, inputs[0]))))
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.no_grad():
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    return sum(found) / len(found)


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    return ghostnet.load("resnet9_050").eval()


@pytest.mark.parametrize("size", [(3, 32, 32), (1, 20, 45), (5, 1, 1)])
def test_dead_leaves_are_normalised_and_follow_from_the_seed(size: tuple[int, int, int]) -> None:
    images = dead_leaves(6, size, _seeded())
    assert images.shape == (6, *size)
    assert abs(float(images.mean())) < 1e-3
    assert float(images.std()) == pytest.approx(1.0, abs=1e-2)
    assert torch.equal(images, dead_leaves(6, size, _seeded()))
    assert not torch.equal(images, dead_leaves(6, size, _seeded(1)))


def test_neighbours_in_dead_leaves_are_alike_and_colours_differ() -> None:
    images = dead_leaves(64, (3, 32, 32), _seeded())
    beside = float((images[..., 1:] * images[..., :-1]).mean())
    far = float((images[..., 16:] * images[..., :-16]).mean())
    assert 0.8 < beside < 0.99, "of photographs of that size about 0.9"
    assert far < 0.5 * beside
    assert 0.02 < float((images[:, 0] - images[:, 1]).square().mean()) < 0.5, "coloured, but mostly grey"


def test_a_large_set_is_drawn_in_pieces_with_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dead_leaves(5, (3, 16, 16), _seeded())
    monkeypatch.setattr("ghostnet.convert.dead_leaves._PIXELS", 2 * 16 * 16)
    torch.testing.assert_close(dead_leaves(5, (3, 16, 16), _seeded()), whole)


def test_images_come_nearer_to_what_the_norms_remember(dense: nn.Module) -> None:
    drawn = synthetic_images(dense, 32, input_size=(3, 32, 32), steps=0)
    moved = synthetic_images(dense, 32, input_size=(3, 32, 32), steps=15)
    assert torch.equal(drawn, dead_leaves(32, (3, 32, 32), _seeded()))
    assert _distances(dense, moved) < 0.4 * _distances(dense, drawn)
    noise = torch.randn(32, 3, 32, 32, generator=_seeded())
    assert _distances(dense, drawn) < 0.7 * _distances(dense, noise)


def test_the_network_and_the_random_state_stay_as_they_are(dense: nn.Module) -> None:
    model = copy.deepcopy(dense).train()
    model.requires_grad_(False)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with torch.inference_mode():
        images = synthetic_images(model, 4, input_size=(3, 32, 32), steps=2)
    assert images.shape == (4, 3, 32, 32)
    assert not images.requires_grad
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_images_have_the_type_of_the_weights(dense: nn.Module, kind: torch.dtype) -> None:
    images = synthetic_images(copy.deepcopy(dense).to(kind), 2, input_size=(3, 32, 32), steps=1)
    assert images.dtype == kind
    assert bool(images.isfinite().all())


def test_a_network_without_norms_gets_leaves() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 1, 9, 12))
    images = synthetic_images(model, 3, input_size=(1, 9, 12))
    assert torch.equal(images, dead_leaves(3, (1, 9, 12), _seeded()))
    behind = nn.Sequential(nn.Flatten(), nn.LazyLinear(4), nn.BatchNorm1d(4))  # a norm, but none of maps
    behind(torch.zeros(2, 1, 9, 12))
    assert torch.equal(synthetic_images(behind, 3, input_size=(1, 9, 12)), images)


def test_conversion_with_them_is_far_better_than_without(dense: nn.Module) -> None:
    real = torch.randn(64, 3, 32, 32, generator=_seeded(3)).cumsum(2).cumsum(3)  # smooth, and nobody's leaves
    real = (real - real.mean((1, 2, 3), keepdim=True)) / real.std((1, 2, 3), keepdim=True)
    images = synthetic_images(dense, 16, input_size=(3, 32, 32), steps=15)
    layers, lost = ["features.3"], {}
    for name, given in (("synthetic", images), ("none", None)):
        ghost, _ = ghostify(dense, layers=layers, calibration=given)
        with torch.no_grad():
            lost[name] = float((ghost(real) - dense(real)).square().mean())
    assert lost["synthetic"] < 0.5 * lost["none"]


@pytest.mark.parametrize(
    "bad", [{"count": 0}, {"steps": -1}, {"input_size": (32, 32)}, {"input_size": (3, 0, 4)}, {"count": 2.5}]
)
def test_what_cannot_be_made_is_refused(dense: nn.Module, bad: dict) -> None:
    with pytest.raises(InputError, match="`input_size`"):
        synthetic_images(dense, **{"count": 2, "input_size": (3, 32, 32), **bad})
    with pytest.raises(InputError, match="does not run on `input_size`"):
        synthetic_images(dense, 2, input_size=(4, 32, 32))


def test_a_damaged_network_is_said_to_be_one(dense: nn.Module) -> None:
    damaged = copy.deepcopy(dense)
    with torch.no_grad():
        damaged.get_submodule("features.3").weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="gives NaN or infinity"):
        synthetic_images(damaged, 2, input_size=(3, 32, 32), steps=2)
