"""Detectors in files: rewritten for a runtime, in int8, and without what torchvision's graphs waste."""

import importlib.util
from collections import Counter

import numpy as np
import pytest
import torch

from ghostnet import InputError, deploy, ghostify
from ghostnet.convert import absorb_channel_orders_
from ghostnet.deploy.quantization.onnx import OnnxQuantiser
from ghostnet.detect import (
    agreement,
    boxes_that_stay,
    create_detector,
    export_detector,
    light_settings,
    load_detector_file,
)
from ghostnet.models import create_model
from ghostnet.nn import GhostConv2d
from ghostnet.recipes.detection import export_rewritten, quantize_detector

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

_RUNTIMES = ("onnxruntime", "openvino") if importlib.util.find_spec("openvino") else ("onnxruntime",)


@pytest.fixture
def sure_detector(small_detector):
    """Return a maker of detectors whose random weights are sure of some boxes."""

    def make(kind, **changes):
        detector = small_detector(kind, score_threshold=0.02, **changes)
        if kind == "faster_rcnn":
            torch.nn.init.normal_(detector.network.roi_heads.box_predictor.cls_score.weight, std=0.3)
        else:
            torch.nn.init.normal_(detector.network.head.classification_head.cls_logits[1].weight, std=0.3)
        return detector.eval()

    return make


@pytest.fixture
def pictures(cells):
    whole = [cells.read(index) for index in range(10)]
    return [*whole, *(image.flip(2) for image in whole[:6])]


def _nodes(path):
    return onnx.load(str(path)).graph.node


def _found(path, images, runtime="onnxruntime"):
    session = load_detector_file(path, runtime=runtime)
    return [session.run(image.numpy()) for image in images]


def _spread_scores_(detector, picture):
    """Let random weights tell anchors apart: equal scores have no order to compare."""
    head = detector.eval().network.head.classification_head
    last = head.cls_logits[1]
    with torch.no_grad():
        maps = detector.network.backbone(picture[None, :, :128, :128] / 255)["0"]
        last.weight.mul_(2 / (head.cls_logits(head.conv(maps)) - last.bias[:, None, None]).std())


@pytest.mark.parametrize("kind", ["retinanet", pytest.param("faster_rcnn", marks=pytest.mark.slow)])
def test_the_trunk_is_rewritten_and_the_boxes_are_pytorchs(kind, sure_detector, pictures, tmp_path):
    detector = sure_detector(kind)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    images = [*pictures[:4], pictures[0][:, :150].clone(), pictures[0].transpose(1, 2).contiguous()]
    counts = []
    for runtime in _RUNTIMES:
        path = tmp_path / f"{runtime}.onnx"
        order = (runtime, *(other for other in _RUNTIMES if other != runtime))
        done = export_rewritten(detector, path, images=images, runtimes=order)
        assert tuple(done.agreement) == order
        assert all(found.boxes >= 50 and found.within(0.99, 1e-3) for found in done.agreement.values())
        counts.append(Counter(node.op_type for node in _nodes(path)))
    export_detector(detector, tmp_path / "plain.onnx", images=images)
    plain = Counter(node.op_type for node in _nodes(tmp_path / "plain.onnx"))
    assert all(found["Concat"] < plain["Concat"] for found in counts), "Ghost modules' maps are read in parts"
    assert len(counts) == 1 or counts[0] != counts[1], "each runtime gets its own passes"
    after = detector.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_converted_trunk_is_right_in_every_runtime(pictures, tmp_path):
    torch.manual_seed(0)
    backbone, _ = ghostify(create_model("mobilenetv2_035"), init="random")
    ghosts = [part for part in backbone.modules() if isinstance(part, GhostConv2d)]
    for part in ghosts:  # as a fit to dense weights leaves them
        part.set_channel_order_(torch.randperm(part.out_channels))
    absorb_channel_orders_(backbone)
    assert sum(part.channel_order is not None for part in ghosts) > 10
    settings = light_settings(min_size=96, max_size=128, score_threshold=0.02, freeze_batch_norm=False)
    detector = create_detector(backbone, ["a", "b"], settings)
    _spread_scores_(detector, pictures[0])
    done = export_rewritten(detector, tmp_path / "x.onnx", images=pictures[:3], runtimes=_RUNTIMES)
    assert all(found.boxes > 20 for found in done.agreement.values()), done
    picks = [
        node for node in _nodes(tmp_path / "x.onnx") if node.op_type == "Gather" and "/body/" in node.name
    ]
    axes = {attribute.i for node in picks for attribute in node.attribute if attribute.name == "axis"}
    assert -3 in axes
    assert 1 not in axes, "OpenVINO folds those into the next weights, wrongly"


def test_padding_by_size_is_written_as_numbers(pictures, tmp_path):
    from ghostnet.models import create_from_library

    torch.manual_seed(0)
    backbone = create_from_library("timm:tf_mobilenetv3_small_minimal_100")
    settings = light_settings(min_size=112, max_size=160, score_threshold=0.02, freeze_batch_norm=False)
    detector = create_detector(backbone, ["a", "b"], settings).eval()
    _spread_scores_(detector, pictures[0])
    images = [*pictures[:2], pictures[0][:, :150].clone(), pictures[0].transpose(1, 2).contiguous()]
    done = export_rewritten(detector, tmp_path / "x.onnx", images=images, runtimes=_RUNTIMES)
    assert all(found.boxes >= 20 for found in done.agreement.values())
    trunk = [node for node in _nodes(tmp_path / "x.onnx") if "/backbone/body/" in node.name]
    assert "Conv" in {node.op_type for node in trunk}
    computed = {"Ceil", "Shape"} & {node.op_type for node in trunk}
    assert not computed, "behind padding that is computed OpenVINO's int8 is wrong"


def test_int8_is_judged_in_the_runtime_that_does_worst(monkeypatch):
    from ghostnet.recipes.detection import export as room

    boxes = np.array([[0.0, 0, 10, 10], [20, 20, 30, 40]])
    both = {"boxes": boxes, "labels": np.zeros(2), "scores": np.array([0.9, 0.8])}
    one = {name: value[:1] for name, value in both.items()}

    class Session:
        def __init__(self, path, runtime):
            self.found = one if (str(path), runtime) == ("int8", "openvino") else both

        def run(self, _image):
            return self.found

    monkeypatch.setattr(room, "load_detector_file", lambda path, runtime: Session(path, runtime))
    judge = room._Judge("float", [np.zeros((3, 8, 8))], ("onnxruntime", "openvino"), 0.5)
    assert judge.score("int8").agreement == 0.5
    assert judge.score("float").agreement == 1
    assert judge.harm("int8") == 0, "which layers do harm is asked of the first alone"


def test_files_hold_nothing_that_looks_at_every_score(small_detector, tmp_path):
    detector = small_detector("retinanet")
    export_detector(detector, tmp_path / "x.onnx")
    graph = onnx.load(str(tmp_path / "x.onnx")).graph
    made = {output: node for node in graph.node for output in node.output}
    classes = len(detector.classes)
    searched = [made[node.input[0]] for node in graph.node if node.op_type == "NonZero"]
    session = load_detector_file(tmp_path / "x.onnx")
    assert len(session.run(np.zeros((3, 128, 128), np.uint8))["boxes"]) == 0
    first = [node for node in searched if node.op_type == "Greater"][::2]
    assert len(first) == 5, "one search a level among anchors, one among the scores of those chosen"
    assert classes > 1
    assert sum(node.op_type == "ReduceMax" for node in graph.node) >= 5
    export_detector(small_detector("faster_rcnn"), tmp_path / "y.onnx")
    kinds = {node.op_type for node in _nodes(tmp_path / "y.onnx")}
    assert "RoiAlign" in kinds
    assert "ScatterElements" not in kinds, "what is pooled is put in order row by row"


@pytest.mark.parametrize("kind", ["retinanet", pytest.param("faster_rcnn", marks=pytest.mark.slow)])
def test_int8_keeps_the_boxes(kind, sure_detector, pictures, tmp_path):
    detector, said = sure_detector(kind), []
    path = tmp_path / "x.onnx"
    done = quantize_detector(
        detector, path, pictures, limits=deploy.Limits(min_agreement=0.7), weight_bits=8, announce=said.append
    )
    assert said[0] == "exporting in float"
    assert done.bytes == path.stat().st_size < 0.6 * done.float_bytes
    assert done.images == 16
    assert 0.7 <= done.boxes_that_stay <= 1
    assert done.to_dict()["precision"] == "int8"
    assert f"{100 * done.boxes_that_stay:.1f} % of the boxes stay" in str(done)
    nodes = _nodes(path)
    rounded = {output for node in nodes if node.op_type == "DequantizeLinear" for output in node.output}
    layers = [node for node in nodes if node.op_type in ("Conv", "Gemm")]
    in_float = [node.name for node in layers if node.input[0] not in rounded]
    assert sorted(in_float) == sorted(done.float_layers)
    for node in nodes:
        if node.op_type in ("Ceil", "Floor", "NonMaxSuppression", "Exp"):
            assert rounded.isdisjoint(node.input), f"sizes and boxes stay in float: {node.name}"
    # another size than those that it was calibrated on, and an image without anything
    images = [pictures[0][:, :150].clone(), torch.full((3, 90, 140), 77, dtype=torch.uint8)]
    with torch.no_grad():
        wanted = [detector([image.float() / 255])[0] for image in images]
    for runtime in _RUNTIMES:
        assert boxes_that_stay(wanted, _found(path, images, runtime), least_score=0.5)[0] > 0.5


@pytest.mark.slow
def test_layers_stay_in_float_where_boxes_would_go(sure_detector, pictures, tmp_path, monkeypatch):
    detector = sure_detector("retinanet")
    logits = detector.network.head.classification_head.cls_logits[0]
    with torch.no_grad():  # a channel so large that the others have no step left in 8 bits
        logits.weight[0] *= 3000
        detector.network.head.classification_head.cls_logits[1].weight[:, 0] /= 3000
    named = OnnxQuantiser.layers

    def few(self):  # all of them take minutes to rank
        return [name for name in named(self) if "cls_logits" in name][:4]

    monkeypatch.setattr(OnnxQuantiser, "layers", few)
    said = []
    done = quantize_detector(
        detector, tmp_path / "x.onnx", pictures, limits=deploy.Limits(min_agreement=0.8), announce=said.append
    )
    assert done.layers == 4, "a depthwise and a 1x1 one a level"
    assert any("ranking" in line for line in said)
    assert done.float_layers
    assert any("cls_logits" in name for name in done.float_layers)
    assert done.boxes_that_stay >= 0.8


def test_what_int8_of_detectors_cannot_be(sure_detector, small_detector, pictures, tmp_path):
    path = tmp_path / "x.onnx"
    with pytest.raises(InputError, match=r"^15 calibration images are too few; give at least 16"):
        quantize_detector(sure_detector("retinanet"), path, pictures[:15])
    with pytest.raises(InputError, match=r"^nothing with a score of 0.5 is found in the calibration images"):
        quantize_detector(small_detector("retinanet").eval(), path, pictures)
    with pytest.raises(InputError, match=r"^weight_bits \(=4\) must be 7 or 8"):
        quantize_detector(sure_detector("retinanet"), path, pictures, weight_bits=4)
    with pytest.raises(InputError, match="unknown runtime 'openvin'; did you mean 'openvino'"):
        quantize_detector(sure_detector("retinanet"), path, pictures, runtimes=("openvin",))
    assert list(tmp_path.iterdir()) == []
    path.write_text("kept")
    with pytest.raises(InputError, match="exists; pass --force"):
        quantize_detector(sure_detector("retinanet"), path, pictures)
    assert path.read_text() == "kept"


def test_numbers_made_of_sizes_stay_in_float(tmp_path):
    from onnx import TensorProto, helper

    from ghostnet.recipes.detection.export import _rounded

    def node(kind, given, made, place="/network/backbone/"):
        return helper.make_node(kind, given, [made], name=f"{place}{kind}")

    nodes = [
        node("Conv", ["image", "weight"], "maps"),
        node("Shape", ["maps"], "sizes"),
        node("Cast", ["sizes"], "sides"),
        node("Add", ["maps", "sides"], "more"),
        node("Relu", ["more"], "positive", "/network/head/"),
        node("Mul", ["positive", "sides"], "boxes", "/network/"),
    ]
    nodes[2].attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    onnx.save(helper.make_model(helper.make_graph(nodes, "x", [], [])), tmp_path / "x.onnx")
    wanted = {"/network/backbone/Conv", "/network/backbone/Add", "/network/head/Relu"}
    assert _rounded(tmp_path / "x.onnx") == wanted


def test_what_is_pooled_is_put_in_the_order_of_the_boxes():
    from torchvision.ops.poolers import _onnx_merge_levels

    from ghostnet.detect.tracing import _merged

    levels = torch.tensor([2, 0, 2, 1, 0, 2])
    pooled = [torch.rand(int((levels == level).sum()), 4, 7, 7) for level in range(3)]
    assert torch.equal(_merged(levels, pooled), _onnx_merge_levels(levels, pooled))


def test_what_stays_of_two_boxes():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 40]])
    one = {"boxes": boxes, "labels": torch.tensor([0, 1]), "scores": torch.tensor([0.9, 0.8])}
    assert boxes_that_stay([one], [one], least_score=0.5) == (1.0, 0.0)
    few = {key: value[:1] for key, value in one.items()}
    assert boxes_that_stay([one], [few], least_score=0.5) == (0.5, 1.0)
    assert boxes_that_stay([few], [one], least_score=0.5) == (0.5, 1.0)
    assert boxes_that_stay([one], [few], least_score=0.85) == (1.0, 0.0)
    assert boxes_that_stay([one], [one], least_score=0.95) == (1.0, 0.0)
    less = {**one, "scores": torch.tensor([0.4, 0.8])}  # below the limit in one run: a partner all the same
    assert boxes_that_stay([one], [less], least_score=0.5) == (1.0, pytest.approx(0.25))
    moved = {**one, "boxes": boxes + torch.tensor([0.0, 0, 0, 2])}
    assert boxes_that_stay([one], [moved], least_score=0.5)[1] == pytest.approx(
        (2 / 12 + 2 / 22) / 2, abs=1e-3
    )
    assert agreement([one], [moved]).boxes == 2
