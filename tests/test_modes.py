"""Modes come back, each module's own, whatever happens in the block."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ghostnet.modes import evaluating, restored_modes


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
