"""Muon on convolutions is Muon on matrices with a row a filter; its run resumes, and bad choices are named."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ghostnet import InputError
from ghostnet.data import Augmentation, TensorBatches
from ghostnet.models import create_model
from ghostnet.train import TrainSettings, evaluate, fit
from ghostnet.train.optimizer import MuonWithAdamW, make_optimizer

MUON = TrainSettings(optimizer="muon", learning_rate=0.01, weight_decay=0.1, bf16=False)

MATRICES = {"0.weight", "3.weight", "7.weight"}


def network() -> nn.Module:
    """A stem, a 1x1 and a depthwise kernel, a norm, a hidden and a last linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 12, 1, bias=False), nn.Conv2d(12, 12, 3, padding=1, groups=12)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4)),
    )


def batches(**more: Any) -> TensorBatches:
    """Return images whose mean colour is their label."""
    labels = np.arange(64) % 4
    images = np.repeat((labels * 60).astype(np.uint8), 8 * 8 * 3).reshape(64, 8, 8, 3)
    augmentation = Augmentation(crop_padding=1)
    return TensorBatches(
        images, labels, 16, mean=(0.5,) * 3, std=(0.25,) * 3, augmentation=augmentation, **more
    )


def backward(model: nn.Module) -> None:
    model(torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))).square().mean().backward()


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_step_is_muons_on_matrices_of_filters_and_adamws_on_the_rest(layout: torch.memory_format) -> None:
    model = network().to(memory_format=layout)
    start = copy.deepcopy(model)
    optimizer = make_optimizer(model, MUON)
    backward(model)
    optimizer.step()
    gradients = {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    for name, before in start.named_parameters():
        decay = 0.1 if before.ndim > 1 else 0.0
        value = before.detach().clone()
        alone = nn.Parameter(value.permute(0, 2, 3, 1).flatten(1) if before.ndim == 4 else value)
        gradient = gradients[name]
        if name in MATRICES:
            alone.grad = gradient.permute(0, 2, 3, 1).flatten(1) if before.ndim == 4 else gradient
            reference: torch.optim.Optimizer = torch.optim.Muon(
                [alone],
                lr=0.01,
                weight_decay=0.1,
                momentum=0.9,
                nesterov=True,
                adjust_lr_fn="match_rms_adamw",
            )
        else:
            alone = nn.Parameter(before.detach().clone())
            alone.grad = gradient
            reference = torch.optim.AdamW([alone], lr=0.01, weight_decay=decay)
        reference.step()
        after = dict(model.named_parameters())[name].detach()
        if name in MATRICES and before.ndim == 4:
            after = after.permute(0, 2, 3, 1).flatten(1)
        # the order of a matrix's columns changes the rounding of bfloat16 sums
        tolerance = 2e-2 * 0.01 if name in MATRICES else 1e-6
        torch.testing.assert_close(after, alone.detach(), rtol=0, atol=tolerance, msg=name)
        assert not torch.equal(dict(model.named_parameters())[name], before), name


@pytest.mark.parametrize("nesterov", [True, False])
def test_processors_without_bfloat16_take_the_same_steps_in_float32(
    monkeypatch: pytest.MonkeyPatch, nesterov: bool
) -> None:
    settings = dataclasses.replace(MUON, nesterov=nesterov)
    models = []
    for has in (True, False):
        monkeypatch.setattr("ghostnet.train.optimizer.has_bfloat16", {"cpu": has}.get)
        model = network()
        optimizer = make_optimizer(model, settings)
        noise = torch.Generator().manual_seed(2)
        for _ in range(3):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=noise)
            optimizer.step()
        models.append(model)
    start = dict(network().named_parameters())
    for (name, one), two in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert (one - two).norm() > 0 or name not in MATRICES, name
        assert (one - two).norm() < 0.02 * (one - start[name]).norm(), name


def test_parameters_that_were_given_other_memory_are_stepped() -> None:
    """As PyTorch's and accelerate's wrappers for several processes do when the optimiser is there already."""
    models = [network().to(memory_format=torch.channels_last) for _ in range(3)]
    for way, model in enumerate(models):
        optimizer = make_optimizer(model, MUON)
        for parameter in model.parameters():
            if way == 1:
                parameter.data = parameter.data.clone()
            if (
                way == 2 and parameter.ndim == 4
            ):  # neither of the usual formats: every other entry of a larger tensor
                wide = torch.empty(*parameter.shape[:3], 2 * parameter.shape[3])
                parameter.data = wide[..., ::2].copy_(parameter.data)
        backward(model)
        optimizer.step()
    start = dict(network().named_parameters())
    for way in (1, 2):
        for name in MATRICES:
            one, other = (models[number].get_parameter(name) for number in (0, way))
            assert not torch.equal(other, start[name]), name
            torch.testing.assert_close(other, one, rtol=0, atol=2e-4, msg=name)


def test_gradients_are_forgotten_and_one_rate_drives_both() -> None:
    model = network().to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, MUON)
    backward(model)
    optimizer.step()
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())
    backward(model)
    optimizer.zero_grad(set_to_none=False)
    assert all(
        parameter.grad.abs().sum() == 0 for parameter in model.parameters() if parameter.grad is not None
    )
    before = copy.deepcopy(model.state_dict())
    optimizer.load_state_dict(optimizer.state_dict())  # which hands out new groups
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    backward(model)
    optimizer.step()
    assert all(
        torch.equal(before[name], value)
        for name, value in model.state_dict().items()
        if "running" not in name and "tracked" not in name
    )


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Flatten()),
        nn.Sequential(nn.Flatten(), nn.Linear(108, 4)),
    ],
    ids=["kernels alone", "the last layer alone"],
)
def test_networks_with_one_kind_of_weight(model: nn.Module) -> None:
    before = copy.deepcopy(model)
    optimizer = make_optimizer(model, MUON)
    assert isinstance(optimizer, MuonWithAdamW)
    backward(model)
    optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before.parameters(), model.parameters(), strict=True))


def test_frozen_weights_stay() -> None:
    model = network()
    stem = model.get_parameter("0.weight").requires_grad_(False)
    before = stem.clone()
    optimizer = make_optimizer(model, MUON)
    backward(model)
    optimizer.step()
    assert torch.equal(before, stem)


@pytest.mark.parametrize(("optimizer", "rate"), [("muon", 0.01), ("adamw", 0.01)])
def test_a_run_learns_and_goes_on_to_the_identical_result(
    tmp_path: Path, optimizer: str, rate: float
) -> None:
    settings = TrainSettings(
        epochs=8,
        optimizer=optimizer,
        learning_rate=rate,
        weight_decay=0.1,
        ema_decay=0.5,
        checkpoint_seconds=1e-9,
    )

    def small() -> nn.Module:
        torch.manual_seed(0)
        return create_model("ghost_resnet20", width_mult=0.5, num_classes=4)

    whole, pieces = small(), small()
    fit(whole, batches(), settings, progress=False)
    assert evaluate(whole, batches()).top1 > 60  # chance is 25
    path = tmp_path / "run.checkpoint"

    def stop(step: int) -> None:
        if step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(pieces, batches(), settings, checkpoint=path, after_step=stop, progress=False)
    pieces = small()
    assert fit(pieces, batches(), settings, checkpoint=path, progress=False).steps == 32
    assert all(torch.equal(value, pieces.state_dict()[name]) for name, value in whole.state_dict().items())
    other = dataclasses.replace(settings, optimizer="sgd")
    with pytest.raises(InputError, match=rf"a run with optimizer = '{optimizer}', not None"):
        fit(small(), batches(), other, checkpoint=path, progress=False)


def test_bad_choices_are_one_line() -> None:
    with pytest.raises(InputError, match="unknown optimizer 'muno'; did you mean 'muon'"):
        TrainSettings(optimizer="muno")
    with pytest.raises(InputError, match=r"`learning_rate` \(=0.1\) is one for SGD; muon takes about 0.005"):
        TrainSettings(optimizer="muon")
    with pytest.raises(InputError, match=r"adamw takes about 0.001"):
        TrainSettings(optimizer="adamw", learning_rate=0.2)
