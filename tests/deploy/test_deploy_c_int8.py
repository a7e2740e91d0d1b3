"""int8 in C: each layer against the same rounding in PyTorch, other processors, no calibration, bad input."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from c_programs import answers_under, apart
from torch import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
if not shutil.which("cc"):
    pytest.skip("there is no C compiler", allow_module_level=True)

import ghostnet
from ghostnet.deploy import Limits, benchmark, export, load, quantize
from ghostnet.deploy.c_source.compiler import _native
from ghostnet.deploy.targets.c import graph_of, program_of_graph
from ghostnet.errors import InputError

SIZE = (37, 13, 10)


def most() -> int:
    """The largest byte: values have seven bits where this processor adds products of bytes in 16."""
    command = ["cc", _native(), "-dM", "-E", "-x", "c", os.devnull]
    known = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    narrow = "__AVX2__" in known and "__AVX512VNNI__" not in known and "__AVXVNNI__" not in known
    return 127 if narrow else 255


MOST = most()


def layer(*sizes, seed: int = 0, **settings) -> nn.Conv2d:
    torch.manual_seed(seed)
    return nn.Conv2d(*sizes, **settings)


class Summed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = layer(37, 48, 1), layer(48, 37, 3, padding=1, seed=1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return F.relu(maps + self.second(F.hardswish(self.first(maps))))


class Some(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = layer(4, 160, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.layer(maps[:, 3:7])


CASES = {
    "1x1": layer(37, 40, 1),
    "1x1 of four": Some(),
    "1x1, stride 2": layer(37, 50, 1, stride=2),
    "1x1, stride 2 and 1, a border": layer(37, 50, 1, stride=(2, 1), padding=(1, 0)),
    "3x3": layer(37, 24, 3, padding=1),
    "3x3 without bias": layer(37, 17, 3, bias=False),
    "3x3, stride 2": layer(37, 24, 3, stride=2, padding=(1, 2)),
    "3x3, dilation 2 and 1": layer(37, 24, 3, dilation=(2, 1), padding=2),
    "5x2, dilation 1 and 3": layer(37, 24, (5, 2), dilation=(1, 3), padding=(0, 1)),
    "sum": Summed(),
    "positive values": nn.Sequential(
        nn.ReLU6(), layer(37, 40, 1), nn.ReLU(), layer(40, 40, 3, padding=1, seed=1)
    ),
    "all the same": nn.Sequential(layer(37, 40, 1), nn.Hardtanh(2, 3), layer(40, 48, 1), layer(48, 24, 3)),
    "one pixel": nn.Sequential(nn.AdaptiveAvgPool2d(1), layer(37, 120, 1), nn.SiLU(), layer(120, 47, 1)),
}


class Branches(nn.Module):
    """All cases on the same maps, which no layer in bytes made."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = layer(3, SIZE[0], 1)
        self.cases = nn.ModuleList(CASES.values())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.stem(images)
        return torch.cat([case(maps).flatten(1) for case in self.cases], 1)


def scales_of(low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    span = high - low
    return span / MOST, torch.where(span > 0, MOST / span, 0)


def as_bytes(convolution: nn.Conv2d, maps: torch.Tensor) -> torch.Tensor:
    """The maps that a layer reads as values of bytes: a scale for each pixel, or one for the map."""
    if convolution.kernel_size == (1, 1) and convolution.padding == (0, 0):
        low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
        step, steps = scales_of(low, high)
        return low + step * ((maps - low) * steps + 0.5).floor()
    low, high = maps.amin().clamp(max=0), maps.amax().clamp(min=0)
    step, steps = scales_of(low, high)
    low = -(-low * steps + 0.5).floor() * step
    return low + step * ((maps - low) * steps + 0.5).floor()


def in_bytes(convolution: nn.Conv2d, maps: torch.Tensor) -> torch.Tensor:
    """What a layer in bytes computes."""
    weight = convolution.weight
    one = weight.abs().flatten(1).amax(1)[:, None, None, None] / 127
    whole = torch.round(weight / one) * one
    return convolution._conv_forward(as_bytes(convolution, maps), whole, convolution.bias)


@pytest.fixture(scope="module")
def branches(tmp_path_factory: pytest.TempPathFactory) -> tuple[Branches, Path]:
    network = Branches().eval()
    path = tmp_path_factory.mktemp("int8") / "net.c"
    export(network, "c", path, input_size=(3, *SIZE[1:]), optimized=False, precision="int8")
    return network, path


def images(count: int, size: tuple[int, ...] = (3, *SIZE[1:])) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, *size), dtype=np.float32)


@pytest.fixture(scope="module")
def answers(branches: tuple[Branches, Path]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    network, path = branches
    found = torch.from_numpy(load(path).predict(images(1)))
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        maps = network.stem(torch.from_numpy(images(1)))
        patch.setattr(nn.Conv2d, "forward", in_bytes)
        expected = [case(maps).flatten(1) for case in network.cases]
    parts = found.split([part.shape[1] for part in expected], 1)
    return dict(zip(CASES, zip(expected, parts, strict=True), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_each_layer_computes_what_pytorch_does_with_the_same_rounding(name: str, answers) -> None:
    expected, found = answers[name]
    scale = expected.abs().max().item()
    # one value may be rounded the other way, where both are as near
    torch.testing.assert_close(found, expected, rtol=0, atol=2 * scale / MOST)
    assert (found - expected).abs().mean() < 1e-4 * scale + 1e-7


def test_all_layers_of_the_cases_are_in_bytes(branches: tuple[Branches, Path]) -> None:
    layers = sum(isinstance(module, nn.Conv2d) for module in branches[0].cases.modules())
    program = program_of_graph(graph_of(branches[0], torch.from_numpy(images(1))), {}, "int8")
    assert len(program.bytes) == layers
    assert program.kernels["byte_product"] == layers - 2
    assert program.kernels["byte_linear"] == 2
    some = program_of_graph(graph_of(branches[0], torch.from_numpy(images(1))), {}, "int8", program.bytes[:3])
    assert some.kernels["byte_product"] == layers - 5
    assert some.bytes == program.bytes


@pytest.mark.parametrize("flags", ["-mno-avx512vnni -mno-avxvnni", "-mno-avx2 -mno-avx512f", "-mno-avx"])
def test_other_processors_answer_nearly_the_same(
    branches: tuple[Branches, Path], monkeypatch: pytest.MonkeyPatch, flags: str
) -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("of other processors")
    expected = load(branches[1]).predict(images(1))
    monkeypatch.setenv("CC", f"cc {flags}")
    found = load(branches[1]).predict(images(1))
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


def test_what_is_no_number_stays_none(branches: tuple[Branches, Path]) -> None:
    network, path = branches
    given = images(1)
    given[0, 1, 4, 5] = np.nan
    found = torch.from_numpy(load(path).predict(given))
    with torch.no_grad():
        expected = network(torch.from_numpy(given))
    assert not (expected.isnan() & ~found.isnan()).any()
    assert found.isnan().float().mean() < 0.9  # a 1x1 layer loses one pixel


def test_memory_may_hold_anything_and_threads_change_nothing(branches: tuple[Branches, Path]) -> None:
    one, two = load(branches[1], threads=1), load(branches[1], threads=2)
    given = images(3)
    first = one.predict(given)
    for session in (one, two):
        session._runner._work[:] = np.nan
        np.testing.assert_array_equal(session.predict(given), first)


def test_nothing_is_written_behind_a_map(
    branches: tuple[Branches, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gap, behind = 1024, []  # floats
    monkeypatch.setattr("ghostnet.deploy.c_source.text.arena", apart(gap, behind))
    settings = {"input_size": (3, *SIZE[1:]), "optimized": False, "precision": "int8"}
    export(branches[0], "c", tmp_path / "net.c", **settings)
    session = load(tmp_path / "net.c")
    work = session._runner._work.view(np.uint32)
    work[:] = 0x7FC12345  # a NaN that no arithmetic makes
    np.testing.assert_array_equal(session.predict(images(1)), load(branches[1]).predict(images(1)))
    assert len(behind) > 3 * len(CASES)
    assert [place for place in behind if (work[place] != 0x7FC12345).any()] == []


@pytest.mark.parametrize("checked", ["address", "undefined"])
def test_it_is_a_program_for_any_c_compiler_without_a_warning(
    branches: tuple[Branches, Path], tmp_path: Path, checked: str
) -> None:
    expected = load(branches[1]).predict(images(1))
    found = answers_under(checked, branches[1], images(1), tmp_path)
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


def test_a_file_needs_no_calibration_and_says_what_it_is(tmp_path: Path) -> None:
    network = ghostnet.load("resnet9_050")
    for precision in ("fp32", "int8"):
        export(network, "c", tmp_path / f"{precision}.c", input_size=(3, 32, 32), precision=precision)
    session, exact = load(tmp_path / "int8.c"), load(tmp_path / "fp32.c")
    assert (
        session.precision
        == session.manifest.precision
        == load(tmp_path / "int8.c", precision="int8").precision
    )
    assert session.precision == load(**session.load_arguments()).precision == "int8"
    sizes = [(tmp_path / f"{precision}.bin").stat().st_size for precision in ("int8", "fp32")]
    assert sizes[0] < 0.27 * sizes[1]
    given = images(20, (3, 32, 32))
    expected, found = exact.predict(given), session.predict(given)
    assert 1e-4 < np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.03


def test_calibration_images_judge_and_keep_layers_in_float(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    ).eval()
    with (
        torch.no_grad()
    ):  # a weight in each row that takes all of the bytes' range, on a channel that is zero
        network[2].weight[:, 5] = 1e4
        network[0].weight[5], network[0].bias[5] = 0, -1
    settings = {"input_size": (3, 16, 16), "limits": Limits(min_agreement=0.9)}
    given = images(64, (3, 16, 16)) + 3 * images(64, (3, 1, 1))
    report = quantize(network, "c", tmp_path / "net.c", given, **settings)
    assert len(report.float_layers) == 1
    assert report.layers == 3
    assert report.agreement >= 0.9
    session = load(tmp_path / "net.c")
    assert session.precision == "int8"
    assert session.manifest.quantisation["float_layers"] == report.float_layers
    with pytest.raises(InputError, match=r"^weight_bits \(=7\) must be 8 for c$"):
        quantize(network, "c", tmp_path / "other.c", given, weight_bits=7, **settings)


def test_other_targets_say_that_they_need_images(tmp_path: Path) -> None:
    wanted = r"^ONNX Runtime has no int8 here without calibration images \(`deploy.quantize` takes them\); the targets"
    with pytest.raises(InputError, match=rf"{wanted} with int8 are c$"):
        export(layer(3, 4, 1), "onnx", tmp_path / "net.onnx", input_size=(3, 8, 8), precision="int8")
    with pytest.raises(InputError, match=r"^unknown precision 'int9'; did you mean 'int8'"):
        export(layer(3, 4, 1), "c", tmp_path / "net.c", input_size=(3, 8, 8), precision="int9")
    assert not list(tmp_path.iterdir())


def test_it_is_timed_beside_float() -> None:
    settings = {"runtimes": ("c",), "precisions": ("int8", "fp32"), "min_seconds": 0, "cold_starts": 0}
    result = benchmark({"net": layer(3, 64, 3)}, input_size=(3, 8, 8), **settings)
    assert {(row.runtime, row.precision) for row in result.rows} == {("c", "int8"), ("c", "fp32")}
    assert result.skipped == []


def test_the_largest_value_of_a_range_as_wide_below_zero_as_above_stays_the_largest(tmp_path: Path) -> None:
    network = nn.Sequential(
        layer(3, 64, 3, stride=2, padding=1), nn.ReLU(), layer(64, 64, 3, padding=1)
    ).eval()
    export(network, "c", tmp_path / "x.c", input_size=(3, 32, 32), precision="int8")
    pixels = np.random.default_rng(1).uniform(-0.9, 0.9, (1, 3, 32, 32)).astype(np.float32)
    for most in (1.0, 0.91, 2.0, 3.3):  # black and white, as (pixels - 0.5) / 0.5 have them
        images = pixels.copy()
        images[0, :, 0, 0], images[0, :, 10:20, 10:20] = -most, most
        with torch.no_grad():
            wanted = network(torch.from_numpy(images)).numpy()
        found = load(tmp_path / "x.c").predict(images)
        assert np.linalg.norm(found - wanted) < 0.05 * np.linalg.norm(wanted)
