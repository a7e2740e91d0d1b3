"""The registry: names, near matches, arguments."""

import pytest
import torch

import ghostnet
from ghostnet.models import create_from_library, create_model, model_info


def _small(name):
    """A size on which every network of the zoo runs quickly; none of ours depends on it."""
    channels, height, width = model_info(name).input_size
    return channels, min(height, 64), min(width, 64)


def test_every_name_builds_and_classifies():
    names = ghostnet.list_models()
    assert len(names) >= 8
    for name in names:
        info = model_info(name)
        model = ghostnet.create_model(name, num_classes=7).eval()
        with torch.no_grad():
            assert model(torch.randn(2, *_small(name))).shape == (2, 7)
        assert info.summary


def test_every_parameter_of_every_model_gets_a_gradient():
    for name in ghostnet.list_models():
        model = ghostnet.create_model(name)
        model(torch.randn(4, *_small(name))).square().sum().backward()
        assert [key for key, value in model.named_parameters() if value.grad is None] == []


def test_pattern_selects():
    assert ghostnet.list_models("ghost_resnet5*") == ["ghost_resnet50", "ghost_resnet56"]


def test_unknown_model_lists_near_matches():
    with pytest.raises(ghostnet.InputError, match=r"unknown model 'resnet65'; did you mean .*'resnet56'"):
        ghostnet.create_model("resnet65")


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
def test_a_network_of_a_library_is_no_network_of_the_zoo(name):
    for function in (create_model, model_info):
        with pytest.raises(
            ghostnet.InputError,
            match=rf"'{name}' is no network .*create_outside of ghostnet.models builds it",
        ):
            function(name)
    assert create_from_library(name).fc.out_features == 1000


def test_unknown_argument_lists_near_matches():
    with pytest.raises(
        ghostnet.InputError, match=r"unknown argument .* 'with_mult'; did you mean 'width_mult'"
    ):
        ghostnet.create_model("vgg16", with_mult=2)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("features_only", "models.feature_pyramid"),
        ("out_indices", "models.feature_pyramid"),
        ("global_pool", r"model.forward_features\(images\)"),
    ],
)
def test_arguments_of_timm_name_what_does_the_same_here(name, way):
    with pytest.raises(ghostnet.InputError, match=rf"unknown argument .* '{name}', which is timm's; {way}"):
        ghostnet.create_model("ghostnet_100", **{name: True})


@pytest.mark.parametrize("classes", [0, -1, 2.0, True])
def test_bad_number_of_classes(classes):
    with pytest.raises(ghostnet.InputError, match=r"num_classes"):
        ghostnet.create_model("resnet20", num_classes=classes)


@pytest.mark.parametrize("width", [0, -1, float("nan"), "wide"])
def test_bad_width(width):
    with pytest.raises(ghostnet.InputError, match=r"width_mult"):
        ghostnet.create_model("resnet20", width_mult=width)


@pytest.mark.parametrize(
    "name", ["resnet20", "ghost_resnet56", "vgg16", "ghost_vgg16", "resnet9_050", "ghost_resnet9_050"]
)
def test_networks_for_cifar_take_other_images_too(name):
    model = ghostnet.create_model(name, in_chans=2, num_classes=3).eval()
    assert model(torch.zeros(1, 2, 32, 32)).shape == (1, 3)
    assert model.ghostnet_origin["input_size"][0] == 2
    with pytest.raises(ghostnet.InputError, match=r"`in_chans` \(=0\) must be an integer >= 1"):
        ghostnet.create_model(name, in_chans=0)


def test_the_input_size_follows_the_channels():
    model = ghostnet.create_model("ghostnet_050", in_chans=1)
    assert model.ghostnet_origin["input_size"] == [1, 224, 224]
