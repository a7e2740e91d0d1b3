"""int8 exports: what is written, how close it stays, which layers stay in float, and one line for bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ghostnet.deploy import TARGETS, Limits, benchmark, export, load, processor, quantize
from ghostnet.deploy.quantization import quantiser
from ghostnet.deploy.quantization.quantiser import INT8_TARGETS, checked_weight_bits
from ghostnet.deploy.quantization.search import Score, choose, scored
from ghostnet.deploy.targets import target
from ghostnet.errors import InputError
from ghostnet.nn import GhostConv2d

SIZE = (3, 12, 12)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        GhostConv2d(16, 24, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 5),
    ).eval()


class FragileFirst(nn.Sequential):
    """Its first convolution puts out one channel a thousand times the others, which the second one hardly reads."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        super().__init__(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 8, 3, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        with torch.no_grad():
            self[0].weight[0] *= 3000
            self[1].weight[:, 0] /= 3000
        self.eval()


def images(count: int = 48) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *SIZE), dtype=np.float32)


def path_for(name: str, folder: Path) -> Path:
    return folder / f"net{TARGETS[name].suffixes[0]}"


def skip_without(name: str) -> None:
    _, _, package, _ = quantiser._QUANTISERS.get(name, (None, None, "ghostnet", None))
    for module in (*TARGETS[name].write_modules, TARGETS[name].open_module, package):
        pytest.importorskip(module)


@pytest.mark.parametrize("name", INT8_TARGETS)
def test_int8_stays_close_and_its_manifest_says_what_it_is(name: str, tmp_path: Path) -> None:
    skip_without(name)
    model, data, path = network(), images(), path_for(name, tmp_path)
    report = quantize(model, name, path, data, input_size=SIZE, limits=Limits(min_agreement=0.8))
    session = load(path)
    assert session.precision == "int8"
    assert session.manifest is not None
    stated = session.manifest.quantisation
    assert session.manifest.precision == "int8"
    assert stated is not None
    assert (stated["images"], stated["float_layers"], stated["layers"]) == (
        48,
        [],
        4 if name != "c" else 2,  # it leaves layers of little work in float
    )
    found = session.predict(data)
    expected = model(torch.from_numpy(data)).detach().numpy()
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 1e-5 < error < 0.1  # not the float network again, and not another one
    assert report.agreement == pytest.approx((found.argmax(1) == expected.argmax(1)).mean(), abs=0.05)
    assert report.relative_error == pytest.approx(error, rel=0.05)
    assert {file.name for file in tmp_path.iterdir()} == {Path(file).name for file in report.files}
    assert "int8" in str(report)


@pytest.mark.parametrize("shape", [(4, 1), (4,)])
@pytest.mark.parametrize("labels", [None, np.array([1, 0, 1, 0])])
def test_the_answer_of_a_single_output_is_its_sign(labels: np.ndarray | None, shape: tuple[int, ...]) -> None:
    expected = np.array([2.0, -1.0, 0.5, -3.0], np.float32).reshape(shape)
    score = scored(expected, -expected, labels)
    assert score.agreement == 0.0
    assert not score.within(Limits())
    assert scored(expected, expected, labels).within(Limits())
    assert (score.top1_float, score.top1) == ((None, None) if labels is None else (100.0, 0.0))


def test_weights_are_stored_in_a_quarter_of_the_bytes(tmp_path: Path) -> None:
    skip_without("onnx")
    onnx = pytest.importorskip("onnx")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 256, 3), nn.ReLU(), nn.Conv2d(256, 64, 3)).eval()
    report = quantize(model, "onnx", tmp_path / "net.onnx", images(16), input_size=SIZE, metadata={"a": "b"})
    assert report.bytes < 0.35 * report.float_bytes
    proto = onnx.load(tmp_path / "net.onnx")
    weights = [tensor for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert {tuple(tensor.dims) for tensor in weights} >= {(256, 3, 3, 3), (64, 256, 3, 3)}
    scales = [tensor for tensor in proto.graph.initializer if tuple(tensor.dims) == (256,)]
    assert scales, "weights have one scale a channel"
    assert load(tmp_path / "net.onnx").metadata["a"] == "b"


@pytest.mark.parametrize("name", ["onnx", "openvino", "c"])
def test_layers_that_int8_ruins_stay_in_float(name: str, tmp_path: Path) -> None:
    skip_without(name)
    model, data, path = FragileFirst(), images(), path_for(name, tmp_path)
    spoilt = quantize(model, name, path, data, input_size=SIZE, limits=Limits(min_agreement=0.0))
    kept = quantize(model, name, path, data, input_size=SIZE, limits=Limits(min_agreement=0.9), force=True)
    assert spoilt.float_layers == []
    assert spoilt.agreement < 0.9 <= kept.agreement
    assert 1 <= len(kept.float_layers) < kept.layers == 3
    expected = model(torch.from_numpy(data)).detach().numpy()
    assert (load(path).predict(data).argmax(1) == expected.argmax(1)).mean() == pytest.approx(kept.agreement)


def test_labels_make_accuracy_the_limit(tmp_path: Path) -> None:
    skip_without("onnx")
    model, data = network(), images()
    answers = model(torch.from_numpy(data)).detach().numpy().argmax(1)
    report = quantize(
        model, "onnx", tmp_path / "net.onnx", data, labels=answers, input_size=SIZE, limits=Limits(25)
    )
    assert report.top1_float == 100
    assert report.top1 is not None
    assert 75 <= report.top1 <= 100
    assert "top-1 100.00 % in float" in str(report)


class Fixed:
    """A quantiser whose layers do the given harm; what it writes is the sum of the harm of what is quantised."""

    def __init__(self, harm: dict[str, float]) -> None:
        self.harm = harm
        self.written: list[str] = []

    def layers(self) -> list[str]:
        return list(self.harm)

    def write(self, path: Path, *, keep: Any = (), only: str | None = None) -> None:
        quantised = [only] if only is not None else [name for name in self.harm if name not in keep]
        path.write_text(str(sum(self.harm[name] for name in quantised)))
        self.written = quantised

    @staticmethod
    def harm_of(path: Path) -> float:
        return float(path.read_text())


def chosen(harm: dict[str, float], agreement: float, folder: Path) -> tuple[Any, Fixed]:
    made = Fixed(harm)
    found = choose(
        made,
        folder / "net",
        score_of=lambda path: Score(1 - made.harm_of(path), 0.0),
        harm_of=made.harm_of,
        limits=Limits(min_agreement=agreement),
        announce=lambda _line: None,
    )
    return found, made


@pytest.mark.parametrize(("agreement", "kept"), [(0.3, 0), (0.5, 1), (0.7, 2), (0.8, 3), (0.95, 5)])
def test_as_few_layers_as_needed_stay_in_float_the_worst_first(
    agreement: float, kept: int, tmp_path: Path
) -> None:
    harm = {"a": 0.04, "b": 0.16, "c": 0.10, "d": 0.24, "e": 0.07, "f": 0.07}  # 0.68 in all
    found, made = chosen(harm, agreement, tmp_path)
    worst = ["d", "b", "c", "e", "f", "a"]
    assert list(found.kept) == worst[:kept]
    assert made.written == [name for name in harm if name not in worst[:kept]]
    assert found.score.agreement >= agreement


def test_limits_that_nothing_meets_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"costs too much even with 1 of 2 layers in float.*stay in float"):
        chosen({"a": 0.5, "b": 0.4}, 0.9, tmp_path)
    skip_without("onnx")
    place = tmp_path / "out"
    place.mkdir()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with torch.no_grad():
        model[0].weight.mul_(1e-6)
        model[0].bias.zero_()
    noise = images(64) * np.logspace(-6, 3, 64, dtype=np.float32)[:, None, None, None]
    with pytest.raises(InputError, match=r"costs too much even with 0 of 1 layers"):
        quantize(model, "onnx", place / "net.onnx", noise, input_size=SIZE, limits=Limits(min_agreement=1.0))
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (images(15), r"15 calibration images are too few; give at least 16"),
        (images(16).astype(np.float64), r"must be float32, not float64"),
        (images(16)[:, :2], r"shape \(16, 2, 12, 12\) do not fit; the network takes \(N, 3, 12, 12\)"),
        (np.where(images(16) > 3, np.nan, images(16)), r"calibration image \d+ holds NaN or infinity"),
        ([], r"there are no calibration images"),
        ("photos", r"calibration \(=str\) must be a float32 array"),
        ([images(8), images(8)[..., :6]], r"calibration batches differ in shape"),
        ([3, 4], r"a calibration batch must be an array \(N, C, H, W\), not int"),
    ],
)
def test_unusable_calibration_is_one_line(given: Any, message: str, tmp_path: Path) -> None:
    skip_without("onnx")
    with pytest.raises(InputError, match=message) as error:
        quantize(network(), "onnx", tmp_path / "net.onnx", given, input_size=SIZE)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


class BoxesAndScores(nn.Module):
    """One tensor of coordinates in hundreds of pixels and of scores below 1, as YOLO answers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.boxes = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1)
        self.scores = nn.Conv2d(16, 6, 1)
        nn.init.constant_(self.scores.bias, -4.0)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = torch.relu(self.stem(x))
        boxes = 300 + 200 * self.boxes(maps).flatten(2)
        return torch.cat([boxes, self.scores(maps).flatten(2).sigmoid()], 1)


@pytest.mark.parametrize("target_name", ["onnx", "openvino", "litert"])
def test_scores_beside_boxes_are_not_rounded_away(target_name: str, tmp_path: Path) -> None:
    skip_without(target_name)
    model = BoxesAndScores()
    given = torch.from_numpy(images(32))  # a tensor does as well as an array
    path = tmp_path / {"onnx": "net.onnx", "openvino": "net.xml", "litert": "net.tflite"}[target_name]
    quantize(model, target_name, path, given, input_size=SIZE)
    with torch.no_grad():
        expected = model(given[:4])[:, 4:].numpy()
    found = load(path).predict(given[:4].numpy())[:, 4:]
    assert float(expected.max()) < 0.1
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


def test_a_network_without_layers_to_quantise_is_one_line(tmp_path: Path) -> None:
    skip_without("onnx")
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match=r"no convolution and no matrix product to quantise"):
        quantize(model, "onnx", tmp_path / "net.onnx", images(16), input_size=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_a_transposed_convolution_of_several_groups_with_a_bias_stays_in_float(tmp_path: Path) -> None:
    skip_without("onnx")
    onnx = pytest.importorskip("onnx")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 16, 2, 2, groups=4),
        nn.AvgPool2d(20),
        nn.Flatten(),
    ).eval()
    quantize(
        model, "onnx", tmp_path / "net.onnx", images(16), input_size=SIZE, limits=Limits(min_agreement=0)
    )
    nodes = {node.op_type: node for node in onnx.load(tmp_path / "net.onnx").graph.node}
    weights = {tensor.name: tensor for tensor in onnx.load(tmp_path / "net.onnx").graph.initializer}
    assert weights[nodes["ConvTranspose"].input[1]].data_type == onnx.TensorProto.FLOAT
    assert nodes["Conv"].input[1] not in weights  # it comes from bytes
    found = load(tmp_path / "net.onnx").predict(images(16))
    np.testing.assert_allclose(found, model(torch.from_numpy(images(16))).detach().numpy(), atol=0.02)


def test_a_transposed_convolution_at_the_end_is_rounded(tmp_path: Path) -> None:
    skip_without("onnx")
    onnx = pytest.importorskip("onnx")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, 2)).eval()
    quantize(
        model, "onnx", tmp_path / "net.onnx", images(16), input_size=SIZE, limits=Limits(min_agreement=0)
    )
    graph = onnx.load(tmp_path / "net.onnx").graph
    (last,) = [node for node in graph.node if node.op_type == "ConvTranspose"]
    assert last.input[1] not in {tensor.name for tensor in graph.initializer}  # it comes from bytes


def test_batches_with_labels_are_taken_as_images() -> None:
    from ghostnet.deploy.quantization.calibration import calibration_array

    batches = [
        (torch.from_numpy(images(10)), torch.zeros(10)),
        (torch.from_numpy(images(10)), torch.ones(10)),
    ]
    assert np.array_equal(calibration_array(iter(batches), SIZE), np.concatenate([images(10), images(10)]))


def test_bad_labels_and_limits_are_one_line(tmp_path: Path) -> None:
    skip_without("onnx")
    with pytest.raises(InputError, match=r"labels of shape \(3,\) and type int64 must be 16 integers"):
        quantize(network(), "onnx", tmp_path / "net.onnx", images(16), labels=[1, 2, 3], input_size=SIZE)
    with pytest.raises(InputError, match=r"max_drop \(=-1\) must be between 0 and 100"):
        Limits(max_drop=-1)
    with pytest.raises(InputError, match=r"min_agreement \(=1.5\) must be between 0 and 1"):
        Limits(min_agreement=1.5)


def test_targets_without_int8_and_missing_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        InputError, match=r"ncnn has no int8 here; the targets with int8 are onnx, openvino, litert"
    ):
        quantize(network(), "ncnn", tmp_path / "net.param", images(16), input_size=SIZE)
    with pytest.raises(InputError, match=r"unknown int8 target 'onx'; did you mean 'onnx'"):
        quantize(network(), "onx", tmp_path / "net.onnx", images(16), input_size=SIZE)
    found = target.is_installed
    monkeypatch.setattr(target, "is_installed", lambda module: module != "nncf" and found(module))
    with pytest.raises(InputError, match=r"nncf is not installed.*OpenVINO needs; run: pip install nncf"):
        quantize(network(), "openvino", tmp_path / "net.xml", images(16), input_size=SIZE)


@pytest.mark.slow
def test_an_int8_file_is_timed_beside_a_float_one(tmp_path: Path) -> None:
    skip_without("onnx")
    export(network(), "onnx", tmp_path / "float.onnx", input_size=SIZE)
    quantize(network(), "onnx", tmp_path / "int8.onnx", images(16), input_size=SIZE, limits=Limits(100, 0))
    paths = {"float": tmp_path / "float.onnx", "int8": tmp_path / "int8.onnx"}
    found = benchmark(paths, input_size=SIZE, min_seconds=0.01, cold_starts=1, processes=2)
    assert found.rows[1].cold_start_ms is not None
    assert [(row.name, row.precision) for row in found.rows] == [("float", "fp32"), ("int8", "int8")]
    assert found.rows[1].ratio != 1


@pytest.mark.parametrize(
    ("machine", "features", "bits"),
    [
        ("aarch64", (), 8),
        ("AMD64", (), 7),  # Windows does not say what its processor can do
        ("x86_64", (), 7),
        ("x86_64", ("avx2",), 7),
        ("x86_64", ("avx2", "avx512f"), 7),
        ("x86_64", ("avx2", "avx_vnni"), 8),
        ("x86_64", ("avx2", "amx_int8"), 8),
    ],
)
def test_weights_have_seven_bits_where_sums_of_eight_are_clipped(
    machine: str, features: tuple[str, ...], bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    monkeypatch.setattr(processor, "processor_features", lambda: features)
    assert processor.usual_weight_bits() == bits
    assert checked_weight_bits("onnx", None) == bits
    assert checked_weight_bits("litert", None) == 8


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_seven_bits_are_half_the_range_and_the_manifest_says_so(target: str, tmp_path: Path) -> None:
    skip_without(target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 3), nn.Flatten(), nn.LazyLinear(4))
    model(torch.zeros(1, *SIZE))
    path, given = (
        tmp_path / f"net{TARGETS[target].suffixes[0]}",
        {"input_size": SIZE, "limits": Limits(100, 0)},
    )
    quantize(model.eval(), target, path, images(16), weight_bits=7, **given)
    manifest = load(path).manifest
    assert manifest is not None
    assert manifest.quantisation is not None
    assert manifest.quantisation["weight_bits"] == 7
    if target == "onnx":
        onnx = pytest.importorskip("onnx")
        whole = [one for one in onnx.load(path).graph.initializer if one.data_type == onnx.TensorProto.INT8]
        largest = [
            int(np.abs(onnx.numpy_helper.to_array(one).astype(int)).max()) for one in whole if one.dims
        ]
        assert 60 <= max(largest) <= 64
    quantize(model, target, path, images(16), weight_bits=8, force=True, **given)
    assert "weight_bits" not in (load(path).manifest.quantisation or {})  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("target", "bits", "message"),
    [
        ("onnx", 4, r"weight_bits \(=4\) must be 7 or 8; fewer need fine-tuning"),
        ("onnx", True, r"weight_bits \(=True\) must be 7 or 8"),
        ("litert", 7, r"weight_bits \(=7\) must be 8 for litert"),
    ],
)
def test_other_bits_are_refused(target: str, bits: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        checked_weight_bits(target, bits)
