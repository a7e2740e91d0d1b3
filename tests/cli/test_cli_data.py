"""What the verbs need of images: normalisation by name, and counts that make sense."""

from __future__ import annotations

import pytest
from torch import nn

import ghostnet
from ghostnet.cli.network import input_size_of, parse_size
from ghostnet.errors import InputError


def test_normalisation_comes_from_the_option_then_the_file() -> None:
    from ghostnet.cli.cifar10 import normalisation_of

    model = nn.Identity()
    plain = normalisation_of(model, None)
    model.ghostnet_info = {"mean": [0.0, 0.1, 0.2], "std": [1.0, 1.0, 1.0]}  # type: ignore[assignment]
    assert normalisation_of(model, None) == ((0.0, 0.1, 0.2), (1.0, 1.0, 1.0))
    assert normalisation_of(model, "cifar10") == plain
    assert normalisation_of(model, "imagenet")[0] == (0.485, 0.456, 0.406)
    with pytest.raises(InputError, match="unknown normalisation 'image'; did you mean 'imagenet'"):
        normalisation_of(model, "image")


def test_calibration_count_is_checked_before_the_data_is_loaded() -> None:
    from ghostnet.cli.cifar10 import calibration_batches

    with pytest.raises(InputError, match=r"--images \(=0\) must be between 1 and 50000"):
        calibration_batches(None, 0, ((0.5,) * 3, (0.5,) * 3))


@pytest.mark.parametrize("given", ["", "3", "3,0,1", "3,-1,4", "a,b,c", "1,2,3,4", "3,2.5,1"])
def test_sizes_that_are_none(given: str) -> None:
    with pytest.raises(InputError, match="must be three integers >= 1"):
        parse_size(given)


def test_input_size_of_a_network_from_elsewhere_is_imagenets() -> None:
    assert input_size_of(nn.Identity(), None) == (3, 224, 224)
    assert input_size_of(nn.Identity(), "1x28x28") == (1, 28, 28)


def test_input_size_is_the_one_that_the_file_says_then_timms() -> None:
    trained = ghostnet.create_model("resnet20")
    trained.ghostnet_info = {"image_size": 48}  # type: ignore[assignment]  # as `train image_size=48` leaves it
    assert input_size_of(trained, None) == (3, 48, 48)
    assert input_size_of(trained, "3,40,32") == (3, 40, 32)
    theirs = nn.Identity()
    theirs.pretrained_cfg = {"input_size": (3, 240, 240)}  # type: ignore[assignment]
    assert input_size_of(theirs, None) == (3, 240, 240)
