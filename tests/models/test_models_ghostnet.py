"""Golden counts of GhostNet, its successors and Ghost-ResNet-50; arguments, sizes, pyramid."""

from __future__ import annotations

import math

import pytest
import timm
import torch
import torchvision
from torch import nn

import ghostnet
from ghostnet import create_model, paper, profile
from ghostnet.models import feature_pyramid
from ghostnet.models.ghostnet import TABLE_1, scaled_channels
from ghostnet.nn import fuse_reparameterised

# (width, rounding): (params in M to 3 digits, without BN in M to 3 digits, MACs in M to 2 digits)
GHOSTNET = {
    ("050", "torch"): (2.587, 2.576, 42.33),
    ("100", "torch"): (5.183, 5.161, 141.15),
    ("110", "torch"): (5.856, 5.831, 166.99),
    ("130", "torch"): (7.359, 7.330, 227.00),
    ("050", "paper"): (2.588, 2.575, 42.33),
    ("100", "paper"): (5.183, 5.158, 141.15),
    ("110", "paper"): (5.858, 5.832, 164.48),
    ("130", "paper"): (7.353, 7.322, 227.00),
}
# params in M and MACs in M of the form that is deployed; V2 and V3 as their papers print them, RepGhost as its
# authors' checkpoints are named
PUBLISHED = {
    "ghostnetv2_100": (6.1, 167),
    "ghostnetv2_130": (8.9, 269),
    "ghostnetv2_160": (12.3, 399),
    "ghostnetv3_100": (6.1, 167),
    "ghostnetv3_130": (8.9, 269),
    "ghostnetv3_160": (12.3, 399),
    "repghostnet_050": (2.3, 43),
    "repghostnet_058": (2.5, 60),
    "repghostnet_080": (3.3, 96),
    "repghostnet_100": (4.1, 142),
    "repghostnet_111": (4.5, 170),
    "repghostnet_130": (5.5, 231),
    "repghostnet_150": (6.6, 301),
    "repghostnet_200": (9.8, 516),
}
# params in M in training, as timm counts them (V3 and RepGhost with all branches)
IN_TRAINING = {
    "ghostnetv2_100": 6.16,
    "ghostnetv2_130": 8.96,
    "ghostnetv2_160": 12.39,
    "ghostnetv3_100": 8.13,
    "repghostnet_050": 2.31,
    "repghostnet_100": 4.07,
    "repghostnet_200": 9.80,
}


def norm_params(model: nn.Module) -> int:
    norms = (module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    return sum(value.numel() for norm in norms for value in norm.parameters())


@pytest.mark.parametrize(("width", "rounding"), GHOSTNET)
def test_ghostnet_counts(width, rounding):
    model = create_model(f"ghostnet_{width}", rounding=rounding)
    found = profile(model)
    bare = (found.params - norm_params(model)) / 1e6
    assert found.uncounted == []
    assert (round(found.params / 1e6, 3), round(bare, 3), round(found.macs / 1e6, 2)) == GHOSTNET[
        width, rounding
    ]


def test_ghostnet_counts_are_the_papers():
    printed = {row["model"]: row for row in paper.table(7) if row["model"].startswith("GhostNet")}
    assert len(printed) == 3
    for name, row in printed.items():
        width = f"{round(float(name.split()[1][:-1]) * 100):03d}"
        _, bare, macs = GHOSTNET[width, "paper"]
        exact = profile(create_model(f"ghostnet_{width}", rounding="paper")).macs / 1e6
        assert round(bare, 1) == row["params_m"]  # "without BN, rounded" fits
        assert math.floor(exact) == row["macs_m"]  # truncated, not rounded
        assert round(exact, 2) == macs
    backbone = {row["backbone_macs_m"] for row in paper.table(8) if row["backbone"] == "GhostNet 1.1x"}
    assert backbone == {math.floor(GHOSTNET["110", "paper"][2])} == {164}
    assert math.floor(GHOSTNET["110", "torch"][2]) == 166  # so the paper used the TensorFlow rounding


def test_table_1_is_what_is_built():
    rows = [row for row in paper.table(1) if row["operator"] == "G-bneck"]
    built = [(spec.hidden, spec.out, int(spec.squeeze_excite), spec.stride) for spec in TABLE_1]
    assert [(row["expansion"], row["out_channels"], row["se"], row["stride"]) for row in rows] == built


@pytest.mark.parametrize("width", [0.5, 1.0, 1.3])
def test_the_two_roundings_agree_on_widths_but_at_1_1(width):
    channels = {value for spec in TABLE_1 for value in (spec.hidden, spec.out)} | {16, 960}
    both = [
        [scaled_channels(c, m, rounding=r) for c in channels]
        for m in (width, 1.1)
        for r in ("torch", "paper")
    ]
    assert both[0] == both[1]
    assert both[2] != both[3]


def test_published_table_covers_every_deployed_successor():
    names = {*ghostnet.list_models("ghostnetv*"), *ghostnet.list_models("repghostnet_*")}
    assert names == {*PUBLISHED, "ghostnetv3_050"}  # whose counts nobody printed


@pytest.mark.parametrize("name", PUBLISHED)
def test_successor_counts(name):
    model = create_model(name).eval()
    if name in IN_TRAINING:
        assert round(profile(model, (3, 64, 64)).params / 1e6, 2) == IN_TRAINING[name]
    found = profile(model if "v2" in name else fuse_reparameterised(model))
    params, macs = PUBLISHED[name]
    assert round(found.macs / 1e6) == macs
    assert params in (round(found.params / 1e6, 1), math.floor(found.params / 1e5) / 10)  # V2 and V3 truncate


def test_timm_counts_the_same():
    for name in ("ghostnet_050", "ghostnet_130", "ghostnetv3_160", "repghostnet_111"):
        with torch.device("meta"):
            ours, theirs = create_model(name), timm.create_model(name)
        assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


# Table 6: (params in M as counted, as printed), (MACs in G as counted, as printed)
@pytest.mark.parametrize(
    ("ratio", "params", "macs", "row"),
    [(1, 25.56, 4.09, "ResNet-50"), (2, 13.95, 2.15, "s=2"), (4, 8.15, 1.18, "s=4")],
)
def test_ghost_resnet50_counts_and_their_discrepancy(ratio, params, macs, row):
    model = create_model("resnet50") if ratio == 1 else create_model("ghost_resnet50", ratio=ratio)
    found = profile(model)
    assert (round(found.params / 1e6, 2), round(found.macs / 1e9, 2)) == (params, macs)
    printed = next(line for line in paper.table(6) if line["model"] == row or f"({row})" in line["model"])
    assert abs(found.macs / 1e9 - printed["macs_b"]) < 0.06
    agrees = abs(params - printed["params_m"]) < 0.06
    assert agrees == (ratio == 1)  # 13.0 and 6.5 M are printed: not reached, see models/resnet50.py
    if ratio > 1:
        # a ghosted classifier (12.93 and 6.62 M) would come nearer to the printed params, but not reach them either
        dense = 2048 * 1000
        ghosted = 2048 * 1000 // ratio + 1000 * 9 * (ratio - 1) // ratio
        assert abs(params - (dense - ghosted) / 1e6 - {2: 12.93, 4: 6.62}[ratio]) < 0.01


@torch.no_grad()
def test_torchvisions_resnet50_weights_fit(tmp_path):
    theirs = torchvision.models.resnet50(weights=None, num_classes=6).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    ours = create_model("resnet50", num_classes=6, weights=tmp_path / "resnet50.pth")
    x = torch.randn(1, 3, 64, 64)
    assert theirs(x).abs().max() > 0.1
    assert torch.allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["ghostnet_050", "ghostnetv2_100", "ghostnetv3_050", "repghostnet_050"])
@pytest.mark.parametrize("size", [(32, 32), (33, 57)])
def test_any_input_size_channels_and_classes(name, size):
    model = create_model(name, num_classes=7, in_chans=1, dropout=0.0, width_mult=0.35).eval()
    with torch.no_grad():
        x = torch.randn(2, 1, *size)
        assert model(x).shape == (2, 7)
        maps = model.forward_features(x)
    assert maps.shape[2:] == (-(-size[0] // 32), -(-size[1] // 32))


def test_ratio_and_kernel_change_the_counts():
    base = profile(create_model("ghostnet_050"), (3, 64, 64))
    wide = profile(create_model("ghostnet_050", cheap_kernel_size=5), (3, 64, 64))
    fewer = profile(create_model("ghostnet_050", ratio=4), (3, 64, 64))
    assert fewer.macs < base.macs < wide.macs


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"rounding": "tourch"}, r"unknown rounding 'tourch'; did you mean 'torch'"),
        ({"dropout": 1.0}, r"`dropout` \(=1.0\) must be in \[0, 1\)"),
        ({"in_chans": 0}, r"`in_chans` \(=0\) must be an integer >= 1"),
        ({"width_mult": 0}, r"`width_mult`"),
        ({"ratio": 0}, r"`ratio` \(=0\)"),
        ({"cheap_kernel_size": 2}, r"`cheap_kernel_size` \(=2\)"),
    ],
)
def test_bad_arguments(args, message):
    with pytest.raises(ghostnet.InputError, match=message):
        create_model("ghostnet_050", **args)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("ghostnet_100", (24, 40, 112, 160)),
        ("ghostnetv2_100", (24, 40, 112, 160)),
        ("resnet50", (256, 512, 1024, 2048)),
    ],
)
@torch.no_grad()
def test_pyramid(name, channels):
    model = create_model(name).eval()
    pyramid = feature_pyramid(model)
    assert not pyramid.training
    assert (pyramid.channels, pyramid.strides) == (channels, (4, 8, 16, 32))
    x = torch.randn(1, 3, 96, 70)
    maps = pyramid(x)
    expected = [(1, c, -(-96 // s), -(-70 // s)) for c, s in zip(channels, pyramid.strides, strict=True)]
    assert [tuple(level.shape) for level in maps] == expected
    if name != "resnet50":  # the same modules in the same order: the trunk's end is what the classifier reads
        assert torch.equal(model.last(maps[-1]), model.forward_features(x))
    else:
        assert torch.equal(maps[-1], model.forward_features(x))


def test_pyramid_shares_weights_and_leaves_nothing_without_gradient():
    model = create_model("ghostnet_050")
    pyramid = feature_pyramid(model, strides=(8, 16))
    assert pyramid.channels == (20, 56)
    own = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in pyramid.parameters()} < own
    sum(level.square().sum() for level in pyramid(torch.randn(2, 3, 64, 64))[-1:]).backward()
    assert all(parameter.grad is not None for parameter in pyramid.parameters())


def test_pyramid_errors():
    with pytest.raises(
        ghostnet.InputError, match=r"`strides` \(=\(4, 64\)\) must be ascending and among \[2, 4, 8"
    ):
        feature_pyramid(create_model("ghostnet_050"), strides=(4, 64))
    with pytest.raises(ghostnet.InputError, match=r"CifarVGG offers no feature pyramid; take a ghostnet_"):
        feature_pyramid(create_model("vgg16"))


def test_a_fused_network_is_saved_and_loaded(tmp_path):
    model = fuse_reparameterised(create_model("ghostnetv3_050", num_classes=3).eval())
    ghostnet.save(model, tmp_path / "fused.safetensors")
    loaded = ghostnet.load(tmp_path / "fused.safetensors")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in model.parameters())
