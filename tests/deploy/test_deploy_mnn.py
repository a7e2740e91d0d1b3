"""What is MNN's own: operators that it lacks, texts in the file, files from elsewhere, a silent terminal."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("MNN")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from ghostnet.deploy import export, load  # noqa: E402
from ghostnet.deploy.targets.mnn import _CONVERT  # noqa: E402
from ghostnet.errors import InputError  # noqa: E402


class Finite(nn.Module):
    """ONNX has IsInf, MNN has not."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps * torch.isinf(maps).to(maps.dtype)


def test_an_operator_that_onnx_has_and_mnn_lacks_is_named_with_its_layer(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), Finite()))
    with pytest.raises(InputError, match=r"^MNN cannot express isinf \(layer 1\.1\); use another") as error:
        export(model, "mnn", tmp_path / "net.mnn", input_size=(3, 8, 8))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def maps_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 7, 3, stride=2)).eval()
    path = tmp_path_factory.mktemp("mnn") / "net.mnn"
    texts = {"origin": "test", "note": 'ä "quoted" --text'}
    report = export(model, "mnn", path, input_size=(3, 9, 11), metadata=texts)
    assert report.operators["Convolution"] == 2
    return model, path


def test_maps_come_back_in_pytorchs_layout_for_any_batch(maps_file: tuple[nn.Module, Path]) -> None:
    model, path = maps_file
    session = load(path)
    for batch in (4, 1, 2):
        images = np.random.default_rng(batch).standard_normal((batch, 3, 9, 11), dtype=np.float32)
        with torch.no_grad():
            expected = model(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(session.predict(images), expected, atol=1e-5)


def test_wide_3x3_convolutions_round_as_float32_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1))
    report = export(model, "mnn", tmp_path / "net.mnn", input_size=(64, 28, 28))
    assert report.relative_error is not None
    assert report.relative_error < 1e-5


def test_the_file_alone_carries_texts_and_no_path(maps_file: tuple[nn.Module, Path], tmp_path: Path) -> None:
    content = maps_file[1].read_bytes()
    (tmp_path / "alone.mnn").write_bytes(content)
    session = load(tmp_path / "alone.mnn")
    assert session.manifest is None
    assert session.metadata == {"origin": "test", "note": 'ä "quoted" --text'}
    assert session.input_size == (3, 9, 11)
    for place in (Path.home(), tmp_path, Path(sys.prefix), Path(__file__).parent):
        assert str(place).encode() not in content


@pytest.mark.parametrize(
    ("shape", "stated"),
    [((1, 3, 8, 8), (3, 8, 8)), ((2, 3, 8, 8), (3, 8, 8)), (("n", 3, "h", "w"), (3, "any", "any"))],
)
def test_files_from_elsewhere(shape: tuple[object, ...], stated: tuple[object, ...], tmp_path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((5, 3, 3, 3), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weights"], ["y"])],
        "other",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "net.onnx")
    command = [sys.executable, "-c", _CONVERT, "-f", "ONNX", "--modelFile", tmp_path / "net.onnx"]
    subprocess.run([*command, "--MNNModel", tmp_path / "net.mnn"], check=True, capture_output=True)
    session = load(tmp_path / "net.mnn")
    assert (session.input_size, session.metadata, session.manifest) == (stated, {}, None)
    images = np.random.default_rng(1).standard_normal((4, 3, 8, 8), dtype=np.float32)
    onnx_session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    step = 2 if shape[0] == 2 else 1
    parts = [onnx_session.run(None, {"x": images[n : n + step]})[0] for n in range(0, 4, step)]
    np.testing.assert_allclose(session.predict(images), np.concatenate(parts), atol=1e-5)
    if shape[0] == 2:
        with pytest.raises(InputError, match=r"a batch of 3 does not fit; net\.mnn takes a multiple of 2"):
            session.predict(images[:3])


def test_the_answer_is_all_that_is_printed(maps_file: tuple[nn.Module, Path]) -> None:
    program = (
        "import sys, numpy, ghostnet; print('first');"
        "session = ghostnet.deploy.load(sys.argv[1]);"
        "session.predict(numpy.zeros((1, 3, 9, 11), 'float32')); print('last')"
    )
    done = subprocess.run([sys.executable, "-c", program, maps_file[1]], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "first\nlast\n", "")


def test_a_converter_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghostnet.deploy.targets.mnn._CONVERT", "import sys; print('why'); sys.exit(3)")
    with pytest.raises(InputError, match=r"exported to MNN: MNN's converter ended with code 3: why; try"):
        export(nn.Conv2d(3, 4, 3), "mnn", tmp_path / "net.mnn", input_size=(3, 8, 8))
    assert list(tmp_path.iterdir()) == []
