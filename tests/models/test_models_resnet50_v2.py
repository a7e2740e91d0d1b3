"""The trunk of a ResNet-50 v2 from arrays: which are taken for which, as many whole stages as there are, bad files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ghostnet.errors import InputError
from ghostnet.models import load_resnet50_v2_trunk
from ghostnet.models.resnet50_v2 import ResNet50V2Trunk, _wanted


def _arrays(stages: int) -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    trunk = ResNet50V2Trunk(stages)
    state = trunk.state_dict()
    return {
        f"resnetv24_{theirs}": torch.rand_like(state[ours]).numpy() for theirs, ours in _wanted(trunk).items()
    }


def test_names_are_those_of_the_zoo() -> None:
    names = list(_wanted(ResNet50V2Trunk(2)))
    assert len(names) == len(set(names))
    convolutions = [name for name in names if "stage1_conv" in name]
    assert sorted(convolutions) == [f"stage1_conv{number}_weight" for number in range(10)]
    norms = {name.split("_")[1] for name in names if name.startswith("stage2_batchnorm")}
    assert norms == {f"batchnorm{number}" for number in range(12)}
    assert {"batchnorm0_gamma", "conv0_weight", "batchnorm1_running_var"} <= set(names)
    wanted = _wanted(ResNet50V2Trunk(1))
    assert (
        wanted["stage1_conv3_weight"] == "stages.0.0.downsample.weight"
    )  # the shortcut's is made after conv2
    assert wanted["stage1_conv4_weight"] == "stages.0.1.conv1.weight"


def test_whole_stages_are_loaded(tmp_path: Path) -> None:
    arrays = _arrays(1) | {"resnetv24_stage2_conv0_weight": np.zeros((128, 256, 1, 1), np.float32)}
    np.savez(tmp_path / "trunk.npz", **arrays)
    trunk = load_resnet50_v2_trunk(tmp_path / "trunk.npz")
    assert len(trunk.stages) == 1
    assert not trunk.training
    assert np.array_equal(
        trunk.stages[0][2].conv2.weight.detach().numpy(), arrays["resnetv24_stage1_conv8_weight"]
    )
    with torch.no_grad():
        assert trunk(torch.zeros(1, 3, 64, 64)).shape == (1, 256, 16, 16)


def test_block_is_pre_activation() -> None:
    block = ResNet50V2Trunk(1).eval().stages[0][1]
    x = torch.randn(1, 256, 8, 8)
    with torch.no_grad():
        block.conv3.weight.zero_()
        torch.testing.assert_close(block(x), x)  # nothing follows the sum


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "trunk.npz"
    with pytest.raises(InputError, match="there is no file"):
        load_resnet50_v2_trunk(path)
    path.write_text("text")
    with pytest.raises(InputError, match=r"is no \.npz of arrays"):
        load_resnet50_v2_trunk(path)
    arrays = _arrays(1)
    np.savez(path, **{**arrays, "resnetv24_conv0_weight": np.zeros((64, 3, 3, 3), np.float32)})
    with pytest.raises(
        InputError, match=r"conv0_weight has shape \(64, 3, 3, 3\), which must be \(64, 3, 7, 7\)"
    ):
        load_resnet50_v2_trunk(path)
    del arrays["resnetv24_stage1_conv9_weight"]
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="lacks stage1_conv9_weight"):
        load_resnet50_v2_trunk(path)
