"""Networks as C: each kernel against PyTorch, a program without Python, memory of any content, compilers that fail."""

import json
import os
import platform
import shutil
import stat
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from c_programs import answers_under, apart
from PIL import Image
from torch import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
if not shutil.which("cc"):
    pytest.skip("there is no C compiler", allow_module_level=True)

import ghostnet
from ghostnet.deploy import Session, benchmark, export, load
from ghostnet.deploy.c_source import compiler
from ghostnet.errors import InputError
from ghostnet.nn import GhostConv2d

pytestmark = pytest.mark.xdist_group("c")
SIZE = (11, 13, 10)


class Does(nn.Module):
    """A function of the maps as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.function(maps)


class ReadsSomeChannels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.whole, self.some = convolution(11, 8, 3, padding=1), convolution(2, 8, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.whole(maps).relu() * maps[:, 1:2] + self.some(maps[:, 3:5])


def shuffled(maps: torch.Tensor, groups: int = 2) -> torch.Tensor:
    count, _, height, width = maps.shape
    parts = maps[:, :10].reshape(count, groups, 10 // groups, height, width)
    return parts.transpose(1, 2).reshape(count, 10, height, width)


def convolution(*sizes, seed: int = 0, **settings) -> nn.Conv2d:
    torch.manual_seed(seed)
    return nn.Conv2d(*sizes, **settings)


def transposed(*sizes, **settings) -> nn.ConvTranspose2d:
    torch.manual_seed(2)
    return nn.ConvTranspose2d(*sizes, **settings)


def ghost(*sizes, **settings) -> GhostConv2d:
    torch.manual_seed(1)
    layer = GhostConv2d(*sizes, **settings)
    layer.set_channel_order_(torch.randperm(sizes[1]))
    return layer


def tiny(layer: nn.Conv2d) -> nn.Conv2d:
    layer.weight.data.mul_(1e-4)
    return layer


def cropped(width: int) -> Does:
    return Does(lambda maps: maps[:, :, :, :width])


LARGER = nn.Upsample(scale_factor=2)
CASES: dict[str, nn.Module] = {
    # the one layer that reads all channels of the images has a border, others read some channels
    "channels of the images": ReadsSomeChannels(),
    # matrix products: panels of one, two and three vectors, parts of vectors, tiles of every number of pixels
    "1x1 to 8": convolution(11, 8, 1),
    "1x1 to 12": convolution(11, 12, 1),
    "1x1 to 21, stride 2": convolution(11, 21, 1, stride=2),
    "1x1 to 1": convolution(11, 1, 1, bias=False),
    "1x1 to 44": convolution(11, 44, 1),
    # below the least exponent of float16
    "tiny weights": nn.Sequential(tiny(convolution(11, 12, 1, bias=False)), Does(lambda x: 1e4 * x)),
    "deep": nn.Sequential(convolution(11, 700, 1), nn.ReLU(), convolution(700, 9, 1)),
    "deep residual": nn.Sequential(convolution(11, 600, 1), Does(lambda x: x[:, :9] + F.conv2d(x, DEEP))),
    "3x3": convolution(11, 18, 3),
    "3x3, padded": convolution(11, 18, 3, padding=1),
    "3x3, strided": convolution(11, 7, 3, padding=1, stride=2),
    "3x5, strides and padding of their own": convolution(11, 9, (3, 5), padding=(0, 2), stride=(1, 3)),
    "3x3, dilated": convolution(11, 6, 3, padding=2, dilation=2),
    "3x3, dilated one way": convolution(11, 6, 3, padding=(1, 3), dilation=(1, 3)),
    "as large as the map": convolution(11, 17, (13, 10)),
    "on a part of a concatenation": nn.Sequential(
        Does(lambda x: torch.cat((x, x[:, 3:7]), 1)), convolution(15, 6, 3, padding=1)
    ),
    "groups": nn.Sequential(Does(lambda x: x[:, :9]), convolution(9, 12, 3, padding=1, groups=3)),
    # Winograd's form: all widths of panels, parts of tiles and of vectors, parts of a map
    "many 3x3": nn.Sequential(LARGER, convolution(11, 24, 3, padding=1)),
    "many 3x3, no padding": nn.Sequential(LARGER, convolution(11, 12, 3), nn.Hardswish()),
    "many 3x3, more padding": nn.Sequential(LARGER, convolution(11, 8, 3, padding=(2, 1)), nn.ReLU()),
    "many 3x3, a row and three columns over": nn.Sequential(
        LARGER, Does(lambda x: x[:, :, 1:, 1:]), convolution(11, 20, 3, padding=1)
    ),
    "many 3x3, three rows and a column over": nn.Sequential(
        LARGER, Does(lambda x: x[:, :, 3:, 3:]), convolution(11, 20, 3, padding=1)
    ),
    "many 3x3, dilated": nn.Sequential(LARGER, LARGER, convolution(11, 48, 3, padding=2, dilation=2)),
    "many 3x3, dilated by three, no padding": nn.Sequential(
        LARGER, LARGER, convolution(11, 44, 3, dilation=3)
    ),
    "many 3x3, dilated, more padding than it needs": nn.Sequential(
        LARGER, LARGER, convolution(11, 52, 3, padding=(5, 3), dilation=4), nn.ReLU()
    ),
    "many 3x3, dilated, residual": nn.Sequential(
        LARGER, convolution(11, 44, 1), Does(lambda x: F.silu(x + F.conv2d(x, WIDE, padding=3, dilation=3)))
    ),
    "many 3x3, residual": nn.Sequential(
        LARGER, convolution(11, 44, 1), Does(lambda x: F.silu(x + F.conv2d(x, WIDE, padding=1)))
    ),
    "many 3x3, on parts of maps": nn.Sequential(
        LARGER, ghost(11, 34, 3, padding=1), ghost(34, 32, 3, padding=1), nn.ReLU()
    ),
    "many 3x3 of a map larger than the cache": nn.Sequential(
        nn.Upsample(scale_factor=8), convolution(11, 16, 3, padding=1), nn.MaxPool2d(8)
    ),
    "one pixel": nn.Sequential(
        nn.AdaptiveAvgPool2d(1), convolution(11, 70, 1), nn.ReLU(), convolution(70, 3, 1)
    ),
    "one pixel, 3x3": nn.Sequential(nn.AdaptiveAvgPool2d(1), convolution(11, 37, 3, padding=1)),
    "one pixel that no tap meets": nn.Sequential(
        nn.AdaptiveAvgPool2d(1), convolution(11, 5, 3, padding=3, dilation=2, stride=3)
    ),
    "one pixel beside the kernel": nn.Sequential(
        nn.AdaptiveAvgPool2d(1), convolution(11, 5, 1, padding=1, stride=3)
    ),
    "linear": nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(11, 100), nn.Linear(100, 5, bias=False)
    ),
    "flat maps": nn.Sequential(nn.Flatten(), nn.Linear(11 * 130, 6)),
    # depthwise: with functions of their own and without, edges, parts of vectors
    **{
        f"depthwise {kernel}, stride {stride}, padding {pad}": convolution(
            11, 11, kernel, stride=stride, padding=pad, groups=11
        )
        for kernel, stride, pad in (
            (3, 1, 1),
            (3, 2, 1),
            (5, 1, 2),
            (5, 2, 2),
            (7, 1, 3),
            (3, 1, 0),
            (5, 1, 4),
        )
    },
    # rows are computed by fours where they are wide enough, and the last four may meet those before them
    **{
        f"depthwise {kernel}, stride {stride}, {width} wide": nn.Sequential(
            LARGER,
            cropped(width),
            convolution(11, 11, kernel, stride=stride, padding=kernel // 2, groups=11),
        )
        for kernel, stride in ((3, 1), (3, 2), (5, 1), (5, 2), (7, 1))
        for width in (2, 4, 5, 7, 8, 9, 11, 12, 18)
    },
    "depthwise of eight": nn.Sequential(convolution(11, 8, 1), convolution(8, 8, 3, padding=1, groups=8)),
    "depthwise 1": convolution(11, 11, 1, groups=11),
    "depthwise 3x5": convolution(11, 11, (3, 5), padding=(1, 2), groups=11),
    "depthwise, dilated": convolution(11, 11, 3, padding=2, dilation=2, groups=11),
    **{
        f"depthwise {kernel}, dilation {dilation}": convolution(
            11, 11, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=11
        )
        for kernel, dilation in ((3, 3), (3, 4), (3, 5), (5, 2), (5, 3), (7, 2), (7, 4))
    },
    "depthwise 3, dilated, three of each": convolution(11, 33, 3, padding=2, dilation=2, groups=11),
    "depthwise 5, dilated, one row of padding": convolution(11, 11, 5, padding=2, dilation=2, groups=11),
    "3x3, dilated beyond the map": convolution(11, 12, 3, padding=14, dilation=14),
    "3x3, dilated beyond its sides": convolution(11, 12, 3, padding=11, dilation=11),
    "3x3, strided, dilated beyond the map": convolution(11, 12, 3, padding=20, dilation=20, stride=3),
    "many 3x3, more padding than map": convolution(11, 12, 3, padding=15),
    "depthwise 7, stride 2": convolution(11, 11, 7, padding=3, stride=2, groups=11),
    "depthwise, three of each": convolution(11, 33, 3, padding=1, groups=11),
    "depthwise, two of each, strided": convolution(11, 22, 5, stride=2, padding=2, groups=11),
    "depthwise, five of each": convolution(11, 55, (3, 5), padding=1, groups=11),
    "depthwise 1, three of each": convolution(11, 33, 1, groups=11),
    "depthwise 1, strided": convolution(11, 11, 1, stride=2, groups=11),
    "depthwise 1, padded": convolution(11, 11, 1, padding=1, groups=11),
    "scales and shifts, activated": nn.Sequential(convolution(11, 11, 1, groups=11), nn.ReLU()),
    "scales and shifts, hard swish": nn.Sequential(convolution(11, 11, 1, groups=11), nn.Hardswish()),
    "depthwise of 40": nn.Sequential(
        convolution(11, 40, 1), convolution(40, 40, 3, padding=1, groups=40), nn.ReLU()
    ),
    "depthwise of a map larger than the cache": nn.Sequential(
        nn.Upsample(scale_factor=5),
        convolution(11, 64, 1),
        convolution(64, 64, 3, padding=1, groups=64),
        nn.MaxPool2d(5),
    ),
    "depthwise, wider than the map": convolution(11, 11, 3, padding=12, groups=11),
    "ghost": ghost(11, 26, 3, padding=1),
    "ghost, ratio 3": ghost(11, 26, 1, ratio=3, cheap_kernel_size=5),
    # activations, behind a convolution and alone
    **{
        f"{type(layer).__name__}{where}": nn.Sequential(*before, layer)
        for layer in (
            nn.ReLU(),
            nn.ReLU6(),
            nn.Hardswish(),
            nn.Hardsigmoid(),
            nn.Sigmoid(),
            nn.SiLU(),
            nn.Tanh(),
        )
        for where, before in ((", alone", ()), (", behind", (convolution(11, 10, 1),)))
    },
    **{
        type(layer).__name__: layer
        for layer in (
            nn.LeakyReLU(0.2),
            nn.ELU(),
            nn.GELU(),
            nn.Mish(),
            nn.PReLU(11),
            nn.Softplus(),
            nn.LogSigmoid(),
        )
    },
    "depthwise and hard swish": nn.Sequential(convolution(11, 11, 3, padding=1, groups=11), nn.Hardswish()),
    "large values": Does(lambda x: torch.sigmoid(200 * x) + torch.tanh(90 * x) + F.silu(-100 * x)),
    "larger ones": Does(lambda x: F.softplus(300 * x) + F.logsigmoid(-300 * x) + F.softplus(-300 * x)),
    "exp, log, sqrt, abs": Does(
        lambda x: torch.exp(x) + torch.log(x.abs() + 1) + torch.sqrt(x.abs()) - x.square()
    ),
    "erf, ceil, floor": Does(lambda x: torch.erf(x) + torch.ceil(3 * x) - torch.floor(2 * x)),
    "clamped": Does(lambda x: x.clamp(-0.3, 0.4) + x.clamp(min=0.1)),
    # element by element
    "residual": nn.Sequential(convolution(11, 11, 1), Does(lambda x: F.relu(x + F.conv2d(x, SQUARE)))),
    "both orders": Does(lambda x: (2 - x) / (1 + x.abs()) + 3 / (1 + x * x)),
    "gate": Does(lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True))),
    "gate first": Does(lambda x: x.mean((2, 3), keepdim=True) - x),
    "gate of one channel": Does(lambda x: x * x[:, :8].mean(1, keepdim=True)),
    "a constant for each channel": Does(lambda x: x * SCALES + SCALES),
    "maximum": Does(
        lambda x: torch.maximum(x, x.flip(1)) if False else torch.maximum(x, -x) - torch.minimum(x, x * x)
    ),
    "batch norm": nn.Sequential(nn.ReLU(), nn.BatchNorm2d(11)),
    # pooling
    "max 3, stride 2": nn.MaxPool2d(3, 2, 1),
    "max, to the end": nn.MaxPool2d(2, 3, ceil_mode=True),
    "average 3": nn.AvgPool2d(3, 2, 1),
    "average without the padding": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average, to the end": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "average 2x3": nn.AvgPool2d((2, 3)),
    "global max": nn.AdaptiveMaxPool2d(1),
    # moving
    "concatenation": Does(lambda x: torch.cat((torch.cat((F.relu(x), -x), 1), x, F.relu(x)), 1)),
    "twice the same": Does(lambda x: torch.cat((SQUASH(x), SQUASH(x)), 1) * 2),
    "a part in two concatenations": Does(lambda x: two_concatenations(-x)),
    "slices": Does(lambda x: torch.cat((x[:, 2:5], x[:, ::4]), 1)[:, 1:]),
    "every second pixel": Does(lambda x: x[:, 1:, ::2, 1::3]),
    "padded channels": Does(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 2))),
    "padded sides": Does(lambda x: F.pad(x, (1, 2, 0, 3))),
    "padded sides of a part": Does(lambda x: torch.cat((F.pad(x[:, :, 1:], (0, 0, 1, 0)), x), 1)),
    "padded with ones, a convolution": nn.Sequential(nn.ConstantPad2d(1, 1.0), convolution(11, 5, 3)),
    "an activation of a concatenation": Does(
        lambda x: F.relu(torch.cat((F.conv2d(x, SQUARE), x, F.conv2d(x, SQUARE)), 1))
    ),
    "a sum with chosen channels": Does(lambda x: F.relu(x[:, :5] + x.index_select(1, CHOSEN))),
    "chosen channels in a sum": Does(lambda x: x.index_select(1, CHOSEN) + x[:, 1:6]),
    "chosen channels in a sum with one pixel": Does(
        lambda x: x[:, :5] + x.mean((2, 3), keepdim=True).index_select(1, CHOSEN)
    ),
    "chosen channels, activated": Does(lambda x: F.hardswish(x.index_select(1, CHOSEN))),
    "a difference of chosen channels": Does(lambda x: x[:, 1:6] - x.index_select(1, CHOSEN)),
    "two orders in a sum": nn.Sequential(
        ghost(11, 24, 1),
        Does(lambda x: x.index_select(1, CHOSEN) + x.index_select(1, CHOSEN.flip(0))),
    ),
    "chosen channels": Does(lambda x: x.index_select(1, CHOSEN)),
    "chunks": Does(lambda x: torch.cat(x[:, :10].chunk(2, 1)[::-1], 1)),
    "shuffled": nn.Sequential(Does(shuffled), nn.Tanh()),
    "nearest": nn.Upsample(scale_factor=2),
    # between pixels, and borders of a map's own
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "bilinear, a size": Does(lambda x: F.interpolate(x, size=(17, 5), mode="bilinear")),
    "bilinear, a factor that is no whole number": Does(
        lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear")
    ),
    "bilinear, corners aligned": nn.Upsample(size=(21, 30), mode="bilinear", align_corners=True),
    "bilinear, to one pixel": Does(lambda x: F.interpolate(x, size=(1, 1), mode="bilinear")),
    "bilinear, to one pixel, corners aligned": nn.Upsample(size=(1, 3), mode="bilinear", align_corners=True),
    "bilinear, from one pixel": nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Upsample(size=(4, 5), mode="bilinear")
    ),
    "bilinear of a part": Does(
        lambda x: torch.cat((F.interpolate(x[:, 2:6], size=(13, 10), mode="bilinear"), x), 1)
    ),
    "reflected border": nn.ReflectionPad2d((1, 2, 3, 0)),
    "repeated border": nn.ReplicationPad2d(2),
    "a convolution with a circular border": convolution(11, 5, 3, padding=1, padding_mode="circular"),
    "a convolution with a reflected border": convolution(11, 5, 3, padding=1, padding_mode="reflect"),
    # blocks of pixels
    "transposed 2, stride 2": transposed(11, 6, 2, stride=2),
    "transposed 4, stride 2": nn.Sequential(transposed(11, 9, 4, stride=2, padding=1), nn.ReLU()),
    "transposed 3, stride 2": transposed(11, 8, 3, stride=2, padding=1, output_padding=1),
    "transposed 3, stride 1": nn.Sequential(transposed(11, 5, 3, padding=1, bias=False), nn.Hardswish()),
    "transposed 3x5, strides of their own": transposed(11, 4, (3, 5), stride=(1, 3), padding=(0, 2)),
    "transposed 2, stride 3": transposed(11, 4, 2, stride=3, output_padding=(0, 2)),
    "transposed, groups": nn.Sequential(
        Does(lambda x: x[:, :10]), transposed(10, 6, 4, stride=2, padding=1, groups=2), nn.ReLU()
    ),
    "transposed, depthwise": transposed(11, 11, 4, stride=2, padding=1, groups=11),
    "transposed, activated and read twice": nn.Sequential(
        transposed(11, 6, 2, stride=2), Does(lambda x: F.relu(x) + x)
    ),
    "pixel shuffle": nn.Sequential(convolution(11, 27, 1), nn.PixelShuffle(3), nn.ReLU()),
    # softmax
    "softmax": Does(lambda x: F.softmax(3 * x, 1)),
    "softmax of large values": Does(lambda x: F.softmax(1e4 * x[:, :8], 1)),
    "log softmax": Does(lambda x: F.log_softmax(x, 1)),
    "softmax of a vector": nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(11, 19), nn.Softmax(-1)
    ),
    "nothing": nn.Identity(),
}
DEEP = (torch.randn(9, 600, 1, 1, generator=torch.Generator().manual_seed(2)) / 25).half().float()
SQUARE = torch.randn(11, 11, 1, 1, generator=torch.Generator().manual_seed(3)).half().float()
WIDE = (torch.randn(44, 44, 3, 3, generator=torch.Generator().manual_seed(5)) / 20).half().float()
SCALES = torch.randn(11, 1, 1, generator=torch.Generator().manual_seed(4))
CHOSEN = torch.tensor([3, 3, 10, 0, 1])
SQUASH = torch.tanh


def two_concatenations(maps: torch.Tensor) -> torch.Tensor:
    part = maps.sigmoid()
    return torch.cat((part, maps, torch.cat((maps, part), 1).tanh()), 1)


class Branches(nn.Module):
    """Every case on the same maps, one answer behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 11, 3, padding=1, seed=5)
        self.cases = nn.ModuleList(CASES.values())
        for weight in self.parameters():
            if weight.dim() > 1:  # what float16 can hold: such files have to compute the same
                weight.data = weight.data.half().float()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.stem(images)
        return torch.cat([case(maps).flatten(1) for case in self.cases], 1)


def images(count: int, size=(3, *SIZE[1:])) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, *size), dtype=np.float32)


@pytest.fixture(scope="module")  # a minute of gcc, so one worker has all tests of this file
def branches(tmp_path_factory: pytest.TempPathFactory) -> tuple[Branches, Path]:
    network = Branches().eval()
    norm = network.cases[list(CASES).index("batch norm")][1]
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    path = tmp_path_factory.mktemp("c") / "net.c"
    export(
        network, "c", path, input_size=(3, *SIZE[1:]), optimized=False, metadata={"note": 'ä "quoted" \\ ??/'}
    )
    return network, path


@pytest.fixture(scope="module")
def half(branches: tuple[Branches, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("half") / "net.c"
    export(branches[0], "c", path, input_size=(3, *SIZE[1:]), optimized=False, precision="fp16")
    return path


@pytest.fixture(scope="module")
def answers(branches: tuple[Branches, Path]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    network, path = branches
    given = images(1)
    found = torch.from_numpy(load(path).predict(given))
    with torch.no_grad():
        maps = network.stem(torch.from_numpy(given))
        expected = [case(maps).flatten(1) for case in network.cases]
    parts = found.split([part.shape[1] for part in expected], 1)
    return dict(zip(CASES, zip(expected, parts, strict=True), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_each_kernel_computes_what_pytorch_does(name: str, answers) -> None:
    expected, found = answers[name]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6 * max(1.0, expected.abs().max().item()))


def test_what_is_no_number_stays_none_where_it_does_in_pytorch(branches: tuple[Branches, Path]) -> None:
    network, path = branches
    given = images(1)
    given[0, 1, 4, 5] = np.nan
    found = torch.from_numpy(load(path).predict(given))
    with torch.no_grad():
        maps = network.stem(torch.from_numpy(given))
        expected = [case(maps).flatten(1) for case in network.cases]
    parts = found.split([part.shape[1] for part in expected], 1)
    lost, differ = [], []
    for name, one, other in zip(CASES, expected, parts, strict=True):
        lost += [name] if (one.isnan() & ~other.isnan()).any() else []
        differ += [name] if (one.isnan() != other.isnan()).any() else []
    assert lost == []
    # a tile of 4x4 results has its inputs in common, and so has a block of pixels
    assert all(name.startswith(("many 3x3", "transposed")) for name in differ)


@pytest.mark.parametrize("flags", ["", "-mno-f16c"])
def test_weights_in_half_precision_are_read_as_they_are(
    half: Path, branches: tuple[Branches, Path], monkeypatch: pytest.MonkeyPatch, flags: str
) -> None:
    if flags and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("of other processors")
    monkeypatch.setenv("CC", f"cc {flags}")
    session = load(half)
    np.testing.assert_allclose(
        session.predict(images(1)), load(branches[1]).predict(images(1)), rtol=1e-5, atol=1e-5
    )
    assert session.precision == load(half, precision="fp16").precision == "fp16"
    assert load(**session.load_arguments()).precision == "fp16"
    sizes = [path.with_suffix(".bin").stat().st_size for path in (half, branches[1])]
    assert sizes[0] < 0.6 * sizes[1]


def test_a_weight_that_half_precision_cannot_hold_is_one_line(tmp_path: Path) -> None:
    layer = convolution(3, 4, 1)
    layer.weight.data[2, 1] = 7e4
    with pytest.raises(InputError, match=r"^a weight is too large for fp16; export in fp32$"):
        export(layer, "c", tmp_path / "net.c", input_size=(3, 8, 8), precision="fp16")
    assert not list(tmp_path.iterdir())


def test_half_precision_is_timed_where_there_is_one() -> None:
    settings = {"runtimes": ("c", "ncnn"), "precisions": ("fp16", "fp32"), "min_seconds": 0, "cold_starts": 0}
    result = benchmark({"net": convolution(3, 40, 3)}, input_size=(3, 8, 8), **settings)
    found = {(row.runtime, row.precision): row.bytes for row in result.rows}
    assert found["c", "fp16"] < found["c", "fp32"]
    assert ("ncnn", "fp16") not in found
    assert (
        result.skipped[0] == "net in ncnn in fp16: ncnn has no fp16 here; the targets with fp16 are c, coreml"
    )


def test_memory_may_hold_anything_and_threads_change_nothing(branches: tuple[Branches, Path]) -> None:
    one, two = load(branches[1], threads=1), load(branches[1], threads=2)
    given = images(3)
    first = one.predict(given)
    for session in (one, two):
        session._runner._work[:] = np.nan
        np.testing.assert_array_equal(session.predict(given), first)
    assert one.metadata["note"] == 'ä "quoted" \\ ??/'


def test_nothing_is_written_behind_a_map(
    branches: tuple[Branches, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gap, behind = 4096, []  # floats
    monkeypatch.setattr("ghostnet.deploy.c_source.text.arena", apart(gap, behind))
    export(branches[0], "c", tmp_path / "net.c", input_size=(3, *SIZE[1:]), optimized=False)
    session = load(tmp_path / "net.c")
    work = session._runner._work.view(np.uint32)
    work[:] = 0x7FC12345  # a NaN that no arithmetic makes
    np.testing.assert_array_equal(session.predict(images(1)), load(branches[1]).predict(images(1)))
    assert len(behind) > len(CASES)
    assert [place for place in behind if (work[place] != 0x7FC12345).any()] == []


# test_deploy_c_int8 has both of a smaller program
@pytest.mark.slow
@pytest.mark.parametrize("checked", ["address", "undefined"])  # both at once take gcc much longer
def test_it_is_a_program_for_any_c_compiler_without_a_warning(
    branches: tuple[Branches, Path], tmp_path: Path, checked: str
) -> None:
    expected = load(branches[1]).predict(images(1))
    found = answers_under(checked, branches[1], images(1), tmp_path)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


EXAMPLE = Path(__file__).parents[2] / "examples" / "c" / "classify.c"


@pytest.fixture(scope="module")
def classify(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's program of the packaged network, its files beside it."""
    folder = tmp_path_factory.mktemp("classify")
    export(ghostnet.load("resnet9_050"), "c", folder / "net.c", input_size=(3, 32, 32))
    facts = json.loads((folder / "net.c.json").read_text())["preprocessing"]
    numbers = [
        f"-D{name.upper()}={','.join(f'{value}f' for value in facts[name])}" for name in ("mean", "std")
    ]
    files = [EXAMPLE, folder / "net.c", "-o", folder / "classify"]
    subprocess.run(
        ["cc", "-O1", "-march=native", "-Wall", "-Wextra", "-Werror", *numbers, *files, "-lm"], check=True
    )
    return folder / "classify"


def test_the_example_classifies_as_python_does(classify: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.ppm")
    command = [classify, classify.with_name("net.bin"), tmp_path / "picture.ppm"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = [line.split() for line in done.stdout.splitlines()]
    facts = json.loads(classify.with_name("net.c.json").read_text())["preprocessing"]
    normal = (pixels / 255 - facts["mean"]) / facts["std"]
    scores = load(classify.with_name("net.c")).predict(normal.transpose(2, 0, 1)[None].astype(np.float32))[0]
    assert [int(index) for index, _ in found] == np.argsort(-scores)[:5].tolist()
    np.testing.assert_allclose([float(score) for _, score in found], np.sort(scores)[:-6:-1], atol=2e-3)
    assert done.stderr.endswith(" ms\n")


@pytest.mark.parametrize(
    ("weights", "size", "message"),
    [
        ("net.c", (32, 32), "no weights of this network: "),
        ("net.bin", (32, 31), "not of the network's size: "),
    ],
)
def test_the_example_refuses_other_files(
    classify: Path, tmp_path: Path, weights: str, size: tuple[int, int], message: str
) -> None:
    Image.new("RGB", size).save(tmp_path / "picture.ppm")
    command = [classify, classify.with_name(weights), tmp_path / "picture.ppm"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr.startswith(message)) == (2, True)


def test_weights_are_read_where_they_lie(branches: tuple[Branches, Path], tmp_path: Path) -> None:
    _, path = branches
    for suffix in (".c", ".bin"):
        shutil.copy(path.with_suffix(suffix), tmp_path / f"net{suffix}")
    weights = tmp_path / "net.bin"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(
        InputError, match=r"net\.c is not a usable C file: the weights in net\.bin are missing"
    ):
        load(tmp_path / "net.c")
    weights.unlink()
    with pytest.raises(InputError, match=r"there is no file .*net\.bin; it belongs beside net\.c"):
        load(tmp_path / "net.c")


def test_a_network_without_weights(tmp_path: Path) -> None:
    export(nn.MaxPool2d(2), "c", tmp_path / "net.c", input_size=(2, 4, 6))
    given = images(1, (2, 4, 6))
    expected = given.reshape(1, 2, 2, 2, 3, 2).max((3, 5))
    np.testing.assert_array_equal(load(tmp_path / "net.c").predict(given), expected)


def test_what_was_compiled_is_kept(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(small).predict(images(1))

    def compiled_again(*_args, **_settings):
        raise AssertionError

    monkeypatch.setattr(compiler.subprocess, "run", compiled_again)
    np.testing.assert_array_equal(load(small).predict(images(1)), first)


def test_the_cache_may_be_named_from_where_one_is(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GHOSTNET_CACHE", "kept")
    library = compiler.built(small.absolute())
    assert library.is_absolute()
    assert library.parent == tmp_path / "kept" / "c"


def test_a_changed_program_is_compiled_anew(small: Path, tmp_path: Path) -> None:
    changed = tmp_path / "net.c"
    changed.write_text(small.read_text().replace("{RELU, ", "{NONE, "))
    shutil.copy(small.with_suffix(".bin"), tmp_path / "net.bin")
    assert np.abs(load(changed).predict(images(1)) - load(small).predict(images(1))).max() > 0.1


def test_what_nobody_asked_for_in_a_month_is_forgotten(tmp_path: Path, empty_cache: Path) -> None:
    source = tmp_path / "tried.c"
    source.write_text("int tried(void) { return 0; }\n")
    library = compiler.built(source)
    before = time.time() - 60 * 24 * 3600
    unused, weeks_old = empty_cache / "c" / "unused.so", empty_cache / "c" / "weeks_old.so"
    for path, age in ((unused, before), (weeks_old, time.time() - 20 * 24 * 3600), (library, before)):
        path.touch()
        os.utime(path, (age, age))
    assert compiler.built(source) == library
    assert library.stat().st_mtime > time.time() - 60, "it is in use"
    source.write_text("int tried(void) { return 1; }\n")
    other = compiler.built(source)
    assert {path.name for path in other.parent.iterdir()} == {other.name, library.name, weeks_old.name}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("c") / "net.c"
    export(nn.Sequential(convolution(3, 4, 3), nn.ReLU()), "c", path, input_size=(3, *SIZE[1:]))
    return path


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GHOSTNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], r"cc cannot compile it \(.*\)"),
        (lambda text: text.replace("struct call calls", "struct cell calls"), r"cc cannot compile it \(.*\)"),
        (lambda _: "int main(void) { return 0; }\n", r"it has no function network_run"),
    ],
    ids=["truncated", "damaged", "foreign"],
)
def test_a_file_that_is_no_network_is_one_line(small: Path, tmp_path: Path, damage, message: str) -> None:
    (tmp_path / "net.c").write_text(damage(small.read_text()))
    shutil.copy(small.with_suffix(".bin"), tmp_path / "net.bin")
    with pytest.raises(InputError, match=r"net\.c is not a usable C file: .*" + message) as error:
        load(tmp_path / "net.c")
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("empty_cache")
def test_without_a_compiler_the_message_says_how_to_get_one(
    small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(compiler, "_has_ziglang", lambda: False)
    with pytest.raises(InputError, match=r"no C compiler; install gcc or clang, or run: pip install ziglang"):
        load(small)
    with pytest.raises(InputError, match="no C compiler"):
        export(convolution(3, 4, 1), "c", tmp_path / "other.c", input_size=(3, 8, 8))
    assert not (tmp_path / "other.c").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exit 3", r"the C compiler .*broken does not run \(--version gives code 3\)"),
        (
            'case "$*" in *--version*) echo broken 1.0;; *) echo "error: no space" >&2; exit 1;; esac',
            r"broken cannot compile it \(no space\)",
        ),
    ],
)
def test_a_compiler_that_fails_is_named(
    small: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, message: str
) -> None:
    monkeypatch.setenv("CC", str(script(tmp_path / "broken", text)))
    with pytest.raises(InputError, match=message):
        load(small)
    assert not list(empty_cache.rglob("*.so"))


def test_a_compiler_that_is_not_there_is_named(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/nowhere/cc -m64")
    with pytest.raises(InputError, match=r"\$CC \(=/nowhere/cc\) is not installed; unset CC or name another"):
        load(small)


@pytest.mark.usefixtures("empty_cache")
def test_a_compiler_without_openmp_computes_on_one_thread(
    small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = script(tmp_path / "plain", 'case "$*" in *-fopenmp*) exit 1;; *) exec cc "$@";; esac')
    monkeypatch.setenv("CC", str(plain))
    assert isinstance(load(small), Session)
    with pytest.raises(
        InputError, match=r"plain has no OpenMP, so C files run on one thread; leave threads at 1"
    ):
        load(small, threads=2)


@pytest.mark.usefixtures("empty_cache")
def test_a_compiler_that_does_not_know_this_processor_compiles_for_any(
    small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(
        "CC", str(script(tmp_path / "plain", 'case "$*" in *native*) exit 1;; *) exec cc "$@";; esac'))
    )
    assert load(small).predict(images(1)).shape == (1, 4, 11, 8)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (
            nn.Sequential(convolution(3, 4, 3), nn.Sequential(nn.Upsample(scale_factor=2, mode="bicubic"))),
            "upsample",
        ),
        (nn.Sequential(convolution(3, 4, 3), transposed(4, 4, 3, dilation=2)), "convolution"),
        (nn.Sequential(convolution(3, 4, 3), nn.Softmax(2)), "softmax"),
        (nn.Sequential(convolution(3, 4, 3), Does(lambda x: x.sort(1).values)), "sort"),
        (nn.Sequential(convolution(3, 4, 3), Does(lambda x: x.cumsum(1))), "cumsum"),
        (nn.Sequential(convolution(3, 4, 3), Does(lambda x: x @ torch.ones(8, 4))), "matmul"),
    ],
)
def test_an_operator_that_it_lacks_is_named(model: nn.Module, named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"C (cannot express|has no operator).*{named}|{named}.*C") as error:
        export(model, "c", tmp_path / "net.c", input_size=(3, 10, 10))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
