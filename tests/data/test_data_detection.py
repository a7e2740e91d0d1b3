"""COCO's and Pascal VOC's formats: the same boxes from both, rules for odd boxes, and every kind of broken set."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ghostnet import InputError
from ghostnet.data import (
    DetectionBatches,
    DetectionSet,
    coco_splits,
    open_coco,
    open_detection,
    read_coco,
    read_voc,
)
from ghostnet.data.detection import box_image

_CELLS = Path(__file__).parents[1] / "detect" / "cells"
_OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>"
    "<ymax>{}</ymax></bndbox></object>"
)


@pytest.fixture
def content():
    return json.loads((_CELLS / "cells.json").read_text())


@pytest.fixture
def as_voc(content, tmp_path):
    """Write the cells in VOC's format, the first box of the first image as a difficult one."""
    root = tmp_path / "VOC"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    names = {category["id"]: category["name"] for category in content["categories"]}
    for number, image in enumerate(content["images"]):
        shutil.copy(_CELLS / image["file_name"], root / "JPEGImages")
        boxes = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        objects = "".join(
            _OBJECT.format(
                names[a["category_id"]], int(number == 0 and a is boxes[0]), x, y, x + width, y + height
            )
            for a in boxes
            for x, y, width, height in [a["bbox"]]
        )
        text = (
            f"<annotation><filename>{image['file_name']}</filename><size><width>{image['width']}</width>"
            f"<height>{image['height']}</height></size>{objects}</annotation>"
        )
        (root / "Annotations" / image["file_name"]).with_suffix(".xml").write_text(text)
    stems = [Path(image["file_name"]).stem for image in content["images"]]
    (root / "ImageSets/Main/train.txt").write_text("\n".join(stems[:6]) + "\n")
    (root / "ImageSets/Main/test.txt").write_text("\n".join(f"{stem}  1" for stem in stems[6:]))
    return root


def _written(tmp_path, content):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_both_formats_hold_the_same_boxes(as_voc):
    coco, voc = read_coco(_CELLS / "cells.json"), read_voc(as_voc)
    assert coco.classes == voc.classes == ["Platelets", "RBC", "WBC"]
    assert len(coco) == len(voc) == 10
    for one, two in zip(coco.images, voc.images, strict=True):
        assert one.path.name == two.path.name
        np.testing.assert_array_equal(one.boxes, two.boxes)
        np.testing.assert_array_equal(one.labels, two.labels)
        np.testing.assert_allclose(one.areas, two.areas)
    assert [int(image.ignored.sum()) for image in voc.images] == [1, *[0] * 9]
    assert voc.to_coco()["annotations"][0]["iscrowd"] == 1
    again = coco.to_coco()
    assert len(again["annotations"]) == sum(len(image.boxes) for image in coco.images)
    assert min(annotation["id"] for annotation in again["annotations"]) == 1


def test_files_are_named_from_their_common_folder(content, tmp_path):
    for number, image in enumerate(content["images"]):
        folder = tmp_path / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        shutil.copy(_CELLS / image["file_name"], folder / "x.jpg")
        image["file_name"] = f"{folder.name}/x.jpg"
    found = read_coco(_written(tmp_path, content), tmp_path).to_coco()["images"]
    assert [image["file_name"] for image in found[:3]] == ["a/x.jpg", "b/x.jpg", "a/x.jpg"]
    plain = read_coco(_CELLS / "cells.json")
    assert plain.to_coco()["images"][0]["file_name"] == "BloodImage_00007.jpg"
    assert replace(plain, images=[]).to_coco()["images"] == []


def test_splits_and_doors(as_voc, content, tmp_path):
    train, test = open_detection(as_voc, "train"), open_detection(as_voc, "test")
    assert (len(train), len(test)) == (6, 4)
    assert train.classes == test.classes  # over the whole folder, whatever a part has
    assert not {image.id for image in train.images} & {image.id for image in test.images}
    assert len(open_detection(_CELLS / "cells.json")) == 10
    assert len(open_detection(_CELLS, "cells.json")) == 10
    root = tmp_path / "own"
    (root / "annotations").mkdir(parents=True)
    shutil.copytree(_CELLS, root / "val")
    (root / "annotations/instances_val.json").write_text(json.dumps(content))
    assert len(open_detection(root, "val")) == 10
    with pytest.raises(InputError, match=r"no annotations/instances_train.json \(COCO\); splits there: val"):
        open_detection(root, "train")
    with pytest.raises(InputError, match="there is no folder nowhere"):
        open_detection("nowhere")
    with pytest.raises(InputError, match=r"is one file of annotations and has no split 'val'"):
        open_detection(_CELLS / "cells.json", "val")
    with pytest.raises(InputError, match=r"unknown split of .* 'tset'; did you mean 'test'"):
        open_detection(as_voc, "tset")


def test_crowds_empty_images_and_edges(content, tmp_path, capsys):
    first = content["images"][0]
    content["annotations"] = [
        a for a in content["annotations"] if a["image_id"] != content["images"][1]["id"]
    ]
    mine = [a for a in content["annotations"] if a["image_id"] == first["id"]]
    mine[0] |= {"iscrowd": 1, "area": 77.0}
    mine[1]["bbox"] = [-10.0, 5.0, 40.0, 500.0]
    found = read_coco(_written(tmp_path, content), _CELLS)
    assert "1 boxes cut off at their image's edge" in capsys.readouterr().err
    assert len(found) == 10  # pycocotools counts detections on images without boxes as wrong
    assert found.images[1].boxes.shape == (0, 4)
    place = int(np.flatnonzero(found.images[0].ignored)[0])
    assert found.images[0].areas[place] == 77.0  # of the segmentation, as COCO means it
    assert [0.0, 5.0, 30.0, 240.0] in found.images[0].boxes.tolist()
    batches = DetectionBatches(found, 3, training=True, mirror=False)
    assert batches.count == 9
    seen = {int(t["image_id"]): t for _, targets in batches.epoch(0) for t in targets}
    if first["id"] in seen:
        assert len(seen[first["id"]]["boxes"]) == len(mine) - 1


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([10, 10, 0, 20], r"instances.json: annotation 1: the box \[10.0, 10.0, 10.0, 30.0\] has width 0"),
        ([10, 10, 20, 0], "has width 20 and height 0, which must be above 0"),
        ([400, 10, 20, 20], "lies outside its image of 320x240 pixels"),
        ([-50, 10, 20, 20], "lies outside its image"),
        ([float("nan"), 10, 20, 20], "is not finite"),
    ],
)
def test_boxes_that_make_no_sense(content, tmp_path, box, message, capsys):
    content["annotations"][0]["bbox"] = box
    path = _written(tmp_path, content)
    with pytest.raises(InputError, match=message):
        read_coco(path, _CELLS)
    found = read_coco(path, _CELLS, bad_boxes="drop")
    assert sum(len(image.boxes) for image in found.images) == len(content["annotations"]) - 1
    assert "1 boxes without width or height or outside their image dropped" in capsys.readouterr().err


def test_a_byte_order_mark_in_front_is_no_damage(content, tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content), encoding="utf-8-sig")
    assert len(read_coco(path, _CELLS)) == 10


def test_broken_sets(content, tmp_path):
    def broken(change, message):
        copy = json.loads(json.dumps(content))
        change(copy)
        with pytest.raises(InputError, match=message) as caught:
            read_coco(_written(tmp_path, copy), _CELLS)
        assert "\n" not in str(caught.value)

    broken(
        lambda c: c["annotations"][3].update(category_id=7),
        r"unknown category in annotation 4 of .* 7; known",
    )
    broken(lambda c: c["annotations"][3].update(image_id=999), "annotation 4 names image 999, which")
    broken(lambda c: c["annotations"][3].update(bbox=[1, 2]), r"annotation 4 has the bbox \[1, 2\]")
    broken(lambda c: c["annotations"][3].update(bbox=[1, 2, 3, "a"]), "it must be .x, y, width, height.")
    broken(lambda c: c["images"].append(c["images"][0]), r"image id \d+ occurs twice; ids must be unique")
    broken(lambda c: c["categories"].append(c["categories"][0]), "category id 1 occurs twice")
    broken(lambda c: c["images"][0].pop("width"), "lacks 'width'")
    broken(lambda c: c["images"][0].update(height=0), "has width 320 and height 0")
    broken(lambda c: c.pop("categories"), "lacks the list 'categories'")
    broken(lambda c: c["annotations"].append(None), "'annotations' is None, not an object")
    broken(lambda c: c["images"].append("a.jpg"), "'images' is 'a.jpg', not an object")
    broken(lambda c: c["images"][0].update(width="wide"), "has width 'wide' and height 240")
    broken(lambda c: c["images"][0].update(width="9" * 5000), "they must be integers >= 1")
    broken(lambda c: c["images"][0].update(width=None), "lacks 'width'")
    broken(lambda c: c["images"][0].update(id="7"), "image id '7' must be an integer")
    broken(lambda c: c["categories"][0].update(id=[1]), r"category id \[1\] must be an integer")
    broken(lambda c: c["annotations"][3].update(category_id=[1]), "unknown category in annotation 4")
    broken(lambda c: c["annotations"][3].update(image_id=[1]), r"annotation 4 names image \[1\]")
    broken(lambda c: c["annotations"][3].update(bbox=[1, 2, 10**400, 4]), "is not finite")
    broken(lambda c: c["annotations"][3].update(area="big"), "annotation 4 has the area 'big'")
    broken(lambda c: c["annotations"][3].update(area=-1), "has the area -1; it must be a number >= 0")
    broken(
        lambda c: c["annotations"][3].update(iscrowd="0"), "annotation 4 has iscrowd '0'; it must be 0 or 1"
    )
    broken(
        lambda c: c["images"][0].update(file_name="gone.jpg"),
        r"gone.jpg, which is missing \(1 of 10 images are\)",
    )
    half = tmp_path / "half.json"
    half.write_text(json.dumps(content)[: len(json.dumps(content)) // 2])
    with pytest.raises(
        InputError, match=r"half.json is not whole JSON \(.* at line 1, column \d+\); copy it again"
    ):
        read_coco(half, _CELLS)
    with pytest.raises(InputError, match=r"there is no file .*none.json"):
        read_coco(tmp_path / "none.json", _CELLS)
    half.write_text("[]")
    with pytest.raises(InputError, match="must hold an object"):
        read_coco(half, _CELLS)
    with pytest.raises(InputError, match="unknown rule for bad boxes 'skip'"):
        read_coco(_CELLS / "cells.json", bad_boxes="skip")


def test_what_an_annotation_may_leave_out(content, tmp_path):
    whole = read_coco(_written(tmp_path, content), _CELLS)
    for entry in content["annotations"]:
        entry |= {"id": None, "area": None, "iscrowd": None}
    content["images"][0]["width"] = "320"
    bare = read_coco(_written(tmp_path, content), _CELLS)
    for one, two in zip(whole.images, bare.images, strict=True):
        assert (one.boxes == two.boxes).all()
        assert one.areas == pytest.approx(two.areas)


def test_voc_files_that_other_tools_write(as_voc):
    path = as_voc / "Annotations/BloodImage_00007.xml"
    text = path.read_text()
    plain = read_voc(as_voc).images[0]
    path.write_text(text.replace("<width>320</width>", "<width>320.0</width>"))
    assert (read_voc(as_voc).images[0].boxes == plain.boxes).all()
    path.write_text(text.replace("<difficult>0</difficult>", "<difficult>True</difficult>", 1))
    assert read_voc(as_voc).images[0].ignored.sum() == plain.ignored.sum() + 1
    (as_voc / "ImageSets/Main/marked.txt").write_text("\ufeffBloodImage_00007\n", encoding="utf-8")
    assert len(read_voc(as_voc, "marked")) == 1
    for change, message in (
        (("<name>RBC</name>", "<name></name>"), "has an object without a name"),
        (("<width>320</width>", "<width>0</width>"), "says that its image is 0x240 pixels"),
        (("<width>320</width>", "<width>320.5</width>"), "lacks a number for the image's size"),
        (("<annotation", '<?xml version="1.0" encoding="none"?><annotation'), "is not whole XML .*encoding"),
    ):
        assert change[0] in text
        path.write_text(text.replace(*change, 1))
        with pytest.raises(InputError, match=message):
            read_voc(as_voc)
    (as_voc / "ImageSets/Main/latin.txt").write_bytes(b"\xe9\n")
    with pytest.raises(InputError, match=r"latin.txt is not UTF-8 text"):
        read_voc(as_voc, "latin")


def _renamed(root, old, new):
    (root / f"Annotations/{old}.xml").rename(root / f"Annotations/{new}.xml")
    (root / f"JPEGImages/{old}.jpg").rename(root / f"JPEGImages/{new}.jpg")


def test_voc_pictures_are_those_of_their_annotations_name(as_voc):
    """`<filename>` is what a tool left in it: the source of a copied file, no ending, the name before a renaming."""
    first = as_voc / "Annotations/BloodImage_00007.xml"
    text = first.read_text()

    def found():
        return read_voc(as_voc).images[0].path.name

    for stale in ("BloodImage_00011.jpg", "BloodImage_00007", "gone.png", ""):
        first.write_text(text.replace("BloodImage_00007.jpg", stale))
        assert found() == "BloodImage_00007.jpg"
    picture = as_voc / "JPEGImages/BloodImage_00007.jpg"
    shutil.copy(picture, picture.with_suffix(".PNG"))
    assert found() == "BloodImage_00007.PNG"  # the first of two, unless it is named
    first.write_text(text)
    assert found() == "BloodImage_00007.jpg"
    picture.unlink()
    assert found() == "BloodImage_00007.PNG"
    picture.with_suffix(".PNG").rename(as_voc / "JPEGImages/elsewhere.jpg")
    first.write_text(text.replace("BloodImage_00007.jpg", "elsewhere.jpg"))
    assert found() == "elsewhere.jpg"
    first.write_text(text.replace("BloodImage_00007.jpg", "BloodImage_00011.jpg"))
    with pytest.raises(InputError, match=r"BloodImage_00007.jpg, which is missing \(1 of 10"):
        found()


def test_voc_names_may_have_spaces(as_voc):
    _renamed(as_voc, "BloodImage_00007", "my photo 1")
    _renamed(as_voc, "BloodImage_00011", "my photo")
    lists = as_voc / "ImageSets/Main"
    for lines, names in (
        ("my photo 1\nmy photo\n", ["my photo", "my photo 1"]),
        (
            "my photo 1  1\nmy photo  -1\nBloodImage_00015  0\n",
            ["BloodImage_00015", "my photo", "my photo 1"],
        ),
    ):
        (lists / "spaces.txt").write_text(lines)
        assert [image.path.stem for image in read_voc(as_voc, "spaces").images] == names
    (lists / "spaces.txt").write_text("my photo 2\n")
    with pytest.raises(InputError, match="lists my photo 2, for which there is no"):
        read_voc(as_voc, "spaces")


def test_broken_voc(as_voc):
    with pytest.raises(InputError, match=r"unknown class in .*xml: 'RBC'"):
        read_voc(as_voc, classes=["Platelets", "WBC"])
    lists = as_voc / "ImageSets/Main"
    (lists / "twice.txt").write_text("BloodImage_00007\nBloodImage_00007\n")
    with pytest.raises(InputError, match="lists BloodImage_00007 twice"):
        read_voc(as_voc, "twice")
    (lists / "gone.txt").write_text("BloodImage_99999\n")
    with pytest.raises(InputError, match="lists BloodImage_99999, for which there is no"):
        read_voc(as_voc, "gone")
    (lists / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="lists no image"):
        read_voc(as_voc, "empty")
    (as_voc / "JPEGImages/BloodImage_00011.jpg").unlink()
    with pytest.raises(InputError, match=r"BloodImage_00011.jpg, which is missing \(1 of 10"):
        read_voc(as_voc)
    path = as_voc / "Annotations/BloodImage_00007.xml"
    text = path.read_text()
    path.write_text(text.replace("<height>240</height>", "<height></height>"))
    with pytest.raises(InputError, match="lacks a number for the image's size"):
        read_voc(as_voc)
    path.write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match=r"BloodImage_00007.xml is not whole XML"):
        read_voc(as_voc)
    with pytest.raises(InputError, match="is not in Pascal VOC's format"):
        read_voc(as_voc / "JPEGImages")


def test_sizes_that_are_not_the_files_are_seen(content, tmp_path):
    content["images"][0]["width"] = 640
    found = read_coco(_written(tmp_path, content), _CELLS)
    with pytest.raises(InputError, match=r"is 320x240 pixels, instances.json says 640x240"):
        found.read(0)


def test_classes_follow_the_detector():
    cells = read_coco(_CELLS / "cells.json")
    turned = cells.with_classes(["WBC", "RBC", "other", "Platelets"])
    assert turned.category_ids[:2] == [3, 2]
    assert len(set(turned.category_ids)) == 4
    names = [turned.classes[label] for label in turned.images[0].labels]
    assert names == [cells.classes[label] for label in cells.images[0].labels]
    with pytest.raises(InputError, match="the detector was not trained on 'RBC'"):
        cells.with_classes(["WBC", "Platelets"])


def test_a_class_without_boxes_may_be_unknown_to_the_detector(content, tmp_path):
    content["categories"].append({"id": 9, "name": "tree"})
    path = _written(tmp_path, content)
    found = read_coco(path, _CELLS).with_classes(["WBC", "RBC", "Platelets"])
    assert (found.classes, found.category_ids) == (["WBC", "RBC", "Platelets"], [3, 2, 1])
    assert found.images[0].labels.min() >= 0
    content["annotations"][0] |= {"category_id": 9, "iscrowd": 1}
    with pytest.raises(InputError, match="the detector was not trained on 'tree'"):
        read_coco(_written(tmp_path, content), _CELLS).with_classes(["WBC", "RBC", "Platelets"])


def test_batches_are_a_function_of_seed_epoch_and_index():
    cells = read_coco(_CELLS / "cells.json")
    batches = DetectionBatches(cells, 4, training=True, longest=160, seed=3, keep_in_memory=True)
    assert len(batches) == 2
    whole = list(batches.epoch(1))
    (images, targets), *rest = batches.epoch(1, start=1)
    assert not rest
    assert all(torch.equal(a, b) for a, b in zip(images, whole[1][0], strict=True))
    halves = [next(iter(batches.epoch(1, start=1, share=(rank, 2)))) for rank in (0, 1)]
    assert torch.equal(halves[1][0][0], images[1])
    assert torch.equal(halves[0][1][1]["boxes"], targets[2]["boxes"])
    again = DetectionBatches(cells, 4, training=True, longest=160, seed=3, workers=1)
    for (one, _), (two, _) in zip(whole, again.epoch(1), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    other = [int(t["image_id"]) for _, ts in batches.epoch(2) for t in ts]
    assert other != [int(t["image_id"]) for _, ts in whole for t in ts]


@pytest.mark.parametrize(("size", "odd"), [((6, 4), (4, 6)), ((4, 6), (6, 4))])
def test_an_image_of_another_shape_is_trained_on_too(size, odd, tmp_path):
    images = []
    for number, (width, height) in enumerate([odd, size, size, size, size], 1):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (width, height)).save(path)
        images.append(box_image(number, path, (width, height), [([1.0, 1.0, 3.0, 3.0], 0, False, 4.0)]))
    batches = DetectionBatches(DetectionSet(images, ["cat"], [1], "shapes"), 2, training=True)
    seen = [[int(t["image_id"]) for _, ts in batches.epoch(epoch) for t in ts] for epoch in range(20)]
    assert all(len(set(ids)) == 4 for ids in seen)
    assert {number for ids in seen for number in ids} == {1, 2, 3, 4, 5}


def test_mirrored_boxes_stay_on_their_objects():
    cells = read_coco(_CELLS / "cells.json")
    plain = {int(t["image_id"]): (i[0], t) for i, ts in DetectionBatches(cells, 1) for t in ts}
    batches = DetectionBatches(cells, 1, training=True)
    flipped = 0
    for images, targets in batches.epoch(0):
        image, target = images[0], targets[0]
        before, boxes = plain[int(target["image_id"])]
        if not torch.equal(image, before):
            flipped += 1
            assert torch.equal(image.flip(2), before)
            x1, y1, x2, y2 = (int(v) for v in target["boxes"][0])
            a1, b1, a2, b2 = (int(v) for v in boxes["boxes"][0])
            torch.testing.assert_close(
                image[:, y1:y2, x1:x2].mean(), before[:, b1:b2, a1:a2].mean(), atol=0.02, rtol=0
            )
    assert 0 < flipped < 10


def test_bad_batches(content, tmp_path):
    cells = read_coco(_CELLS / "cells.json")
    for entry in content["annotations"]:
        entry["iscrowd"] = 1
    crowds = read_coco(_written(tmp_path, content), _CELLS)
    with pytest.raises(
        InputError, match=r"instances.json has nothing to train on: no image has a box that is no crowd"
    ):
        DetectionBatches(crowds, 8, training=True)
    with pytest.raises(
        InputError, match=r"`batch_size` \(=11\) must be between 1 and the 10 images with boxes"
    ):
        DetectionBatches(cells, 11, training=True)
    with pytest.raises(InputError, match=r"`workers` \(=-1\)"):
        DetectionBatches(cells, 1, workers=-1)
    with pytest.raises(InputError, match=r"`workers` \(=2\) decode elsewhere; set one of them"):
        DetectionBatches(cells, 1, workers=2, keep_in_memory=True)


def test_cocos_splits_by_rule_and_count(tmp_path):
    train = {"images": [{"id": number} for number in range(82_783)]}
    val = {"images": [{"id": 100_000 + number} for number in range(40_504)]}
    small = {"images": [{"id": 100_000 + 8 * number} for number in range(5_000)]}
    trainval, minival = coco_splits(train, val, small)
    assert (len(trainval), len(minival)) == (118_287, 5_000)
    assert not set(trainval) & set(minival)
    assert set(trainval) | set(minival) == {image["id"] for part in (train, val) for image in part["images"]}
    with pytest.raises(InputError, match="minival must have 5,000 images; these files give 4,999"):
        coco_splits(train, val, {"images": small["images"][1:]})
    with pytest.raises(InputError, match="trainval35k must have 118,287 images; these files give 118,286"):
        coco_splits({"images": train["images"][1:]}, val, small)
    for broken, message in (
        ({}, "val2017 lacks the list 'images'; it is not COCO's instances format"),
        ([], "val2017 lacks the list 'images'"),
        ({"images": [3]}, "an entry of 'images' is not an object"),
        ({"images": [{"file_name": "a.jpg"}]}, "image None lacks 'id'"),
    ):
        with pytest.raises(InputError, match=message):
            coco_splits(train, val, broken)
    with pytest.raises(InputError, match="unknown split of COCO 'minvial'; did you mean 'minival'"):
        open_coco(tmp_path, "minvial")
    with pytest.raises(InputError, match=r"there is no file .*instances_val2017.json"):
        open_coco(tmp_path, "minival")
    (tmp_path / "annotations").mkdir()
    shutil.copytree(_CELLS, tmp_path / "val2017")
    shutil.copy(_CELLS / "cells.json", tmp_path / "annotations/instances_val2017.json")
    with pytest.raises(InputError, match="minival must have 5,000 images; instances_val2017"):
        open_detection(tmp_path, "minival", bad_boxes="drop")
