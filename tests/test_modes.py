"""Modes come back, each module's own, whatever happens in the block."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ghostnet import InputError
from ghostnet.convert import ghostify, prune
from ghostnet.data import TensorBatches
from ghostnet.deploy import optimize
from ghostnet.measure import profile
from ghostnet.modes import check_network, evaluating, restored_modes
from ghostnet.train import TrainSettings, fit


def _mixed() -> nn.Module:
    """A network in training whose batch norm is frozen."""
    return nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1).eval(), nn.Dropout())


def _modes(network: nn.Module) -> list[bool]:
    return [module.training for module in network.modules()]


def test_networks_evaluate_in_the_block_alone() -> None:
    networks = [_mixed(), _mixed().eval(), nn.Dropout()]
    before = [_modes(network) for network in networks]
    with evaluating(*networks):
        assert not any(mode for network in networks for mode in _modes(network))
    assert [_modes(network) for network in networks] == before
    assert before[0] == [True, True, False, True]


def test_modes_are_left_alone_until_the_block_ends() -> None:
    network = _mixed()
    with restored_modes(network):
        assert _modes(network) == [True, True, False, True]
        network.train()
        network.add_module("new", nn.Dropout().eval())
    assert _modes(network) == [True, True, False, True, False]


@pytest.mark.parametrize("context", [evaluating, restored_modes])
def test_an_error_in_the_block_leaves_no_other_modes(context) -> None:
    network = _mixed()
    with pytest.raises(RuntimeError, match="mat1 and mat2"), context(network):
        network.eval()(torch.zeros(1, 2))
    assert _modes(network) == [True, True, False, True]


def test_a_network_that_refuses_to_evaluate_leaves_the_others_as_they_were() -> None:
    class Stubborn(nn.Module):
        def train(self, mode: bool = True) -> nn.Module:
            raise RuntimeError(f"refused mode {mode}")

    network = _mixed()
    with pytest.raises(RuntimeError, match="refused mode False"), evaluating(network, Stubborn()):
        pass
    assert _modes(network) == [True, True, False, True]


class Trainer(nn.Module):
    """Trains in `train`, as wrappers of networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.callbacks, self.model = nn.Module(), nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())

    def train(self, _trainer: object = None) -> None:  # type: ignore[override]
        raise AssertionError("a training begins")


@pytest.mark.parametrize("verb", ["ghostify", "prune", "optimize", "profile", "fit"])
def test_wrappers_that_train_are_refused(verb: str) -> None:
    pixels, labels = np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, np.int64)
    batches = TensorBatches(pixels, labels, batch_size=2, mean=(0, 0, 0), std=(1, 1, 1), shuffle=True)
    call = {
        "ghostify": lambda model: ghostify(model, example_input=torch.zeros(1, 3, 8, 8)),
        "prune": lambda model: prune(model, example_input=torch.zeros(1, 3, 8, 8)),
        "optimize": lambda model: optimize(model, input_size=(3, 8, 8)),
        "profile": lambda model: profile(model, (3, 8, 8)),
        "fit": lambda model: fit(model, batches, TrainSettings(epochs=1)),
    }[verb]
    with pytest.raises(
        InputError, match=f"{verb} needs the network itself, and this Trainer .* inside: its `model`"
    ):
        call(Trainer())


def test_networks_with_a_mode_of_their_own_are_taken() -> None:
    class Frozen(nn.Sequential):
        def train(self, training: bool = True) -> nn.Module:  # type: ignore[override]
            return super().train(training)

    class Passes(nn.Sequential):
        def train(self, *modes: bool) -> nn.Module:  # type: ignore[override]
            return super().train(*modes)

    class Required(nn.Sequential):
        def train(self, mode: bool) -> nn.Module:
            return super().train(mode)

    for kind in (Frozen, Passes, Required):
        assert profile(kind(nn.Conv2d(3, 8, 1)), (3, 4, 4)).macs == 384


def test_a_wrapper_of_nothing_is_refused_too() -> None:
    class Empty(nn.Module):
        def train(self) -> None:  # type: ignore[override]
            raise AssertionError

    with pytest.raises(InputError, match=r"give what is inside$"):
        check_network(Empty(), "profile")
