"""Networks trained as one become what each becomes alone; what cannot be stacked is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ghostnet.data import Augmentation, TensorBatches
from ghostnet.errors import InputError
from ghostnet.models import create_model
from ghostnet.train import (
    StackedBatches,
    StackedNetworks,
    TrainSettings,
    fit,
    why_not_stacked,
    why_not_together,
)

SEEDS = (3, 1, 7)


def networks(name: str = "ghost_resnet20", **args: Any) -> list[nn.Module]:
    made = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        made.append(create_model(name, width_mult=0.25, **args).double())
    return made


class DoubleBatches(TensorBatches):
    """In double precision: in single, rounding alone drives two runs of such narrow networks apart in a few steps."""

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().normalise(pixels).double()


def batches(seed: int = 0) -> TensorBatches:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (48, 32, 32, 3), dtype=np.uint8)
    return DoubleBatches(
        images,
        np.arange(48) % 10,
        16,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        augmentation=Augmentation(4, True, 0),
        seed=seed,
    )


def settings(**changes: Any) -> TrainSettings:
    plain = {"epochs": 2.0, "learning_rate": 0.05, "bf16": False}
    return TrainSettings(**{**plain, **changes})


def assert_alike(found: nn.Module, expected: nn.Module) -> None:
    other = expected.state_dict()
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, other[name].contiguous(), rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("changes", "taught"),
    [
        ({}, ""),
        ({"ema_decay": 0.9, "label_smoothing": 0.1, "decay_norms": True}, ""),
        ({}, "one"),
        ({}, "each"),
    ],
)
def test_each_network_becomes_what_it_becomes_alone(changes: dict[str, Any], taught: str) -> None:
    together, alone = networks(), networks()
    teachers = [copy.deepcopy(net) for net in networks("resnet20")] if taught else [None] * len(SEEDS)
    if taught == "one":
        teachers = teachers[:1] * len(SEEDS)
    teacher = (
        teachers[0] if taught != "each" else StackedNetworks([net for net in teachers if net is not None])
    )
    start = copy.deepcopy(alone[0])
    for network, seed, own in zip(alone, SEEDS, teachers, strict=True):
        fit(network, batches(seed), settings(**changes), teacher=own, progress=False)
    stacked = StackedNetworks(together)
    trained = fit(
        stacked, StackedBatches(batches(), SEEDS), settings(**changes), teacher=teacher, progress=False
    )
    stacked.unstack_(together)
    for found, expected in zip(together, alone, strict=True):
        assert_alike(found, expected)
    assert trained.steps == 6
    assert not torch.equal(together[0].linear.weight, start.linear.weight)
    assert not torch.equal(together[0].linear.weight, together[1].linear.weight)


@pytest.mark.parametrize("operation", ["affine", "wavelet"])
def test_other_cheap_operations_stack(operation: str) -> None:
    made = networks(cheap_operation=operation)
    stacked = StackedNetworks(made).eval()
    images = torch.randn(len(SEEDS), 2, 3, 32, 32).double()
    expected = torch.stack([net.eval()(image) for net, image in zip(made, images, strict=True)])
    torch.testing.assert_close(stacked(images), expected, rtol=1e-6, atol=1e-8)


def test_the_loss_is_a_mean_over_the_networks() -> None:
    stacked = StackedNetworks(networks())
    losses = []
    for network, seed in zip(networks(), SEEDS, strict=True):
        alone = fit(network, batches(seed), settings(epochs=1 / 3), progress=False)
        losses.append(alone.curve[0]["loss"])
    trained = fit(stacked, StackedBatches(batches(), SEEDS), settings(epochs=1 / 3), progress=False)
    assert trained.curve[0]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    def stop(step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    place = tmp_path / "run.checkpoint"
    whole, parts = StackedNetworks(networks()), StackedNetworks(networks())
    data = StackedBatches(batches(), SEEDS)
    fit(whole, data, settings(), progress=False)
    with pytest.raises(KeyboardInterrupt):
        fit(parts, data, settings(), checkpoint=place, after_step=stop, progress=False)
    again = StackedNetworks(networks())
    fit(again, data, settings(), checkpoint=place, progress=False)
    for name, value in again.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name
    with pytest.raises(InputError, match=r"seeds"):
        fit(again, StackedBatches(batches(), (3, 1, 8)), settings(), checkpoint=place, progress=False)


def test_what_cannot_be_stacked() -> None:
    narrow, wide = create_model("resnet20", width_mult=0.25), create_model("resnet20", width_mult=0.5)
    assert why_not_stacked([]) == "there is none"
    assert why_not_stacked([narrow, copy.deepcopy(narrow)]) == ""
    assert "is not alike in all of them" in why_not_stacked([narrow, wide])
    with pytest.raises(InputError, match=r"these networks cannot be stacked: .* is not alike in all of them"):
        StackedNetworks([narrow, wide])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"feature_layers": ("layer1",)}, "feature_layers"),
        ({"freeze_batch_norm": True}, "freeze_batch_norm"),
        ({"gradient_clip": 1.0}, "gradient_clip"),
        ({"accumulation_steps": 2}, "accumulation_steps"),
    ],
)
def test_settings_for_one_network_are_refused(changes: dict[str, Any], named: str) -> None:
    assert why_not_together(settings()) == ""
    assert why_not_together(settings(**changes)) == f"`{named}`"
    stacked = StackedNetworks(networks())
    with pytest.raises(InputError, match=named):
        fit(stacked, StackedBatches(batches(), SEEDS), settings(**changes), progress=False)
