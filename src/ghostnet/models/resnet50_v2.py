"""The trunk of a trained ResNet-50 v2 (pre-activation; He et al. 2016b) from a file of arrays: for Table 2 and Fig. 1.

Reads the names of the ONNX model zoo's resnet50-v2 in an .npz, as many whole stages as the file holds. Every
activation is a module of its own, so that each map has a dotted name: `stages.0` puts out the first residual group's
sum, `stages.1.0.relu1` what the second group makes of it. Left out: the classifier; the network is not in the zoo.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ghostnet.errors import InputError

_BLOCKS = (3, 4, 6, 3)
_EXPANSION = 4
_KINDS = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var"}


class PreActivationBottleneck(nn.Module):
    """BN, ReLU and convolution, three times: `(N, C, H, W) -> (N, 4 * width, ceil(H / stride), ceil(W / stride))`."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * _EXPANSION
        self.bn1, self.relu1 = nn.BatchNorm2d(in_channels), nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(width), nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn3, self.relu3 = nn.BatchNorm2d(width), nn.ReLU()
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        first = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(first))))
        out = self.conv3(self.relu3(self.bn3(out)))
        return out + (x if self.downsample is None else self.downsample(first))


class ResNet50V2Trunk(nn.Module):
    """Stem and the first stages: `(N, 3, H, W) -> (N, 256 * 2^(stages - 1), H / 2^(stages + 1), W / 2^(stages + 1))`.

    Args:
        stages: 1 to 4.
    """

    def __init__(self, stages: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(3)
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1, self.relu, self.maxpool = nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        channels, parts = 64, []
        for stage, count in enumerate(_BLOCKS[:stages]):
            blocks = []
            for number in range(count):
                width, stride = 64 * 2**stage, 2 if stage and not number else 1
                blocks.append(PreActivationBottleneck(channels, width, stride))
                channels = width * _EXPANSION
            parts.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last stage's sum."""
        return self.stages(self.maxpool(self.relu(self.bn1(self.conv1(self.bn0(x))))))


def load_resnet50_v2_trunk(path: str | os.PathLike[str]) -> ResNet50V2Trunk:
    """Build the trunk that a file of arrays holds, in evaluation mode.

    Args:
        path: an .npz with the names of the ONNX model zoo's resnet50-v2 (`resnetv24_stage1_conv0_weight`, …).

    Raises:
        InputError: no such file, no .npz, or one without a whole first stage or with an array of another shape.

    Example:
        >>> trunk = load_resnet50_v2_trunk("resnet50v2_onnxzoo_stem_stage1to3.npz")  # doctest: +SKIP
        >>> trunk(torch.zeros(1, 3, 224, 224)).shape  # doctest: +SKIP
        torch.Size([1, 1024, 14, 14])
    """
    arrays = {name.split("_", 1)[-1]: array for name, array in _read(Path(path)).items()}
    whole = [stages for stages in (1, 2, 3, 4) if set(_wanted(ResNet50V2Trunk(stages))) <= set(arrays)]
    if not whole:
        lacking = next(name for name in _wanted(ResNet50V2Trunk(1)) if name not in arrays)
        raise InputError(f"{path} lacks {lacking} of a ResNet-50 v2's first stage; give another file")
    trunk = ResNet50V2Trunk(whole[-1])
    state = trunk.state_dict()
    for theirs, ours in _wanted(trunk).items():
        if arrays[theirs].shape != tuple(state[ours].shape):
            raise InputError(
                f"{path}: {theirs} has shape {arrays[theirs].shape}, which must be {tuple(state[ours].shape)}"
            )
        state[ours] = torch.from_numpy(arrays[theirs])
    trunk.load_state_dict(state)
    return trunk.eval()


def _wanted(trunk: ResNet50V2Trunk) -> dict[str, str]:
    """Return our names of all parameters and statistics by their names there."""
    return {
        _their_name(name): name for name in trunk.state_dict() if not name.endswith("num_batches_tracked")
    }


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, AttributeError) as error:
        raise InputError(f"{path} is no .npz of arrays ({error}); give the trunk's weights") from error


def _their_name(name: str) -> str:
    """Return the name of a parameter there, without the network's prefix.

    Example:
        >>> _their_name("stages.0.0.downsample.weight"), _their_name("stages.1.1.bn3.running_var")
        ('stage1_conv3_weight', 'stage2_batchnorm5_running_var')
    """
    *modules, kind = name.split(".")
    layer = modules[-1]
    if modules[0] != "stages":
        place = {"bn0": "batchnorm0", "conv1": "conv0", "bn1": "batchnorm1"}[layer]
        return f"{place}_{_kind(layer, kind)}"
    stage, block = int(modules[1]), int(modules[2])
    match = re.fullmatch(r"(conv|bn)(\d)", layer)
    # a stage's layers are counted in the order in which they are made: the first block has the shortcut's besides
    if match is None:
        number, layer_kind = 3, "conv"
    elif match[1] == "bn":
        number, layer_kind = 3 * block + int(match[2]) - 1, "batchnorm"
    else:
        number, layer_kind = 3 * block + int(match[2]) - 1 + (1 if block else 0), "conv"
    return f"stage{stage + 1}_{layer_kind}{number}_{_kind(layer, kind)}"


def _kind(layer: str, kind: str) -> str:
    if not layer.startswith("bn"):
        return kind
    return next(theirs for theirs, ours in _KINDS.items() if ours == kind)
