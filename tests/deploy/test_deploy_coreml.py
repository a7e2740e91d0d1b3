"""Core ML: packages are folders, are checked without Core ML, hold float16 where it is asked for, and run on macOS."""

import json
import platform
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("coremltools")

from ghostnet import cli
from ghostnet.deploy import TARGETS, benchmark, export, load, optimize, tune
from ghostnet.deploy.targets import NARROW
from ghostnet.deploy.targets.coreml_program import OPERATORS, Program
from ghostnet.errors import InputError

SIZE = (3, 9, 11)
ON_MACOS = platform.system() == "Darwin"
not_on_macos = pytest.mark.skipif(ON_MACOS, reason="Core ML is here")


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(6)
    norm.running_mean.normal_()
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    ).eval()


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coreml") / "net.mlpackage"
    report = export(
        network(), "coreml", path, input_size=SIZE, metadata={"origin": "test"}, classes=list("abcd")
    )
    assert report.relative_error is not None
    assert report.relative_error < 1e-5
    assert report.operators == {"conv": 1, "linear": 1, "reduce_mean": 1, "relu": 1, "reshape": 1} or ON_MACOS
    assert ("from the file's program, not by Core ML" in str(report)) != ON_MACOS
    return path


def test_a_package_and_its_manifest_are_all_that_is_written(package: Path) -> None:
    files = [
        "Data/com.apple.CoreML/model.mlmodel",
        "Data/com.apple.CoreML/weights/weight.bin",
        "Manifest.json",
    ]
    assert names_in(package.parent) == ["net.mlpackage.json", *(f"net.mlpackage/{file}" for file in files)]
    record = json.loads((package.parent / "net.mlpackage.json").read_text())
    assert record["files"][".mlpackage"]["bytes"] == sum((package / file).stat().st_size for file in files)
    assert record["input"]["shape"] == [1, *SIZE]
    assert (record["precision"], record["classes"]) == ("fp32", ["a", "b", "c", "d"])
    assert record["versions"]["coremltools"]
    for file in files:
        content = (package / file).read_bytes()
        for place in (Path.home(), package.parent, Path(sys.prefix), Path(__file__).parent):
            assert str(place).encode() not in content


@not_on_macos
def test_elsewhere_it_is_one_line(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for attempt in (
        lambda: load(package),
        lambda: tune(network(), "coreml", input_size=SIZE),
        lambda: benchmark({"net": network()}, runtimes=["coreml"], input_size=SIZE),
    ):
        with pytest.raises(InputError, match="Core ML runs on macOS only") as error:
            attempt()
        assert "\n" not in str(error.value)
    assert cli.run(["bench", str(package)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(not ON_MACOS, reason="Core ML runs on macOS only")
def test_it_runs_in_core_ml(package: Path) -> None:
    images = np.random.default_rng(0).standard_normal((3, *SIZE), dtype=np.float32)
    session = load(package)
    with torch.no_grad():
        expected = network()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(session.predict(images), expected, atol=1e-4)
    assert session.metadata == {"origin": "test"}


@not_on_macos
def test_what_is_checked_is_what_lies_on_disk(tmp_path: Path) -> None:
    model = network()
    path = tmp_path / "net.mlpackage"
    export(model, "coreml", path, input_size=SIZE)
    images = np.random.default_rng(0).standard_normal((1, *SIZE), dtype=np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    opened = TARGETS["coreml"].open(path, threads=1, precision="fp32")
    assert isinstance(opened, Program)
    np.testing.assert_allclose(opened.run(images)[0], expected, atol=1e-6)
    weights = path / "Data/com.apple.CoreML/weights/weight.bin"
    content = bytearray(weights.read_bytes())
    place = content.index(model[5].weight.detach().numpy().tobytes())
    content[place : place + 4 * 6] = np.full(6, 9, np.float32).tobytes()
    weights.write_bytes(content)
    changed = TARGETS["coreml"].open(path, threads=1, precision="fp32").run(images)[0]
    assert np.abs(changed - expected).max() > 0.01


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(network(), "coreml", tmp_path / "net.mlpackage", input_size=SIZE)
    before = {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)}
    with pytest.raises(InputError, match=r"net\.mlpackage exists; pass --force"):
        export(network(1), "coreml", tmp_path / "net.mlpackage", input_size=SIZE)
    written = type(TARGETS["coreml"]).write
    monkeypatch.setattr(
        type(TARGETS["coreml"]), "write", lambda self, _model, *rest: written(self, network(2), *rest)
    )
    with pytest.raises(RuntimeError, match=r"the coreml file differs from PyTorch by .*nothing is kept"):
        export(network(1), "coreml", tmp_path / "net.mlpackage", input_size=SIZE, force=True)
    assert {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)} == before
    monkeypatch.undo()
    export(network(1), "coreml", tmp_path / "net.mlpackage", input_size=SIZE, force=True)
    after = {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)}
    assert after.keys() == before.keys()
    weights = "net.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    assert after[weights] != before[weights]


def test_somebodys_other_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "net.mlpackage").mkdir()
    (tmp_path / "net.mlpackage" / "mine").write_text("mine")
    with pytest.raises(
        InputError, match=r"cannot write .*: the folder that is there holds other files; name"
    ):
        export(network(), "coreml", tmp_path / "net.mlpackage", input_size=SIZE, force=True)
    assert names_in(tmp_path) == ["net.mlpackage/mine"]
    (tmp_path / "file.mlpackage").write_text("mine")
    with pytest.raises(InputError, match=r"cannot write .*: a file is there, and a folder is to be written"):
        export(network(), "coreml", tmp_path / "file.mlpackage", input_size=SIZE, force=True)
    with pytest.raises(InputError, match=r"net\.zip must end in \.mlpackage for Core ML"):
        export(network(), "coreml", tmp_path / "net.zip", input_size=SIZE)
    assert names_in(tmp_path) == ["file.mlpackage", "net.mlpackage/mine"]


def test_half_precision(tmp_path: Path) -> None:
    assert cli.run(["export", "resnet20", "-o", str(tmp_path / "a.onnx"), "--precision", "fp16"]) == 2
    with pytest.raises(
        InputError, match="ONNX Runtime has no fp16 here; the targets with fp16 are c, coreml"
    ):
        export(network(), "onnx", tmp_path / "a.onnx", input_size=SIZE, precision="fp16")
    assert list(tmp_path.iterdir()) == []
    whole = export(nn.Conv2d(3, 64, 5), "coreml", tmp_path / "a.mlpackage", input_size=SIZE)
    half = export(nn.Conv2d(3, 64, 5), "coreml", tmp_path / "b.mlpackage", input_size=SIZE, precision="fp16")
    assert half.relative_error is not None
    assert 1e-5 < half.relative_error < 2e-2
    assert half.bytes < whole.bytes - 9000  # 4800 weights
    assert json.loads((tmp_path / "b.mlpackage.json").read_text())["precision"] == "fp16"
    assert set(NARROW["fp16"]) == {"c", "coreml"}


def test_half_precision_goes_without_the_rewrite_that_needs_float32(tmp_path: Path) -> None:
    layer = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1)).eval()
    size, path = (256, 16, 16), tmp_path / "net.mlpackage"
    made = optimize(layer, passes=["winograd"], input_size=size)
    for model, passes in ((layer, ["winograd"]), (made, None)):
        with pytest.raises(
            InputError, match="pass 'winograd' needs float32, which fp16 files do not have; leave"
        ):
            export(model, "coreml", path, input_size=size, passes=passes, precision="fp16")
    assert not path.exists()
    report = export(layer, "coreml", path, input_size=size, passes=["winograd"])
    assert "matmul" in report.operators
    assert report.relative_error is not None
    assert report.relative_error < 1e-5


class Enlarged(nn.Module):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(maps, scale_factor=2.0, mode="bilinear")


@not_on_macos
def test_an_operator_that_cannot_be_computed_here_is_said_to_be_unchecked(tmp_path: Path) -> None:
    report = export(Enlarged(), "coreml", tmp_path / "net.mlpackage", input_size=SIZE)
    assert report.relative_error is None
    assert "parity not checked here (operator upsample_bilinear is not known)" in str(report)
    assert "check it where Core ML runs" in str(report)
    record = json.loads((tmp_path / "net.mlpackage.json").read_text())
    assert (record["parity"]["relative_error"], record["parity"]["batches"]) == (None, [])


class Code(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.function(maps)  # type: ignore[operator]


LAYERS: dict[str, nn.Module] = {
    "conv": nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 3), dilation=(2, 1), groups=2),
    "max_pool": nn.MaxPool2d(3, 2, 1),
    "avg_pool": nn.AvgPool2d(3, 2, 1),
    "avg_pool without zeros": nn.AvgPool2d((3, 2), 2, 1, count_include_pad=False),
    "max_pool ceil_mode": nn.MaxPool2d(3, 2, ceil_mode=True),
    "max_pool ceil_mode with padding": nn.MaxPool2d((3, 2), 3, 1, ceil_mode=True),
    "avg_pool ceil_mode": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "pad": nn.ZeroPad2d((1, 2, 3, 0)),
    "pad reflect": nn.ReflectionPad2d((1, 2, 3, 1)),
    "batch_norm": nn.BatchNorm2d(4),
    "layer_norm": nn.LayerNorm((8, 10)),
    "linear": nn.Sequential(nn.Flatten(), nn.Linear(4 * 8 * 10, 3)),
    "concat": Code(lambda maps: torch.cat((maps, 2 * maps), 2)),
    "concat interleave": Code(lambda maps: torch.stack((maps.relu(), maps.sigmoid()), 2).flatten(1, 2)),
    "split": Code(lambda maps: torch.cat(torch.split(maps, (1, 3), 1)[::-1], 1)),
    "split even": Code(lambda maps: maps.chunk(2, 1)[1] - maps.chunk(2, 1)[0]),
    "slice_by_index": Code(lambda maps: maps[:, 1:3, ::2, 2:]),
    "slice_by_index squeezed": Code(lambda maps: maps[:, 2]),
    "gather": Code(lambda maps: maps.index_select(1, torch.tensor([3, 0, 0, 1]))),
    "transpose": Code(lambda maps: maps.permute(0, 2, 3, 1) * 2),
    "squeeze": Code(lambda maps: (maps[:, :1] * 2).squeeze(1)),
    "expand_dims": Code(lambda maps: (maps[:, :1] * 2).mean((2, 3))[:, None, :, None] * maps),
    "matmul": Code(lambda maps: torch.matmul(maps.transpose(2, 3), maps)),
    "upsample_nearest_neighbor": nn.UpsamplingNearest2d(scale_factor=(3, 2)),
    "pixel_shuffle": nn.PixelShuffle(2),
    "relu6": nn.ReLU6(),
    "sigmoid": nn.Sigmoid(),
    "silu": nn.SiLU(),
    "tanh": nn.Tanh(),
    "exp": Code(torch.exp),
    "softmax": nn.Softmax(1),
    "hardtanh": nn.Hardtanh(-0.5, 0.25),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardswish": nn.Hardswish(),
    "leaky_relu": nn.LeakyReLU(0.3),
    "prelu": nn.PReLU(4, 0.2),
    "gelu": nn.GELU(),
    "reduce_mean": Code(lambda maps: maps.mean((2, 3))),
    "reduce_max": nn.AdaptiveMaxPool2d(1),
    "reduce_sum": Code(lambda maps: maps.sum(1, keepdim=True)),
    "arithmetic": Code(lambda maps: (maps - 1) * maps / (2 + maps * maps)),
    "maximum": Code(lambda maps: torch.maximum(maps, 0.5 * maps) + torch.minimum(maps, -maps)),
    "pow": Code(lambda maps: maps**2),
}


@not_on_macos
@pytest.mark.parametrize("name", LAYERS)
def test_operators_compute_what_pytorch_computes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    layer = LAYERS[name]
    if isinstance(layer, nn.BatchNorm2d):
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    report = export(layer, "coreml", tmp_path / "net.mlpackage", input_size=(4, 8, 10), optimized=False)
    assert report.relative_error is not None, report
    assert report.relative_error < 1e-6
    assert set(report.operators) <= set(OPERATORS)
