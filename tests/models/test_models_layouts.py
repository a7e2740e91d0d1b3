"""Parity with timm and with an independent PaddleClas-shaped reading, with random weights and batch-norm statistics."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghostnet
from ghostnet.models import layouts, to_layout
from ghostnet.models.weights import fill_, open_weights

SIZE = 96  # every stage has more than one pixel, and the test stays quick
WIDTHS = ("ghostnet_050", "ghostnet_100", "ghostnet_130")
SUCCESSORS = ("ghostnetv2_100", "ghostnetv3_050", "repghostnet_058", "repghostnet_100")


def randomise_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and affine parameters; statistics of a random batch, then each moved at random.

    Statistics drawn from nothing would let activations grow over 40 layers until float32 itself differs by 1e-5.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.dim() > 1:
                value.copy_(noise * value[0].numel() ** -0.5)
            else:
                value.copy_(0.2 * noise + float(name.endswith("weight")))
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None
        model.train()(torch.randn(4, 3, 64, 64, generator=generator))
        for norm in norms:
            norm.momentum = 0.1
            norm.running_mean += 0.2 * torch.randn(norm.num_features, generator=generator)
            norm.running_var *= 0.5 + torch.rand(norm.num_features, generator=generator)
            norm.running_var.clamp_(min=0.5)  # a map that was zero in the batch would be raised 300-fold
    return model.eval()


def images(seed: int = 1) -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def assert_logits_agree(first: Tensor, second: Tensor) -> None:
    assert first.abs().max() > 0.1
    assert second.abs().max() < 20
    assert (first - second).abs().max() <= 1e-5


@pytest.mark.parametrize("name", [*WIDTHS, *SUCCESSORS])
@torch.no_grad()
def test_logits_equal_timms_in_both_directions(name, tmp_path):
    # the sum of eight branches depends on its order by more than 1e-5 in single precision
    dtype = torch.float32 if name in WIDTHS else torch.float64
    x = images().to(dtype)
    theirs = randomise_(timm.create_model(name))
    path = tmp_path / "state.pth"
    torch.save(theirs.state_dict(), path)
    ours = ghostnet.create_model(name, weights=path)
    assert not ours.training
    assert_logits_agree(ours.to(dtype)(x), theirs.to(dtype)(x))

    other = randomise_(ghostnet.create_model(name), seed=2)
    back = timm.create_model(name).eval()
    back.load_state_dict(to_layout(other, "timm"))
    assert_logits_agree(back.to(dtype)(x), other.to(dtype)(x))


@pytest.mark.parametrize("name", ["ghostnet_100", "ghostnetv3_100", "repghostnet_200", "ghostnetv2_160"])
def test_names_map_one_to_one(name):
    with torch.device("meta"):
        ours, theirs = ghostnet.create_model(name).state_dict(), timm.create_model(name).state_dict()
    names = layouts.names_in("timm", ours)
    assert sorted(names.values()) == sorted(theirs)
    assert {key: tuple(ours[key].shape) for key in ours} == {
        key: tuple(theirs[value].shape) for key, value in names.items()
    }


def paddle_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in to_layout(model, "paddle").items()}


def paddle_logits(arrays: dict[str, np.ndarray], x: Tensor) -> Tensor:
    """GhostNet as PaddleClas defines it, from its arrays alone: no module or mapping of ours."""
    values = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def layer(x: Tensor, name: str, *, stride: int = 1, act: bool = False) -> Tensor:
        weight = values[f"{name}._conv.weight"]
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)
        mean, variance, scale, shift = (
            values[f"{name}._batch_norm.{part}"] for part in ("_mean", "_variance", "weight", "bias")
        )
        x = F.batch_norm(x, mean, variance, scale, shift)
        return F.relu(x) if act else x

    def module(x: Tensor, name: str, *, act: bool) -> Tensor:
        primary = layer(x, f"{name}.primary_conv", act=act)
        return torch.cat([primary, layer(primary, f"{name}.cheap_operation", act=act)], 1)

    def gate(x: Tensor, name: str) -> Tensor:
        hidden = x.mean((2, 3)) @ values[f"{name}.squeeze.weight"] + values[f"{name}.squeeze.bias"]
        hidden = F.relu(hidden) @ values[f"{name}.excitation.weight"] + values[f"{name}.excitation.bias"]
        return hidden.clamp(0, 1)[:, :, None, None]

    x = layer(x, "conv1", stride=2, act=True)
    for index in range(16):
        name = f"_ghostbottleneck_{index}"
        stride = 2 if f"{name}.depthwise_conv._conv.weight" in values else 1
        out = module(x, f"{name}.ghost_module_1", act=True)
        if stride == 2:
            out = layer(out, f"{name}.depthwise_conv", stride=2)
        if f"{name}.se_block.squeeze.weight" in values:
            out = out * gate(out, f"{name}.se_block")
        out = module(out, f"{name}.ghost_module_2", act=False)
        if f"{name}.shortcut_conv._conv.weight" in values:
            x = layer(layer(x, f"{name}.shortcut_depthwise", stride=stride), f"{name}.shortcut_conv")
        x = out + x
    x = layer(x, "conv_last", act=True).mean((2, 3), keepdim=True)
    return layer(x, "fc_0", act=True).flatten(1) @ values["fc_1.weight"] + values["fc_1.bias"]


@pytest.mark.parametrize("name", WIDTHS)
@torch.no_grad()
def test_paddles_layout_in_both_directions(name, tmp_path):
    source = randomise_(ghostnet.create_model(name, rounding="paper"))
    arrays = paddle_arrays(source)
    assert arrays["fc_1.weight"].shape == (1280, 1000)
    assert_logits_agree(source(images()), paddle_logits(arrays, images()))

    path = tmp_path / "GhostNet.pdparams"
    table = dict.fromkeys(arrays, "linear_0.w_0")
    path.write_bytes(pickle.dumps({**arrays, "StructuredToParameterName@@": table}, protocol=2))
    loaded = ghostnet.create_model(name, weights=path)  # the form follows from the file
    assert loaded.ghostnet_origin["args"]["rounding"] == "paper"
    assert torch.equal(loaded(images()), source(images()))


@torch.no_grad()
def test_the_same_weights_from_every_kind_of_file(tmp_path):
    source = randomise_(ghostnet.create_model("ghostnet_050", num_classes=5))
    expected = source(images())
    state = to_layout(source, "timm")
    from safetensors.torch import save_file

    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "a.pth.tar"
    )
    save_file(state, tmp_path / "b.safetensors")
    np.savez(tmp_path / "c.npz", **{key: value.numpy() for key, value in state.items()})
    ghostnet.save(source, tmp_path / "d.safetensors")
    torch.save(source.state_dict(), tmp_path / "e.pth")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 5
    for path in files:
        loaded = ghostnet.create_model("ghostnet_050", num_classes=5, weights=path)
        assert torch.equal(loaded(images()), expected), path.name


def test_the_authors_v3_checkpoint_names_are_cleaned(tmp_path):
    source = randomise_(ghostnet.create_model("ghostnetv3_050", num_classes=2))
    state = {
        key.replace(".bn1.", ".bn.") if "_rpr_" in key else key: value
        for key, value in to_layout(source, "timm").items()
    }
    assert any("_rpr_conv.0.bn.weight" in key for key in state)
    state["conv_stem.total_ops"] = torch.zeros(1)
    torch.save(state, tmp_path / "v3.pth")
    loaded = ghostnet.create_model("ghostnetv3_050", num_classes=2, weights=tmp_path / "v3.pth")
    own = loaded.state_dict()
    for key, value in source.state_dict().items():
        assert torch.equal(own[key], value)


def test_a_layout_that_cannot_hold_the_network():
    with pytest.raises(ghostnet.InputError, match=r"unknown layout 'tim'; did you mean 'timm'"):
        to_layout(ghostnet.create_model("ghostnet_050"), "tim")
    with pytest.raises(
        ghostnet.InputError, match=r"TensorFlow form; build the network with rounding='paper'"
    ):
        to_layout(ghostnet.create_model("ghostnet_050"), "paddle")
    with pytest.raises(ghostnet.InputError, match=r"PyTorch form; build the network with rounding='torch'"):
        to_layout(ghostnet.create_model("ghostnet_050", rounding="paper"), "timm")
    with pytest.raises(ghostnet.InputError, match=r"CifarResNet is no GhostNet of the zoo"):
        to_layout(ghostnet.create_model("resnet20"), "timm")
    fused = ghostnet.nn.fuse_reparameterised(ghostnet.create_model("repghostnet_050"))
    with pytest.raises(ghostnet.InputError, match=r"converted or fused network has no other layout"):
        to_layout(fused, "timm")


def test_forms_are_not_mixed(tmp_path):
    torch_form, paper_form = (ghostnet.create_model("ghostnet_050", rounding=r) for r in ("torch", "paper"))
    torch.save(to_layout(torch_form, "timm"), tmp_path / "torch.pth")
    np.savez(tmp_path / "paddle.npz", **paddle_arrays(paper_form))
    with pytest.raises(
        ghostnet.InputError, match=r"PyTorch form; leave out `rounding` or give rounding='torch'"
    ):
        ghostnet.create_model("ghostnet_050", rounding="paper", weights=tmp_path / "torch.pth")
    with pytest.raises(ghostnet.InputError, match=r"PaddleClas's form; leave out `rounding`"):
        ghostnet.create_model("ghostnet_050", rounding="torch", weights=tmp_path / "paddle.npz")
    fill_(paper_form, open_weights("ghostnet_050", tmp_path / "paddle.npz"))
