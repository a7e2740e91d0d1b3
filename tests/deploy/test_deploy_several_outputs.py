"""Networks that answer with several tensors, in every runtime: by name, in order, as PyTorch computes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from c_programs import answers_under
from PIL import Image
from torch import nn

from ghostnet.cli import app as cli
from ghostnet.cli import cifar10, int8
from ghostnet.data import Preprocessing
from ghostnet.deploy import TARGETS, Limits, export, fake_quantized, load, quantize, randomise_statistics_
from ghostnet.deploy.answers import answer_of
from ghostnet.deploy.quantization.quantiser import _QUANTISERS, INT8_TARGETS, TRAINED_TARGETS
from ghostnet.errors import InputError
from ghostnet.models import create_model, feature_pyramid, save
from ghostnet.nn import GhostConv2d

SIZE = (3, 12, 10)
RUN_HERE = ("c", "executorch", "litert", "mnn", "ncnn", "onnx", "openvino")


class Answers(nn.Module):
    """Maps that later layers read, in another order than that in which they are made, and scores."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.first = nn.Sequential(GhostConv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.Hardswish())
        self.third = nn.Conv2d(8, 8, 1)
        self.scores = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> Any:
        first = self.first(images)
        second = self.second(first)
        third = torch.relu(self.third(second) + second)
        scores = self.scores(third.mean((2, 3)))
        if self.how == "list":
            return [scores, third, second, first]
        if self.how == "dictionary":
            return {"scores": scores, "maps": (second, {"fine": first}), "nothing": None}
        if self.how == "one":
            return {"out": third}
        if self.how == "many":
            return tuple(maps + number for number in range(6) for maps in (third, second))
        return third, third, first[:, 2:5], torch.sigmoid(first)


NAMES = {
    "list": ("output_0", "output_1", "output_2", "output_3"),
    "dictionary": ("scores", "maps_0", "maps_1_fine"),
    "one": ("out",),
    "many": tuple(f"output_{place}" for place in range(12)),
    "shared": ("output_0", "output_1", "output_2", "output_3"),
}


def _exported(target: str, how: str, folder: Path, **options: Any) -> tuple[nn.Module, Path]:
    for module in (*TARGETS[target].write_modules, TARGETS[target].open_module):
        pytest.importorskip(module)
    network = Answers(how).eval()
    path = folder / f"net{TARGETS[target].suffixes[0]}"
    report = export(network, target, path, input_size=SIZE, **options)
    assert report.relative_error is not None
    assert report.relative_error < 1e-5
    assert tuple(report.outputs) == options.get("output_names", NAMES[how])
    return network, path


def _check(network: nn.Module, path: Path, names: tuple[str, ...]) -> None:
    images = np.random.default_rng(1).standard_normal((2, *SIZE), dtype=np.float32)
    session = load(path)
    assert session.outputs == names
    found, expected = session.predict_all(images), answer_of(network, torch.from_numpy(images)).tensors
    assert tuple(found) == names
    for output, wanted in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_allclose(output, wanted.numpy(), atol=1e-5)
        assert output.shape == wanted.shape
    again = session.predict_all(images[::-1].copy())
    for name in names:
        np.testing.assert_allclose(again[name][::-1], found[name], atol=1e-5)


@pytest.mark.parametrize("how", NAMES)
@pytest.mark.parametrize("target", [*RUN_HERE, "coreml"])
def test_every_output_is_pytorchs(target: str, how: str, tmp_path: Path) -> None:
    network, path = _exported(target, how, tmp_path)  # compared there, too
    if target in RUN_HERE:
        _check(network, path, NAMES[how])


@pytest.mark.parametrize("target", ["c", "onnx"])
def test_names_can_be_given_and_are_in_the_manifest(target: str, tmp_path: Path) -> None:
    names = ("scores", "coarse", "middle", "fine")
    network, path = _exported(target, "list", tmp_path, output_names=names)
    _check(network, path, names)
    batch = "N" if target == "onnx" else 1
    record = json.loads(path.with_name(path.name + ".json").read_text())
    assert [(output["name"], output["shape"]) for output in record["outputs"]] == [
        ("scores", [batch, 5]),
        ("coarse", [batch, 8, 6, 5]),
        ("middle", [batch, 8, 6, 5]),
        ("fine", [batch, 8, 12, 10]),
    ]


def test_a_file_without_its_manifest_has_names_too(tmp_path: Path) -> None:
    for target in ("onnx", "openvino", "c"):
        (tmp_path / target).mkdir()
        network, path = _exported(target, "dictionary", tmp_path / target)
        path.with_name(path.name + ".json").unlink()
        _check(network, path, NAMES["dictionary"])


def test_predict_is_for_one_output(tmp_path: Path) -> None:
    network, path = _exported("onnx", "one", tmp_path)
    images = np.zeros((1, *SIZE), np.float32)
    expected = answer_of(network, torch.from_numpy(images)).tensors["out"].numpy()
    np.testing.assert_allclose(load(path).predict(images), expected, atol=1e-5)
    _, path = _exported("onnx", "list", tmp_path, force=True)
    with pytest.raises(InputError, match=r"net.onnx has the outputs output_0, output_1, .*; predict_all"):
        load(path).predict(images)


@pytest.mark.slow
@pytest.mark.parametrize("checked", ["address", "undefined"])
def test_c_writes_the_outputs_behind_one_another(checked: str, tmp_path: Path) -> None:
    network, path = _exported("c", "list", tmp_path)
    images = np.random.default_rng(2).standard_normal((1, *SIZE), dtype=np.float32)
    expected = answer_of(network, torch.from_numpy(images))
    flat = np.concatenate([tensor.numpy().ravel() for tensor in expected])
    np.testing.assert_allclose(answers_under(checked, path, images, tmp_path)[0], flat, atol=1e-5)
    assert "output_1 8x6x5\n" in path.read_text()


def test_c_in_bytes_keeps_every_output(tmp_path: Path) -> None:
    wide = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU())
    network = _Pair(wide, nn.Sequential(nn.Conv2d(64, 64, 1), nn.ReLU(), nn.Conv2d(64, 8, 1))).eval()
    report = export(network, "c", tmp_path / "net.c", input_size=SIZE, precision="int8")
    assert "byte_product" in report.operators
    assert tuple(report.outputs) == ("output_0", "output_1")
    assert report.relative_error is not None
    assert report.relative_error < 0.05


class _First(nn.Module):
    def forward(self, answers: list[torch.Tensor]) -> torch.Tensor:
        return answers[0]


class _Pair(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = self.first(images)
        return [maps, self.second(maps)]


class _Returns(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make, self.layer = make, nn.Conv2d(3, 4, 1)

    def forward(self, images: torch.Tensor) -> Any:
        return self.make(self.layer(images))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: [], "the model returns a list without a tensor"),
        (lambda _: None, "the model returns a NoneType without a tensor"),
        (lambda maps: {"a": maps, "what": "text"}, r"the model returns a str \(what\)"),
        (lambda maps: [maps, maps.argmax(1)], r"the model returns torch.int64 numbers \(output_1\)"),
        (lambda maps: [maps, maps.mean()], r"a tensor of shape \(\) \(output_1\); the first axis must be"),
        (lambda maps: {"a": maps, "b": maps[0]}, r"shape \(4, 12, 10\) \(b\); the first axis must be"),
        (lambda maps: {"a": [maps], "a_0": maps}, r"two outputs have one name \(a_0, a_0\)"),
    ],
)  # fmt: skip
def test_what_no_file_has_an_output_for_is_one_line(make: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        export(_Returns(make), "onnx", tmp_path / "net.onnx", input_size=SIZE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "output_names has 1 names and the model 4 outputs"),
        (["a", "b", "c", "a"], r"two outputs have one name \(a, b, c, a\)"),
        (["a", "b", "c", "d e"], "must be a list of identifiers"),
        ("abcd", "must be a list of identifiers"),
    ],
)
def test_names_that_do_not_fit(names: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        export(Answers("list"), "onnx", tmp_path / "net.onnx", input_size=SIZE, output_names=names)


@pytest.mark.parametrize("how", ["list", "dictionary", "one", "shared"])
@pytest.mark.parametrize("target", INT8_TARGETS)
def test_int8_rounds_every_output_and_keeps_their_order(target: str, how: str, tmp_path: Path) -> None:
    for module in (*TARGETS[target].write_modules, *([] if target == "c" else [_QUANTISERS[target][2]])):
        pytest.importorskip(module)
    images = np.random.default_rng(0).standard_normal((24, *SIZE), dtype=np.float32)
    network, path = Answers(how).eval(), tmp_path / f"net{TARGETS[target].suffixes[0]}"
    report = quantize(network, target, path, images, input_size=SIZE)
    found = load(path).predict_all(images)
    assert tuple(found) == NAMES[how]
    with torch.no_grad():
        expected = answer_of(network, torch.from_numpy(images)).tensors
    errors = [
        np.linalg.norm(found[name] - tensor.numpy()) / np.linalg.norm(tensor)
        for name, tensor in expected.items()
    ]
    assert report.agreement is None
    # no output is that of the float network, and none is another's
    assert max(errors) == pytest.approx(report.relative_error, rel=0.05)
    assert 0 < min(errors) <= max(errors) < 0.1
    assert f"the outputs differ by up to {100 * report.relative_error:.1f} % of their norm" in str(report)


def test_the_limit_of_int8_for_several_outputs_is_the_error_of_the_worst(tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((16, *SIZE), dtype=np.float32)
    network = Answers("list").eval()
    told: list[str] = []
    kept = quantize(
        network,
        "onnx",
        tmp_path / "net.onnx",
        images,
        input_size=SIZE,
        limits=Limits(max_error=0.01),
        announce=told.append,
    )
    assert 1 <= len(kept.float_layers) < kept.layers
    assert kept.relative_error <= 0.01
    assert any("int8 costs too much (an output differs by" in line for line in told)
    with pytest.raises(InputError, match=r"costs too much .*an output differs by .*allow more \(max_error\)"):
        quantize(
            network, "onnx", tmp_path / "less.onnx", images, input_size=SIZE, limits=Limits(max_error=1e-6)
        )
    with pytest.raises(InputError, match=r"max_error \(=0\) must be above 0"):
        Limits(max_error=0)
    assert not (tmp_path / "less.onnx").exists()


@pytest.mark.parametrize("how", ["list", "dictionary", "one"])
@pytest.mark.parametrize("target", TRAINED_TARGETS)
def test_what_rounds_in_pytorch_is_written_with_all_outputs(target: str, how: str, tmp_path: Path) -> None:
    for module in TARGETS[target].write_modules:
        pytest.importorskip(module)
    images, path = np.random.default_rng(0).standard_normal((16, *SIZE), dtype=np.float32), tmp_path / "net"
    path = path.with_suffix(TARGETS[target].suffixes[0])
    rounded = fake_quantized(Answers(how).eval(), images, target=target, input_size=SIZE)
    report = quantize(rounded, target, path, images, input_size=SIZE)
    assert report.agreement is None
    found = load(path).predict_all(images)
    assert tuple(found) == NAMES[how]
    with torch.no_grad():
        expected = answer_of(rounded, torch.from_numpy(images)).tensors
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor.numpy(), atol=0.05 * tensor.abs().max())


@pytest.mark.parametrize("network", [Answers("one"), nn.Conv2d(3, 4, 3)])
def test_labels_are_for_scores_of_classes(network: nn.Module, tmp_path: Path) -> None:
    images = np.zeros((16, *SIZE), np.float32)
    with pytest.raises(InputError, match=r"labels are classes of whole images, .*; leave them out"):
        quantize(network, "c", tmp_path / "net.c", images, labels=[0] * 16, input_size=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_classes_are_of_one_tensor(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="classes are of a network that returns one tensor"):
        export(Answers("one"), "onnx", tmp_path / "net.onnx", input_size=SIZE, classes=["a"])


def test_a_backbone_for_a_detector(tmp_path: Path) -> None:
    torch.manual_seed(0)
    body = feature_pyramid(create_model("ghostnet_050"), strides=(8, 16, 32)).eval()
    report = export(body, "onnx", tmp_path / "body.onnx", input_size=(3, 64, 64))
    assert list(report.outputs.values()) == [(20, 8, 8), (56, 4, 4), (80, 2, 2)]
    assert str(report).endswith("outputs: output_0 20x8x8, output_1 56x4x4, output_2 80x2x2")
    assert "Concat" in report.operators


def test_a_file_with_several_outputs_is_no_classifier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = _exported("onnx", "list", tmp_path)
    assert cli.run(["eval", str(path), "--data", "cifar10"]) == 2
    assert (
        "has the outputs output_0, output_1, output_2, output_3 and is no classifier"
        in capsys.readouterr().err
    )


def test_a_backbone_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "body.onnx"
    command = ["export", "ghostnet_050", "-o", str(path), "--input-size", "3,64,64"]
    assert cli.run([*command, "--strides", "8,32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == {"stride_8": [20, 8, 8], "stride_32": [80, 2, 2]}
    found = load(path).predict_all(np.zeros((1, 3, 64, 64), np.float32))
    assert {name: output.shape[1:] for name, output in found.items()} == {
        "stride_8": (20, 8, 8),
        "stride_32": (80, 2, 2),
    }
    for strides, message in (
        ("8,x", "--strides (='8,x') must be numbers with commas, such as 8,16,32"),
        ("32,8", "`strides` (=(32, 8)) must be ascending"),
        ("64", "`strides` (=(64,)) must be ascending and among [2, 4, 8, 16, 32]"),
    ):
        assert cli.run([*command, "--force", "--strides", strides]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_backbone_in_int8_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(16):  # in folders as classes have, which say nothing of a backbone's maps
        folder = tmp_path / "photos" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    network = create_model("ghostnet_050", num_classes=2)
    randomise_statistics_(network, (3, 64, 64))
    save(network, tmp_path / "net.safetensors")
    path = tmp_path / "body.onnx"
    command = ["export", str(tmp_path / "net.safetensors"), "-o", str(path), "--input-size", "3,64,64"]
    command += ["--strides", "8,32", "--precision", "int8", "--calibration", str(tmp_path / "photos")]
    assert cli.run([*command, "--max-error", "0.5", "--json"]) == 0
    stated = json.loads(capsys.readouterr().out)
    assert (stated["agreement"], stated["top1"]) == (None, None)
    assert 0 < stated["relative_error"] <= 0.5
    assert load(path).outputs == ("stride_8", "stride_32")
    for more, message in (
        (("--fine-tune-epochs", "1"), "--fine-tune-epochs trains the scores of classes, which --strides"),
        (("--min-agreement", "0.9"), "--min-agreement is for classes, which --strides leaves out"),
        (("--max-error", "0"), "max_error (=0.0) must be above 0"),
    ):
        assert cli.run([*command, "--force", *more]) == 2
        assert message in capsys.readouterr().err


def test_labels_of_cifar10_judge_no_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).standard_normal((16, *SIZE), dtype=np.float32)
    batch = (torch.from_numpy(images), torch.zeros(16, dtype=torch.int64))
    monkeypatch.setattr(cifar10, "calibration_batches", lambda *_: [batch])
    job = int8.Int8Job("c", tmp_path / "net.c", "cifar10", 16, None, Limits(), None, None)
    for network, judged in ((Answers("list"), False), (nn.Sequential(Answers("list"), _First()), True)):
        report = job.write(network, Preprocessing(size=12), {"input_size": SIZE, "force": True})
        assert (report.top1 is not None) == judged


def test_c_does_not_activate_what_is_an_output_in_place(tmp_path: Path) -> None:
    network = _Pair(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    report = export(network, "c", tmp_path / "net.c", input_size=SIZE)
    found = load(tmp_path / "net.c").predict_all(-np.ones((1, *SIZE), np.float32))
    assert found["output_0"].min() < 0 <= found["output_1"].min()
    assert report.operators["planes"] == 2


def test_an_output_cannot_be_called_what_the_input_is_called(tmp_path: Path) -> None:
    class Named(nn.Module):
        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"images": images + 1, "doubled": 2 * images}

    with pytest.raises(
        InputError, match="an output is called 'images', as the file's input is; give output_names"
    ):
        export(Named(), "onnx", tmp_path / "net.onnx", input_size=SIZE)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="as the file's input is"):
        export(nn.Conv2d(3, 4, 1), "onnx", tmp_path / "net.onnx", input_size=SIZE, output_names=["images"])
    report = export(
        Named(), "onnx", tmp_path / "net.onnx", input_size=SIZE, output_names=["shifted", "doubled"]
    )
    assert list(report.outputs) == ["shifted", "doubled"]
