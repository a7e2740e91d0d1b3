"""Networks of timm and torchvision by name: built, filled from checkpoints, and rebuilt from saved files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from ghostnet import ghostify, models
from ghostnet.errors import InputError


def checkpoint(model: nn.Module, path: Path, *, prefix: str = "") -> Path:
    state = {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3}, path)
    return path


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_checkpoint_fills_the_network(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = torchvision.models.squeezenet1_1().eval()
    path = checkpoint(trained, tmp_path / name, prefix="module." if name.endswith("pth") else "")
    found = models.create_from_library("torchvision:squeezenet1_1", path)
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(found(images), trained(images))


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:mobilenetv3_small_050"])
def test_the_classifier_is_the_file_s(name: str, tmp_path: Path) -> None:
    library, own = models.library_of(name) or ("", "")
    if library == "timm":
        timm = pytest.importorskip("timm")
        trained = timm.create_model(own, num_classes=7)
    else:
        trained = torchvision.models.get_model(own, num_classes=7)
    path = checkpoint(trained, tmp_path / "weights.pth")
    found = models.create_from_library(name, path)
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(found(images), trained.eval()(images))
    models.save(found, tmp_path / "again.safetensors")
    torch.testing.assert_close(models.load(tmp_path / "again.safetensors")(images), found(images))


@pytest.mark.parametrize("own", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
@pytest.mark.parametrize("classes", [21, 5])
def test_a_network_for_segmentation_is_built_filled_converted_and_saved(
    own: str, classes: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    extra = {"aux_loss": True} if own.startswith("deeplab") else {}
    trained = torchvision.models.get_model(own, weights_backbone=None, num_classes=classes, **extra).eval()
    found = models.create_from_library(f"torchvision:{own}", checkpoint(trained, tmp_path / "w.pth"))
    images = torch.randn(1, 3, 64, 64)
    wanted, given = trained(images), found(images)
    assert list(given) == list(wanted) == ["out", "aux"][: 1 + len(extra)]
    for name in wanted:
        torch.testing.assert_close(given[name], wanted[name])
    ghost, report = ghostify(found, layers=["classifier.*"], init="random")
    assert report.converted
    models.save(ghost, tmp_path / "ghost.safetensors")
    torch.testing.assert_close(
        models.load(tmp_path / "ghost.safetensors")(images)["out"], ghost(images)["out"]
    )


def test_googlenet_with_and_without_its_training_classifiers(tmp_path: Path) -> None:
    assert models.create_from_library("torchvision:googlenet").aux1 is None
    trained = torchvision.models.googlenet(init_weights=False)
    found = models.create_from_library("torchvision:googlenet", checkpoint(trained, tmp_path / "g.pth"))
    assert found.aux1 is not None
    assert found(torch.randn(1, 3, 96, 96)).shape == (1, 1000)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_without_training_classifiers_and_with_classes_of_its_own(name: str, tmp_path: Path) -> None:
    builder = torchvision.models.get_model_builder(name)
    models.save(builder(aux_logits=False, init_weights=False, num_classes=4), tmp_path / "net.safetensors")
    assert models.load(tmp_path / "net.safetensors").fc.out_features == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", r"'resnet18' names no library; write one of timm:NAME, torchvision:NAME"),
        ("keras:resnet18", r"'keras:resnet18' names no library"),
        ("torchvision:resnet19", r"unknown network of torchvision 'resnet19'; did you mean"),
        ("torchvision:", r"unknown network of torchvision ''"),
    ],
)
def test_names_that_are_none(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        models.create_from_library(name)


def test_files_of_other_networks_are_refused(tmp_path: Path) -> None:
    path = checkpoint(torchvision.models.resnet18(), tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"fc.weight is \(1000, 512\) in .*weights.pth and \(1000, 2048\)"):
        models.create_from_library("torchvision:resnet50", path)
    with pytest.raises(InputError, match=r"nothing.pth"):
        models.create_from_library("torchvision:resnet50", tmp_path / "nothing.pth")
    (tmp_path / "broken.pth").write_bytes(b"PK not a checkpoint")
    with pytest.raises(InputError, match=r"broken.pth"):
        models.create_from_library("torchvision:resnet50", tmp_path / "broken.pth")
