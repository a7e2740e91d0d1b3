"""Feature pyramids of ResNets from torchvision and timm, as they are and converted."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from ghostnet import ghostify
from ghostnet.errors import InputError
from ghostnet.models import feature_pyramid

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def _expected(model: nn.Module) -> list[torch.Tensor]:
    """Return what each stage of a classifier's own forward gives."""
    kept: list[torch.Tensor] = []
    for number in range(1, 5):
        model.get_submodule(f"layer{number}").register_forward_hook(
            lambda _m, _i, output: kept.append(output)
        )
    with torch.no_grad():
        model(IMAGES)
    return kept


@pytest.mark.parametrize(
    ("make", "channels"),
    [
        (lambda: torchvision.models.resnet18(), (64, 128, 256, 512)),
        (lambda: torchvision.models.resnext50_32x4d(), (256, 512, 1024, 2048)),
        (lambda: timm.create_model("resnet14t"), (256, 512, 1024, 2048)),
        (lambda: timm.create_model("skresnet18"), (64, 128, 256, 512)),
        (lambda: timm.create_model("seresnet18"), (64, 128, 256, 512)),
        (
            lambda: ghostify(torchvision.models.resnet18(), init="random")[0],
            (64, 128, 256, 512),
        ),
    ],
)
def test_a_resnets_stages_are_its_pyramid(make, channels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    pyramid = feature_pyramid(model)
    assert (pyramid.channels, pyramid.strides) == (channels, (4, 8, 16, 32))
    with torch.no_grad():
        found = pyramid(IMAGES)
    for maps, wanted, stride in zip(found, _expected(model), pyramid.strides, strict=True):
        torch.testing.assert_close(maps, wanted)
        assert maps.shape[2:] == (64 // stride, 96 // stride)
    assert feature_pyramid(model, strides=(8, 16)).channels == channels[1:3]


def test_blocks_without_a_plain_last_convolution_have_none() -> None:
    model = torchvision.models.resnet18()
    model.layer3 = nn.Sequential(nn.Identity())
    with pytest.raises(InputError, match="ResNet offers no feature pyramid"):
        feature_pyramid(model)


def test_a_stem_for_small_images_has_its_own_strides() -> None:
    model = torchvision.models.resnet18()
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    before = model.bn1.running_mean.clone()
    pyramid = feature_pyramid(model.train(), strides=(1, 2, 4, 8))
    assert torch.equal(model.bn1.running_mean, before)
    assert model.bn1.training
    assert [maps.shape[-1] for maps in pyramid.eval()(IMAGES)] == [96, 48, 24, 12]


def test_dilated_stages_have_no_stride_of_their_own() -> None:
    model = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True])
    with pytest.raises(InputError, match=r"ResNet offers no feature pyramid: .* strides \[4, 8, 8, 8\]"):
        feature_pyramid(model)
