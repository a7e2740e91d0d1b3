"""COCO's evaluation against its published numbers, and on detections that are known to be right or wrong."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ghostnet import InputError
from ghostnet.data import DetectionBatches
from ghostnet.detect import KINDS, STATS, detect, evaluate_detector, score_file, score_results


@pytest.fixture(scope="module")
def reference():
    return json.loads((Path(__file__).parent / "coco_eval.json").read_text())


def test_the_twelve_official_numbers(reference, tmp_path):
    assert (len(reference["truth"]["annotations"]), len(reference["results"])) == (830, 734)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(reference["results"]))
    found = score_file(reference["truth"], path)
    assert tuple(found.stats) == STATS == tuple(reference["stats"])
    for name, value in reference["stats"].items():
        assert found.stats[name] == pytest.approx(value, abs=1e-6)
    path.write_text(json.dumps({"annotations": reference["results"]}))  # the other form of a results file
    assert score_file(reference["truth"], path).stats == found.stats


def _perfect(truth):
    return [
        {"score": 0.9, **{key: entry[key] for key in ("image_id", "category_id", "bbox")}}
        for entry in truth["annotations"]
    ]


def test_perfect_and_empty_results(cells):
    truth = cells.to_coco()
    found = score_results(truth, _perfect(truth))
    assert found.stats["AP"] == pytest.approx(1)
    assert {name: row["AP50"] for name, row in found.classes.items()} == pytest.approx(
        dict.fromkeys(["Platelets", "RBC", "WBC"], 1.0)
    )
    assert sum(row["boxes"] for row in found.classes.values()) == len(truth["annotations"]) > 50
    assert score_results(truth, []).stats["AP"] == 0


def test_a_class_that_was_not_found_is_seen_in_its_row(cells):
    truth = cells.to_coco()
    found = score_results(truth, [r for r in _perfect(truth) if r["category_id"] != 2])
    assert (found.classes["RBC"]["AP"], found.classes["WBC"]["AP"]) == (0, pytest.approx(1))


def test_crowd_boxes_are_neither_missed_nor_wrong(cells):
    truth = cells.to_coco()
    results = _perfect(truth)
    for entry in truth["annotations"]:
        if entry["category_id"] == 2:
            entry["iscrowd"] = 1
    with_them = score_results(truth, results)
    without = score_results(truth, [r for r in results if r["category_id"] != 2])
    assert with_them.stats["AP"] == without.stats["AP"] == pytest.approx(1)
    assert with_them.classes["RBC"] == {"AP": -1.0, "AP50": -1.0, "boxes": 0}


def test_detections_come_back_in_the_files_pixels(cells, small_detector):
    detector = small_detector("retinanet", score_threshold=0.0)
    two = replace(cells, images=cells.images[:2])
    whole, reduced = DetectionBatches(two, 2), DetectionBatches(two, 1, longest=160)
    for batches in (whole, reduced):
        results, seconds = detect(detector, batches)
        assert len(results) == 200
        assert seconds > 0
        assert {r["image_id"] for r in results} == {image.id for image in cells.images[:2]}
        right = max(r["bbox"][0] + r["bbox"][2] for r in results)
        assert 240 < right <= 320.01  # images are 320 wide, also where they were reduced
    assert detector.training
    assert evaluate_detector(detector, whole).images == 2


def test_the_batch_size_has_no_influence(cells, small_detector, tmp_path):
    images = []
    for index in range(4):
        pixels = cells.read(index)[:, : (240, 240, 150, 100)[index], : (320, 320, 200, 320)[index]]
        path = tmp_path / f"{index}.png"
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
        images.append(replace(cells.images[index], path=path, height=pixels.shape[1], width=pixels.shape[2]))
    mixed = replace(cells, images=images)
    for kind in KINDS:
        detector = small_detector(kind, score_threshold=0.0)
        single, batched = (detect(detector, DetectionBatches(mixed, size))[0] for size in (1, 4))
        assert [r["image_id"] for r in batched] == [r["image_id"] for r in single]
        for image in images:
            one, two = (
                np.asarray([[*r["bbox"], r["score"]] for r in results if r["image_id"] == image.id])
                for results in (single, batched)
            )
            assert len(one) == 100
            np.testing.assert_allclose(two, one, atol=0.02)


def test_ground_truth_as_other_tools_write_it(cells):
    truth = cells.to_coco()
    results = _perfect(truth)
    for change in ({"id": 0}, {"id": 7}, {"id": None, "area": None, "iscrowd": None}):
        for entry in truth["annotations"]:
            entry |= (
                change  # pycocotools itself loses boxes of id 0, and all but one of an id that occurs twice
            )
        assert score_results(truth, results).stats["AP"] == pytest.approx(1)
    del truth["annotations"][0]["id"]
    assert score_results(truth, results).stats["AP"] == pytest.approx(1)
    truth["categories"][0]["name"] = truth["categories"][1]["name"]
    assert list(score_results(truth, results).classes) == ["RBC (1)", "RBC (2)", "WBC"]


def test_ground_truth_that_makes_no_sense(cells):
    for part, change, message in (
        ("annotations", {"image_id": 999}, "names image 999, which the ground truth does not list"),
        ("annotations", {"category_id": 9}, "unknown category in annotation 1 of the ground truth: 9"),
        ("annotations", {"bbox": "abcd"}, "has the bbox 'abcd'"),
        (
            "annotations",
            {"bbox": [1, 2, float("nan"), 4]},
            r"has the bbox \[1.0, 2.0, nan, 4.0\]; it must be finite",
        ),
        ("annotations", {"bbox": [1, 2, float("inf"), 4]}, "it must be finite"),
        ("categories", {"name": None}, "category 1 lacks 'name'"),
        ("images", {"id": None}, "image None lacks 'id'"),
    ):
        truth = cells.to_coco()
        truth[part][0] |= change
        with pytest.raises(InputError, match=message):
            score_results(truth, [])


def test_files_that_number_images_otherwise_are_told_by_their_names(cells, tmp_path):
    truth = cells.to_coco()
    results = _perfect(truth)
    numbers = [image["id"] for image in truth["images"]]
    turned = dict(zip(numbers, reversed(numbers), strict=True))
    kinds = {1: 3, 2: 1, 3: 2}
    found = {
        "images": [
            {**image, "id": turned[image["id"]], "file_name": f"/x/{image['file_name']}"}
            for image in truth["images"]
        ],
        "categories": [{**entry, "id": kinds[entry["id"]]} for entry in truth["categories"]],
        "annotations": [
            {**r, "image_id": turned[r["image_id"]], "category_id": kinds[r["category_id"]]} for r in results
        ],
    }
    path = tmp_path / "found.json"
    path.write_text(json.dumps(found))
    assert score_file(truth, path).stats == score_results(truth, results).stats
    path.write_text(json.dumps(found["annotations"]))  # a bare list has the ground truth's numbers
    assert score_file(truth, path).stats["AP"] < 0.5
    found["images"][0]["file_name"] = "another.jpg"
    path.write_text(json.dumps(found))
    with pytest.raises(
        InputError, match=r"result 0 is of another.jpg, and the ground truth has no file_name"
    ):
        score_file(truth, path)


def _in_folders(truth, names):
    images = [{**image, "file_name": name} for image, name in zip(truth["images"], names, strict=True)]
    return {**truth, "images": images}


def test_images_of_one_name_are_told_by_their_folders(cells, tmp_path):
    names = [f"{folder}/{number}.jpg" for number in range(5) for folder in "ab"]
    truth = _in_folders(cells.to_coco(), names)
    numbers = [image["id"] for image in truth["images"]]
    turned = dict(
        zip(numbers, [numbers[place ^ 1] for place in range(10)], strict=True)
    )  # a and b change places
    results = [{**r, "image_id": turned[r["image_id"]]} for r in _perfect(truth)]
    path = tmp_path / "found.json"

    def score(form, **changes):
        images = [
            {**image, "id": turned[image["id"]], "file_name": form(image["file_name"]), **changes}
            for image in truth["images"]
        ]
        path.write_text(json.dumps({**truth, "images": images, "annotations": results}))
        return score_file(truth, path).stats["AP"]

    assert score(lambda name: name) == score(lambda name: f"/data/{name}") == pytest.approx(1)
    assert score(lambda name: name.replace("/", "\\")) == pytest.approx(1)
    with pytest.raises(
        InputError, match=r"result 0 is of 0.jpg, and the ground truth has more than one file_name"
    ):
        score(lambda name: name[2:])
    with pytest.raises(InputError, match=r"result 0 is of c/0.jpg, and the ground truth has more than one"):
        score(lambda name: name.replace("a/", "c/"))
    with pytest.raises(
        InputError, match=r"of a/0.jpg of 7x240 pixels, which has 320x240 in the ground truth"
    ):
        score(lambda name: name, width=7)
    bare = _in_folders(truth, [f"{number}.jpg" for number in range(10)])
    path.write_text(
        json.dumps({**_in_folders(truth, [f"{n % 5}.jpg" for n in range(10)]), "annotations": results})
    )
    with pytest.raises(
        InputError, match=r"result 0 is of \d.jpg, and the file has more than one file_name like that"
    ):
        score_file(bare, path)


def test_bad_results(cells, tmp_path, small_detector):
    truth = cells.to_coco()
    good = _perfect(truth)[0]
    for change, message in (
        ({"image_id": 999}, "result 0 is of image 999, which the ground truth lacks"),
        ({"category_id": 9}, "result 0 is of category 9"),
        ({"image_id": [1]}, r"result 0 has image_id \[1\], which is no number"),
        ({"bbox": [1, 2, 3]}, r"result 0 has bbox \[1, 2, 3\] and score .*x, y, width, height"),
        ({"bbox": [1, 2, 3, float("nan")]}, r"result 0 has bbox \[1, 2, 3, nan\].*all finite"),
        ({"score": None}, "result 0 has bbox .* and score None"),
        ({"score": float("nan")}, "result 0 has bbox .* and score nan"),
    ):
        with pytest.raises(InputError, match=message):
            score_results(truth, [{**good, **change}])
    with pytest.raises(InputError, match="result 0 is 3, not an object with image_id, bbox and score"):
        score_results(truth, [3])
    with pytest.raises(InputError, match="result 0 lacks 'score'"):
        score_results(truth, [{key: good[key] for key in ("image_id", "category_id", "bbox")}])
    with pytest.raises(InputError, match="the set has no image"):
        score_results({**truth, "images": [], "annotations": []}, [])
    with pytest.raises(InputError, match="the ground truth must hold an object with images, annotations and"):
        score_results([], [])
    path = tmp_path / "results.json"
    path.write_text(json.dumps([good])[:-20])
    with pytest.raises(InputError, match=r"results.json is not whole JSON .* at line 1, column"):
        score_file(truth, path)
    path.write_text('{"a": 1}')
    with pytest.raises(InputError, match="must be a JSON list of results"):
        score_file(truth, path)
    with pytest.raises(InputError, match="the ground truth lacks the list 'images'"):
        score_file({"annotations": []}, path)
    with pytest.raises(InputError, match="tells 3 classes apart"):
        detect(small_detector("retinanet"), DetectionBatches(cells.with_classes([*cells.classes, "x"]), 1))
