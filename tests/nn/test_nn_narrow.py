"""Narrowed layers compute what the whole ones do on the channels that stay; wrong numbers say so."""

from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from ghostnet.errors import InputError
from ghostnet.nn import apply_edits_
from ghostnet.nn.narrow import narrow_like, narrowed

KEPT = torch.tensor([0, 2, 3])


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 5, 3, 2, 1, padding_mode="reflect"), (2, 4, 6, 6)),
        (nn.Conv2d(5, 5, 3, groups=5, bias=False), (2, 5, 6, 6)),
        (nn.BatchNorm2d(5, eps=1e-3), (2, 5, 6, 6)),
        (BatchNormAct2d(5, eps=1e-3, act_layer=nn.SiLU), (2, 5, 6, 6)),
        (nn.Linear(4, 5), (2, 4)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_kept_outputs_are_the_old_ones(layer, shape):
    for value in layer.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    layer.eval()
    images = torch.randn(shape)
    new = narrowed(layer, None, KEPT)
    takes_all = isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    made = new(images if takes_all else images[:, KEPT])
    torch.testing.assert_close(made, layer(images)[:, KEPT])
    assert not new.training


def test_dropped_inputs_count_as_zero():
    layer, images = nn.Conv2d(4, 6, 3), torch.randn(2, 4, 5, 5)
    images[:, 1] = 0
    torch.testing.assert_close(narrowed(layer, KEPT, None)(images[:, KEPT]), layer(images))


def test_a_transposed_convolution_has_its_weight_the_other_way_round():
    layer = nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1, dilation=2)
    new = narrowed(layer, KEPT, torch.tensor([1, 2]))
    assert (new.in_channels, new.out_channels) == (3, 2)
    images = torch.randn(1, 4, 5, 5)
    images[:, 1] = 0
    torch.testing.assert_close(new(images[:, KEPT]), layer(images)[:, 1:])


def test_groups_are_kept_or_left_out_whole():
    layer = nn.Conv2d(4, 6, 3, groups=2)
    new = narrowed(layer, None, torch.tensor([3, 4, 5]))
    assert (new.in_channels, new.out_channels, new.groups) == (2, 3, 1)
    images = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(new(images[:, 2:]), layer(images)[:, 3:])


@pytest.mark.parametrize("layer", [nn.PReLU(4), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)])
def test_values_of_channels_are_taken_along(layer):
    for value in layer.state_dict().values():
        if value.ndim:
            value.copy_(torch.rand(4))
    images = torch.randn(2, 4, 3, 3)
    new = narrowed(layer.eval(), torch.tensor([1, 3]), None)
    torch.testing.assert_close(new(images[:, [1, 3]]), layer(images)[:, [1, 3]])
    assert not new.training


def test_frozen_weights_stay_frozen_and_the_random_state_is_left_alone():
    before = torch.get_rng_state()
    new = narrow_like(nn.Conv2d(4, 4, 3).requires_grad_(False), 4, 2)
    assert not new.weight.requires_grad
    torch.set_rng_state(before)


@pytest.mark.parametrize(
    ("layer", "counts", "message"),
    [
        (nn.Conv2d(4, 8, 3), (4, 9), "cannot narrow 8 channels to 9; give an integer from 1 to 8"),
        (nn.Conv2d(4, 8, 3), (0, 8), "cannot narrow 4 channels to 0"),
        (nn.BatchNorm2d(4), (3, 2), "with one map out for one in cannot have 3 in and 2 out"),
        (
            nn.Conv2d(4, 8, 3, groups=2),
            (3, 6),
            "a Conv2d with 4 maps out for 2 in cannot have 3 in and 6 out",
        ),
        (nn.Conv2d(4, 8, 3, groups=2), (2, 8), "cannot have 2 in and 8 out"),
        (
            nn.ConvTranspose2d(4, 8, 3, groups=2),
            (4, 8),
            "a ConvTranspose2d cannot be narrowed; what can be: ",
        ),
        (nn.ReLU(), (1, 1), "a ReLU cannot be narrowed"),
        # one of several weights that are no norm's would be left as it is
        (
            BatchNormAct2d(4, act_layer=nn.PReLU, act_kwargs={"num_parameters": 4}, inplace=False),
            (2, 2),
            "a BatchNormAct2d cannot",
        ),
    ],
)
def test_what_cannot_be(layer, counts, message):
    with pytest.raises(InputError, match=message):
        narrow_like(layer, *counts)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"in_channels": 4}, "needs `in_channels` and `out_channels`"),
        (None, "needs a `config` table"),
        ({"in_channels": 4, "out_channels": 99}, "cannot narrow 8 channels to 99"),
    ],
)
def test_bad_edits(config, message):
    edit = {"path": "0", "kind": "narrow", **({} if config is None else {"config": config})}
    with pytest.raises(InputError, match=message):
        apply_edits_(nn.Sequential(nn.Conv2d(4, 8, 3)), [edit])
