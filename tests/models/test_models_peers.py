"""The peers of Table 7 against other implementations with the same random weights, and through save and load."""

from __future__ import annotations

import functools
import importlib

import pytest
import timm
import torch
import torchvision
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

import ghostnet
from ghostnet.models import model_info
from ghostnet.models.table7_networks import TABLE7

PEERS = sorted(network.name for network in TABLE7.values() if not network.name.startswith("ghostnet"))

# timm's own notation, written down from the papers and not from our tables
FBNET_B = [
    ["ir_r1_k3_s1_e1_c16"],
    ["ir_r1_k3_s2_e6_c24", "ir_r1_k5_s1_e1_c24", "ir_r2_k3_s1_e1_c24"],
    ["ir_r1_k5_s2_e6_c32", "ir_r1_k5_s1_e3_c32", "ir_r1_k3_s1_e6_c32", "ir_r1_k5_s1_e6_c32"],
    ["ir_r1_k5_s2_e6_c64", "ir_r1_k5_s1_e1_c64", "ir_r1_k5_s1_e3_c64"],
    ["ir_r1_k5_s1_e6_c112", "ir_r1_k3_s1_e1_c112", "ir_r1_k5_s1_e1_c112", "ir_r1_k5_s1_e3_c112"],
    ["ir_r1_k5_s2_e6_c184", "ir_r1_k5_s1_e1_c184", "ir_r2_k5_s1_e6_c184"],
    ["ir_r1_k3_s1_e6_c352"],
]
PROXYLESS = [
    ["ds_r1_k3_s1_c16"],
    ["ir_r1_k5_s2_e3_c32", "ir_r1_k3_s1_e3_c32"],
    ["ir_r1_k7_s2_e3_c40", "ir_r1_k3_s1_e3_c40", "ir_r2_k5_s1_e3_c40"],
    ["ir_r1_k7_s2_e6_c80", "ir_r3_k5_s1_e3_c80"],
    ["ir_r1_k5_s1_e6_c96", "ir_r3_k5_s1_e3_c96"],
    ["ir_r2_k7_s2_e6_c192", "ir_r2_k7_s1_e3_c192"],
    ["ir_r1_k7_s1_e6_c320"],
]


def randomise_(model: nn.Module) -> nn.Module:
    """Random weights of a scale that keeps signals alive, random batch-norm statistics; evaluation mode."""
    generator = torch.Generator().manual_seed(11)

    def normal(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator)

    with torch.no_grad():
        for module in layers_of(model):
            for name, value in module.state_dict().items():
                if value.ndim > 1:
                    value.copy_(normal(value.shape) * (2 / value[0].numel()) ** 0.5)
                elif name == "running_var" or (name == "weight" and isinstance(module, nn.BatchNorm2d)):
                    value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
                elif value.is_floating_point():
                    value.copy_(0.1 * normal(value.shape))
    return model.eval()


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Layers with weights in the order of our definitions: within a unit, the shortcut's come first."""
    named = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear)
    ]
    units = [".".join(name.split(".")[:3]) for name, _ in named]
    order = sorted(
        range(len(named)), key=lambda i: (units.index(units[i]), ".shortcut" not in named[i][0], i)
    )
    return [named[i][1] for i in order]


def assert_same_logits(ours: nn.Module, theirs: nn.Module, size: int) -> None:
    randomise_(ours)
    theirs.eval()
    pairs = [*zip(layers_of(ours), layers_of(theirs), strict=True)]
    assert len(pairs) > 50
    for mine, other in pairs:
        state = {key: value for key, value in mine.state_dict().items() if key in other.state_dict()}
        other.load_state_dict(state)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
    scale = expected.std()
    assert scale > 0.05
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-5)


def _efficientnet(blocks: list[list[str]], **args: object) -> nn.Module:
    return EfficientNet(decode_arch_def(blocks), **args)


def test_shufflenet_v2_half_is_torchvisions() -> None:
    theirs = torchvision.models.shufflenet_v2_x0_5(weights=None)
    assert_same_logits(ghostnet.create_model("shufflenetv2_x0_5"), theirs, 96)


def test_mobilenet_v1_is_timms() -> None:
    theirs = timm.create_model("mobilenetv1_100", act_layer=nn.ReLU)
    assert_same_logits(ghostnet.create_model("mobilenetv1_100"), theirs, 96)


def test_fbnet_b_is_timms_blocks() -> None:
    theirs = _efficientnet(FBNET_B, stem_size=16, num_features=1984, act_layer=nn.ReLU)
    assert_same_logits(ghostnet.create_model("fbnet_b"), theirs, 96)


def test_proxylessnas_is_timms_blocks() -> None:
    norm = functools.partial(nn.BatchNorm2d, eps=1e-3)
    theirs = _efficientnet(PROXYLESS, stem_size=32, num_features=1280, act_layer=nn.ReLU6, norm_layer=norm)
    assert_same_logits(ghostnet.create_model("proxylessnas_mobile"), theirs, 96)


@pytest.mark.parametrize(
    ("name", "module", "builder", "args"),
    [
        ("shufflenetv1_g3_x1_0", "shufflenet", "get_shufflenet", {"groups": 3, "width_scale": 1.0}),
        (
            "shufflenetv1_g8_x0_5",
            "shufflenet",
            "ShuffleNet",
            {"channels": [[192] * 4, [384] * 8, [768] * 4], "init_block_channels": 16, "groups": 8},
        ),
        ("shufflenetv2_x1_0", "shufflenetv2b", "get_shufflenetv2b", {"width_scale": 1.0}),
        (
            "shufflenetv2_x1_5",
            "shufflenetv2b",
            "ShuffleNetV2b",
            {
                "channels": [[176] * 4, [352] * 8, [704] * 4],
                "init_block_channels": 24,
                "final_block_channels": 1024,
            },
        ),
        ("mobilenetv1_050", "mobilenet", "get_mobilenet", {"width_scale": 0.5}),
        ("proxylessnas_mobile", "proxylessnas", "get_proxylessnas", {"version": "mobile"}),
    ],
)
def test_peers_are_pytorchcvs(name: str, module: str, builder: str, args: dict[str, object]) -> None:
    pytest.importorskip("pytorchcv")
    theirs = getattr(importlib.import_module(f"pytorchcv.models.{module}"), builder)(**args)
    assert_same_logits(ghostnet.create_model(name), theirs, 224)


def test_every_peer_survives_save_and_load(tmp_path) -> None:
    assert len(PEERS) == 16
    args_of = {network.name: network.args for network in TABLE7.values()}
    for name in PEERS:
        assert model_info(name).input_size == (3, 224, 224)
        assert model_info(name).num_classes == 1000
        model = randomise_(ghostnet.create_model(name, num_classes=3, **args_of[name]))
        path = tmp_path / f"{name}.safetensors"
        ghostnet.save(model, path)
        loaded = ghostnet.load(path)
        images = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(model(images), loaded(images))
        path.unlink()


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("mobilenetv2_060", {"divisor": 0}, r"`divisor` \(=0\) must be an integer >= 1; MobileNetV2 uses 8"),
        ("mobilenetv3_small_075", {"head_channels": True}, r"`head_channels` \(=True\).*weights have 1024"),
        ("fenet_100", {"head_channels": 1.5}, r"`head_channels` \(=1.5\).*the paper has 1380"),
        ("fenet_100", {"width_mult": 0}, r"`width_mult` \(=0\)"),
    ],
)
def test_bad_arguments(name: str, args: dict[str, object], message: str) -> None:
    with pytest.raises(ghostnet.InputError, match=message):
        ghostnet.create_model(name, **args)
