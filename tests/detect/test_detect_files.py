"""Detectors in files: saved and loaded, drawn on pictures, exported with suppression in the graph."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ghostnet import InputError, ghostify, load
from ghostnet.detect import (
    KINDS,
    Agreement,
    DetectedImage,
    FoundBox,
    agreement,
    as_coco,
    create_detector,
    detect_files,
    draw_boxes,
    export_detector,
    light_settings,
    load_detector,
    load_detector_file,
    save_detector,
    score_file,
)
from ghostnet.models import create_model

_PHOTO = "BloodImage_00007.jpg"


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_rebuilds_the_detector(kind, small_detector, tmp_path):
    detector = small_detector(kind, score_threshold=0.0).eval()
    path = tmp_path / "cells.safetensors"
    save_detector(detector, path, info={"AP": 0.5})
    again = load_detector(path)
    assert (again.classes, again.settings, again.ghostnet_info) == (
        detector.classes,
        detector.settings,
        {"AP": 0.5},
    )
    image = torch.rand(3, 100, 120)
    with torch.no_grad():
        one, two = detector([image])[0], again([image])[0]
    assert len(one["boxes"]) > 0
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_converted_backbones_are_rebuilt(tmp_path):
    backbone, report = ghostify(create_model("mobilenetv2_035"), ratio=2, init="random")
    assert report.to_dict()["layers"]
    detector = create_detector(backbone, ["a"], light_settings(min_size=64, max_size=64)).eval()
    save_detector(detector, tmp_path / "x.safetensors")
    again = load_detector(tmp_path / "x.safetensors")
    assert list(again.state_dict()) == list(detector.state_dict())


def _same_answers(one, two):
    image = torch.rand(3, 70, 90)
    with torch.no_grad():
        expected, found = one.eval()([image])[0], two.eval()([image])[0]
    assert len(expected["boxes"]) > 0
    return all(torch.equal(expected[key], found[key]) for key in expected)


def test_detectors_that_were_converted_as_a_whole_or_in_part_are_rebuilt(small_detector, tmp_path):
    path = tmp_path / "x.safetensors"
    backbone = create_model("mobilenetv2_035")
    backbone.features[3] = ghostify(backbone.features[3], ratio=2, init="random")[0]  # its edits are its own
    settings = light_settings(min_size=64, max_size=96, score_threshold=0.0, freeze_batch_norm=False)
    before = create_detector(backbone, ["a", "b"], settings)
    whole, report = ghostify(before, ratio=2, init="random")
    assert report.to_dict()["layers"]
    part = small_detector("faster_rcnn", score_threshold=0.0)
    part.network.backbone = ghostify(part.network.backbone, ratio=2, init="random")[0]
    for detector in (before, whole, part):
        save_detector(detector, path)
        again = load_detector(path)
        assert _same_answers(detector, again)
        save_detector(again, path)
        assert _same_answers(detector, load_detector(path))


def test_a_detector_that_its_file_could_not_rebuild_is_not_saved(small_detector, tmp_path):
    path = tmp_path / "x.safetensors"
    for change, message in (
        (lambda body: body.parts[1].append(torch.nn.BatchNorm2d(3)), r"parts.1.2 is BatchNorm2d instead of"),
        (lambda body: body.parts.__setitem__(1, torch.nn.Identity()), r"parts.1 is Identity instead of"),
        (
            lambda body: setattr(body, "ghostnet_edits", [{"path": "gone", "kind": "identity"}]),
            "unknown module path",
        ),
    ):
        detector = small_detector("retinanet")
        change(detector.network.backbone.body)
        with pytest.raises(
            InputError, match=f"was changed after it was built .*{message}.*could not rebuild"
        ):
            save_detector(detector, path)
        assert not path.exists()


def test_files_that_do_not_fit(small_detector, tmp_path):
    path = tmp_path / "cells.safetensors"
    save_detector(small_detector("retinanet"), path)
    with pytest.raises(InputError, match=r"was trained on 3 classes \(Platelets, RBC, WBC\), not 80"):
        load_detector(path, classes=80)
    with pytest.raises(InputError, match=r"holds a detector; use ghostnet.detect.load_detector"):
        load(path)
    with pytest.raises(InputError, match="exists; pass --force"):
        save_detector(small_detector("retinanet"), path, force=False)
    classifier = tmp_path / "classifier.safetensors"
    from ghostnet import save

    save(create_model("ghostnet_050"), classifier)
    with pytest.raises(InputError, match="holds a classifier, no detector"):
        load_detector(classifier)
    backbone = create_model("ghostnet_050")
    del backbone.ghostnet_origin
    with pytest.raises(InputError, match="a network of your own class"):
        save_detector(create_detector(backbone, ["a"]), classifier)


def test_pictures_and_cocos_json(small_detector, cells, tmp_path, capsys):
    detector = small_detector("retinanet", score_threshold=0.0)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    paths = [cells.images[0].path, broken, tmp_path / "gone.jpg"]
    found = detect_files(detector, paths, least_score=0.0, out_dir=tmp_path / "drawn")
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"skipped {path}" for path in paths[1:]
    ]
    assert [image.error for image in found] == ["", "its format is not known", "No such file or directory"]
    assert len(found[0].boxes) == 100
    drawn = np.asarray(Image.open(tmp_path / "drawn" / f"{cells.images[0].path.stem}_boxes.jpg"))
    original = np.asarray(Image.open(cells.images[0].path))
    assert drawn.shape == original.shape
    assert (drawn != original).any()
    value = as_coco(found, detector.classes)
    assert [image["file_name"] for image in value["images"]] == [_PHOTO], "readers divide by an image's size"
    turned = as_coco(found[::-1], detector.classes)
    assert [(image["id"], image["file_name"]) for image in turned["images"]] == [(1, _PHOTO)]
    assert {entry["image_id"] for entry in turned["annotations"]} == {1}
    assert len(value["annotations"]) == 100
    path = tmp_path / "found.json"
    path.write_text(json.dumps(value))
    truth = {**value, "annotations": [{**a, "id": n} for n, a in enumerate(value["annotations"], 1)]}
    assert score_file(truth, path).images == 1  # it is COCO's format: pycocotools reads it
    with pytest.raises(InputError, match="cannot be read as an image"):
        detect_files(detector, [broken])
    with pytest.raises(InputError, match=r"the least score \(=2\)"):
        detect_files(detector, paths, least_score=2)
    with pytest.raises(InputError, match="no images"):
        detect_files(detector, [])
    with pytest.raises(InputError, match="two images named"):
        detect_files(detector, [paths[0], paths[0]], out_dir=tmp_path / "twice")


def test_an_image_of_which_nothing_is_left_is_skipped(small_detector, cells, tmp_path, capsys):
    detector = small_detector("retinanet", min_size=64, max_size=96)
    for name, size in (("thin", (990, 10)), ("high", (10, 990)), ("just", (950, 10))):
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
    thin, high, just = (tmp_path / f"{name}.png" for name in ("thin", "high", "just"))
    found = detect_files(detector, [thin, high, just, cells.images[0].path])
    assert [bool(image.error) for image in found] == [True, True, False, False]
    assert "thin.png: an image of 990x10 pixels is too long and thin" in capsys.readouterr().err
    with pytest.raises(InputError, match="too long and thin: scaled to 96 pixels"):
        detect_files(detector, [thin, just], strict=True)
    with pytest.raises(InputError, match="an image of 990x10 pixels is too long and thin"):
        export_detector(detector, tmp_path / "x.onnx", images=[torch.zeros(3, 10, 990, dtype=torch.uint8)])


def test_files_in_folders_are_named_from_there():
    paths = [Path(name) for name in ("photos/a/1.jpg", "photos/b/1.jpg", "more/a/1.jpg", "2.jpg", "x/3.jpg")]
    value = as_coco([DetectedImage(path, (4, 4)) for path in paths], ["a"], folders=[Path("photos")])
    names = [image["file_name"] for image in value["images"]]
    assert names == ["a/1.jpg", "b/1.jpg", "1.jpg", "2.jpg", "3.jpg"]
    value = as_coco([DetectedImage(path, (4, 4)) for path in paths[:2]], ["a"])
    assert [image["file_name"] for image in value["images"]] == ["photos/a/1.jpg", "photos/b/1.jpg"]


def test_a_box_is_drawn_where_it_is():
    pixels = torch.zeros(3, 100, 100, dtype=torch.uint8)
    box = FoundBox("b", 0.9, (20.0, 40.0, 80.0, 90.0))
    image = np.asarray(draw_boxes(pixels, [box], ["a", "b"]))
    assert tuple(image[90, 50]) == tuple(image[70, 20]) == (0x1F, 0x77, 0xB4)
    assert not image[60:80, 30:70].any()
    assert as_coco([DetectedImage(path=__import__("pathlib").Path("x.png"))], ["a"])["annotations"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_gives_pytorchs_boxes_on_real_images(kind, small_detector, cells, tmp_path):
    pytest.importorskip("onnxruntime")
    detector = small_detector(kind, score_threshold=0.02)
    if kind == "faster_rcnn":
        torch.nn.init.normal_(detector.network.roi_heads.box_predictor.cls_score.weight, std=0.1)
    else:
        torch.nn.init.normal_(detector.network.head.classification_head.cls_logits[1].weight, std=0.15)
    images = [cells.read(index) for index in range(10)]
    images.append(images[0][:, :150, :].clone())  # another shape than the one that was traced
    images.append(images[0].transpose(1, 2).contiguous())
    runtimes = ("onnxruntime", "openvino") if _has("openvino") else ("onnxruntime",)
    path = tmp_path / "cells.onnx"
    done = export_detector(detector, path, images=images, runtimes=runtimes)
    assert done.images == 12
    assert tuple(done.agreement) == runtimes
    for found in done.agreement.values():
        assert found.boxes >= 100
        assert found.without_partner == 0
        assert found.least_iou >= 0.99
        assert found.largest_score_difference <= 1e-3
    operators = _operators(path)
    assert "NonMaxSuppression" in operators
    assert ("RoiAlign" in operators) == (kind == "faster_rcnn")
    session = load_detector_file(path)
    assert session.classes == ["Platelets", "RBC", "WBC"]
    assert len(session.run(np.zeros((3, 90, 70), np.uint8))["boxes"]) <= 100
    with pytest.raises(InputError, match="exists; pass --force"):
        export_detector(detector, path)
    with pytest.raises(InputError, match="unknown runtime 'openvin'; did you mean 'openvino'"):
        export_detector(detector, tmp_path / "other.onnx", runtimes=("openvin",))


@pytest.mark.parametrize("kind", [pytest.param("retinanet", marks=pytest.mark.slow), "faster_rcnn"])
def test_onnx_of_an_image_with_nothing_on_it(kind, small_detector, tmp_path):
    pytest.importorskip("onnxruntime")
    runtimes = ("onnxruntime", "openvino") if _has("openvino") else ("onnxruntime",)
    detector = small_detector(kind, score_threshold=0.9)  # nothing is that sure
    path = tmp_path / f"{kind}.onnx"
    done = export_detector(detector, path, runtimes=runtimes)
    assert done.images == 2
    assert "If" not in _operators(path)
    for runtime in runtimes:
        assert done.agreement[runtime] == Agreement(0, 0, 1.0, 0.0)
        session = load_detector_file(path, runtime=runtime)
        # OpenVINO's answer to the empty branch was old memory
        for shape in ((3, 100, 100), (3, 90, 140)):
            found = session.run(np.full(shape, 77, np.uint8))
            assert (found["boxes"].shape, found["scores"].shape) == ((0, 4), (0,))


def test_a_file_that_invents_boxes_on_a_plain_image_is_not_kept(small_detector, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    import torchvision.ops.boxes as suppression

    def invent(_session, image):
        count = int(len(np.unique(image)) == 1)
        return {"boxes": np.ones((count, 4)), "labels": np.zeros(count), "scores": np.ones(count)}

    monkeypatch.setattr("ghostnet.detect.session.DetectorSession.run", invent)
    before = suppression._batched_nms_coordinate_trick
    with pytest.raises(RuntimeError, match="differs from PyTorch in onnxruntime: 0 boxes, 1 without partner"):
        export_detector(small_detector("retinanet", score_threshold=0.9), tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()
    assert suppression._batched_nms_coordinate_trick is before


def test_agreement_sees_what_differs():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 40]])
    one = {"boxes": boxes, "labels": torch.tensor([0, 1]), "scores": torch.tensor([0.9, 0.8])}
    turned = {key: value.flip(0) for key, value in one.items()}
    assert agreement([one], [turned]) == Agreement(2, 0, 1.0, 0.0)
    moved = {**one, "boxes": boxes + torch.tensor([0.0, 0, 0, 2])}
    assert agreement([one], [moved]).least_iou == pytest.approx(10 / 12, abs=1e-3)
    assert not agreement([one], [moved]).within(0.99, 1e-3)
    other = {**one, "labels": torch.tensor([0, 0])}
    assert agreement([one], [other]).without_partner == 2
    few = {key: value[:1] for key, value in one.items()}
    assert agreement([one], [few]).without_partner == 1
    assert agreement([few], [one]).without_partner == 1
    assert agreement([one], [few], least_score=0.85).without_partner == 0
    flat = {**one, "boxes": torch.tensor([[0.0, 5, 30, 5], [20, 20, 30, 40]])}  # cut off at the edge: no area
    assert agreement([flat], [flat]) == Agreement(2, 0, 1.0, 0.0)
    less = {**one, "scores": torch.tensor([0.9, 0.7])}
    assert agreement([one], [less]).largest_score_difference == pytest.approx(0.1)


def test_bad_files_of_exported_detectors(tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "x.onnx"
    with pytest.raises(InputError, match=r"there is no file .*x.onnx"):
        load_detector_file(path)
    path.write_bytes(b"nothing")
    for runtime in ("onnxruntime", *(["openvino"] if _has("openvino") else [])):
        with pytest.raises(InputError, match="is not an exported detector"):
            load_detector_file(path, runtime=runtime)
    with pytest.raises(InputError, match="unknown runtime 'openvin'; did you mean 'openvino'"):
        load_detector_file(path, runtime="openvin")
    with pytest.raises(InputError, match=r"threads \(=0\)"):
        load_detector_file(path, threads=0)


def _has(package):
    import importlib.util

    return importlib.util.find_spec(package) is not None


def _operators(path):
    import onnx

    graph = onnx.load(str(path)).graph
    found = set()

    def walk(nodes):
        for node in nodes:
            found.add(node.op_type)
            for attribute in node.attribute:
                walk(attribute.g.node)

    walk(graph.node)
    return found


@pytest.mark.parametrize(
    ("args", "edits", "part"),
    [
        ({"settings": {}}, [], "classes"),
        ({"classes": ["cat"], "settings": None}, [], "settings"),
        ({"classes": ["cat"], "settings": {}}, None, "backbone's edits"),
    ],
)
def test_a_damaged_header_is_one_line(tmp_path, args, edits, part):
    origin = {"library": "ghostnet.detect", "name": "retinanet", "args": args, "backbone_edits": edits}
    record = {"schema": 1, "origin": origin, "edits": [], "info": {}}
    save_file({"w": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"ghostnet": json.dumps(record)})
    with pytest.raises(InputError, match=f"damaged header: its {part} is"):
        load_detector(tmp_path / "x.safetensors")
