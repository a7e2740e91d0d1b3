"""Channels set at places: the same values, nothing to train, and a record that builds it again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import ghostnet
from ghostnet import InputError
from ghostnet.measure import profile
from ghostnet.nn import ChannelPlacement, apply_edits_

MAPS = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_channels_lie_where_they_were_set(stride: int) -> None:
    made = ChannelPlacement.at([2, -1, 0, 2], in_channels=3, stride=stride)(MAPS)
    taken = MAPS[:, :, ::stride, ::stride]
    assert torch.equal(made, torch.stack([taken[:, 2], 0 * taken[:, 0], taken[:, 0], taken[:, 2]], dim=1))


def test_a_new_one_keeps_the_order() -> None:
    assert torch.equal(ChannelPlacement(3, 5)(MAPS), torch.cat([MAPS, torch.zeros(2, 2, 5, 4)], dim=1))


def test_nothing_is_trained_and_gradients_pass() -> None:
    placement = ChannelPlacement.at([1, -1], in_channels=3)
    assert list(placement.parameters()) == []
    maps = MAPS.clone().requires_grad_()
    placement(maps).sum().backward()
    assert maps.grad is not None
    assert torch.equal(maps.grad, torch.tensor([0.0, 1.0, 0.0])[:, None, None].expand_as(MAPS))
    placement.reset_parameters()
    assert placement.weight.flatten().tolist() == [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_places_are_saved_and_count_nothing() -> None:
    placement = ChannelPlacement.at([1, 0], in_channels=3)
    again = ChannelPlacement.from_config(placement.config())
    again.load_state_dict(placement.state_dict())
    assert torch.equal(again(MAPS), placement(MAPS))
    counted = profile(nn.Sequential(placement), (3, 5, 4))
    assert (counted.params, counted.macs) == (0, 0)


def test_an_edit_puts_one_in_with_the_networks_type() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Identity()).double().eval()
    config = {"in_channels": 3, "out_channels": 4, "stride": 2}
    apply_edits_(network, [{"path": "1", "kind": "channel_placement", "config": config}])
    assert network(MAPS.double()).shape == (2, 4, 3, 2)
    assert not network[1].training


def test_a_converted_network_in_another_type_is_read_again(tmp_path: Path) -> None:
    network = ghostnet.create_model("resnet20").eval()
    found, _ = ghostnet.ghostify(network, layers=["layer2.*.conv2"])
    ghostnet.save(found.bfloat16(), tmp_path / "net.safetensors")
    again = ghostnet.load(tmp_path / "net.safetensors")
    images = torch.randn(2, 3, 32, 32)
    images = images.to(next(again.parameters()).dtype)
    torch.testing.assert_close(again(images), found.to(images.dtype)(images))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ChannelPlacement(0, 4), r"`in_channels` \(=0\)"),
        (lambda: ChannelPlacement(4, 4, 1.5), r"`stride` \(=1.5\)"),  # type: ignore[arg-type]
        (lambda: ChannelPlacement.at([0, 3], in_channels=3), r"places \[0, 3\] must be integers from -1"),
        (lambda: ChannelPlacement.at([-2], in_channels=3), r"places \[-2\]"),
        (lambda: ChannelPlacement.from_config({"in_channels": 3}), r"not \['in_channels'\]"),
    ],
    ids=["none", "float", "beyond", "before", "keys"],
)
def test_bad_numbers(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
