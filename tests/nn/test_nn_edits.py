"""Replaying edits: the replaced network computes what the edited one did, and bad edits say so."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from ghostnet.errors import InputError
from ghostnet.nn import GhostConv2d, apply_edits_, replace_module_
from ghostnet.nn.edits import record_edits_, recorded_edits


def _network() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ModuleDict({"main": block})["main"])


def test_edits_replay_through_json_and_state_dict():
    edited = _network()
    ghost = GhostConv2d(4, 6, 3, padding=1)
    ghost.set_channel_order_(torch.tensor([5, 4, 3, 2, 1, 0]))
    edits = [
        {"path": "1.0", "kind": "ghost_conv2d", "config": ghost.config()},
        {"path": "1.1", "kind": "identity"},
    ]
    replace_module_(edited, "1.0", ghost)
    replace_module_(edited, "1.1", nn.Identity())
    fresh = _network()
    assert apply_edits_(fresh, json.loads(json.dumps(edits))) is fresh
    assert isinstance(fresh[1][1], nn.Identity)
    fresh.load_state_dict(edited.state_dict())
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(fresh(x), edited(x))


def test_later_edits_see_earlier_ones():
    network = _network()
    config = GhostConv2d(4, 6, 3, padding=1).config()
    apply_edits_(
        network,
        [
            {"path": "1.0", "kind": "ghost_conv2d", "config": config},
            {"path": "1.0.cheap_operation", "kind": "identity"},
        ],
    )
    assert isinstance(network[1][0].cheap_operation, nn.Identity)


def test_type_and_mode_of_the_replaced_module_are_kept():
    network = _network().double().eval()
    apply_edits_(
        network, [{"path": "1.0", "kind": "ghost_conv2d", "config": GhostConv2d(4, 6, 3, padding=1).config()}]
    )
    assert network[1][0].primary_conv.weight.dtype == torch.float64
    assert not network[1][0].training


def test_a_name_that_the_container_also_uses():
    network = nn.ModuleDict({"items_": nn.Conv2d(1, 2, 1)})
    replace_module_(network, "items_", nn.Identity())
    assert isinstance(network["items_"], nn.Identity)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            {"path": "1.0", "kind": "ghost_conv"},
            "unknown edit kind 'ghost_conv'; did you mean 'ghost_conv2d'",
        ),
        ({"path": "1.7", "kind": "identity"}, "unknown module path '1.7'; did you mean"),
        ({"path": "", "kind": "identity"}, "`path` is empty"),
        ({"path": "1.0"}, "needs `path` and `kind`"),
        ("1.0", "needs `path` and `kind`"),
        ({"path": "1.0", "kind": "ghost_conv2d"}, "the edit of '1.0' needs a `config` table"),
    ],
)
def test_bad_edits(edit, message):
    with pytest.raises(InputError, match=message):
        apply_edits_(_network(), [edit])


def test_a_part_of_an_edited_network_tells_of_its_own_edits():
    edited = _network()
    replace_module_(edited, "1.0", ghost := GhostConv2d(4, 6, 3, padding=1))
    record_edits_(edited, [{"path": "1.0", "kind": "ghost_conv2d", "config": ghost.config()}])
    assert [edit["path"] for edit in recorded_edits(edited[1])] == ["0"]
    wrapped = nn.Sequential(nn.Identity(), edited[1])
    assert [edit["path"] for edit in recorded_edits(wrapped)] == ["1.0"]
    assert [edit["path"] for edit in recorded_edits(nn.Sequential(edited))] == ["0.1.0"]  # once
    record_edits_(wrapped, [])  # as a detector does, whose origin holds them
    assert recorded_edits(wrapped) == []
