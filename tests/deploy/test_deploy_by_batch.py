"""Single images run in a network compiled for them, several in one with an open batch, with the same results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from ghostnet.deploy import benchmark, export, load  # noqa: E402
from ghostnet.deploy.targets.by_batch import ByBatch  # noqa: E402
from ghostnet.errors import InputError  # noqa: E402
from ghostnet.nn import SqueezeExcite  # noqa: E402


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 8, 8), dtype=np.float32)


@pytest.mark.parametrize("name", ["net.onnx", "net.xml"])
def test_one_image_and_several_agree_and_each_network_is_made_once(tmp_path: Path, name: str) -> None:
    target = "onnx" if name.endswith("onnx") else "openvino"
    network = nn.Sequential(nn.Conv2d(3, 4, 3), SqueezeExcite(4), nn.Flatten())
    export(network, target, tmp_path / name, input_size=(3, 8, 8))
    session = load(tmp_path / name)
    networks = session._runner._requests if target == "openvino" else session._runner._sessions
    assert list(networks._made) == [1]  # opening makes no second one
    several = session.predict(images(3))
    each = np.concatenate([session.predict(one[None]) for one in images(3)])
    np.testing.assert_allclose(several, each, rtol=1e-5, atol=1e-6)
    assert sorted(networks._made, key=str) == [1, None]


def foreign(path: Path, batch: int | str, sides: tuple[int | str, int | str] = (8, 8)) -> None:
    """Write an ONNX file that is not ours: maps times 2, with such a batch axis."""
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3, *sides]) for name in ("in", "out")
    ]
    two = numpy_helper.from_array(np.array(2, dtype=np.float32), "two")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["in", "two"], ["out"])], "twice", *([one] for one in shapes), [two]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


@pytest.mark.parametrize("axis", ["batch", "N"])
def test_a_foreign_file_with_an_open_batch_takes_any_number(tmp_path: Path, axis: str) -> None:
    foreign(tmp_path / "net.onnx", axis)
    session = load(tmp_path / "net.onnx")
    assert session._runner.batch is None
    for count in (1, 3):
        np.testing.assert_array_equal(session.predict(images(count)), 2 * images(count))


def test_a_foreign_file_with_a_fixed_batch_takes_multiples_of_it(tmp_path: Path) -> None:
    for batch in (1, 2):
        foreign(tmp_path / f"net{batch}.onnx", batch)
        session = load(tmp_path / f"net{batch}.onnx")
        assert session._runner.batch == batch
        np.testing.assert_array_equal(session.predict(images(4)), 2 * images(4))
    with pytest.raises(InputError, match="a multiple of 2"):
        session.predict(images(1))


def test_what_is_fixed_is_never_compiled_for_another_batch() -> None:
    asked: list[int | None] = []
    networks = ByBatch(lambda batch: asked.append(batch) or str(batch), 4)  # type: ignore[func-returns-value]
    assert (networks[1], networks[4], asked) == ("None", "None", [None])


def test_a_foreign_file_of_open_sizes_has_a_cold_start(tmp_path: Path) -> None:
    foreign(tmp_path / "net.onnx", "batch", sides=("height", "width"))
    row = benchmark(
        {"net": tmp_path / "net.onnx"}, input_size=(3, 5, 7), batch=2, min_seconds=0, cold_starts=1
    ).rows[0]
    assert row.cold_start_ms is not None
    assert row.cold_start_ms > 0


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"left": TensorProto.FLOAT, "right": TensorProto.FLOAT},
            r"has 2 inputs \(left, right\) where one is taken",
        ),
        ({"half": TensorProto.FLOAT16}, r"its input half is tensor\(float16\), not tensor\(float\)"),
    ],
)
def test_a_foreign_file_that_takes_more_than_images_is_refused(
    inputs: dict[str, int], message: str, tmp_path: Path
) -> None:
    given = [helper.make_tensor_value_info(name, kind, [1, 3, 8, 8]) for name, kind in inputs.items()]
    made = helper.make_tensor_value_info("out", next(iter(inputs.values())), [1, 3, 8, 8])
    graph = helper.make_graph([helper.make_node("Sum", list(inputs), ["out"])], "sum", given, [made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(InputError, match=message):
        load(tmp_path / "net.onnx")


def test_an_openvino_file_with_two_inputs_is_refused(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    operators = openvino.opset13
    both = [operators.parameter([1, 3, 8, 8], np.float32, name=name) for name in ("left", "right")]
    network = openvino.Model([operators.add(*both)], both, "sum")
    openvino.save_model(network, str(tmp_path / "net.xml"))
    with pytest.raises(InputError, match=r"has 2 inputs \(.*\) where one is taken"):
        load(tmp_path / "net.xml")


@pytest.mark.parametrize("axis", ["batch", "N"])
@pytest.mark.parametrize("change", ["gone", "another"])
def test_an_onnx_file_that_changes_under_a_session_changes_no_answer(
    tmp_path: Path, axis: str, change: str
) -> None:
    path = tmp_path / "net.onnx"
    foreign(path, axis)
    session = load(path)
    path.unlink()
    if change == "another":
        export(nn.Conv2d(3, 3, 1), "onnx", path, input_size=(3, 8, 8))
    for count in (1, 3):
        np.testing.assert_array_equal(session._runner.run(images(count)), [2 * images(count)])


def test_an_onnx_session_keeps_no_bytes_of_its_file(tmp_path: Path) -> None:
    foreign(tmp_path / "net.onnx", "batch")
    session = load(tmp_path / "net.onnx")
    session.predict(images(3))
    made = session._runner._sessions._made
    assert sorted(made, key=str) == [1, None]
    for one in (session._runner, *made.values()):
        assert not any(isinstance(value, bytes) for value in vars(one).values())


class Remembers(nn.Module):
    """Makes its grid anew where the shape is another than last time, as YOLO's heads do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.shape = nn.Conv2d(3, 4, 3, padding=1), None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.conv(images)
        if self.shape != maps.shape:
            self.grid, self.shape = torch.arange(maps.shape[-1]).float(), maps.shape
        return maps + self.grid


def test_a_network_whose_code_fixes_the_batch_is_written_for_single_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Remembers().eval()
    free = export(model, "onnx", tmp_path / "free.onnx", input_size=(3, 8, 8))
    assert free.batches == [1, 3]  # traced by a run, its sizes are computed again
    report = export(model, "onnx", tmp_path / "x.onnx", input_size=(3, 8, 8), optimized=False)
    assert report.batches == [1]
    assert json.loads((tmp_path / "x.onnx.json").read_text())["input"]["shape"] == [1, 3, 8, 8]
    images = torch.rand(3, 3, 8, 8)
    with torch.no_grad():
        assert np.allclose(
            load(tmp_path / "x.onnx").predict(images.numpy()), model(images).numpy(), atol=1e-5
        )
