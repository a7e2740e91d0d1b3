"""CIFAR-10 written as folders of PNG files: which images, which classes, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from ghostnet import InputError
from ghostnet.data import (
    Cifar10,
    ImageFolder,
    open_held_out,
    open_split,
    with_class_indices,
    write_cifar10_folder,
)
from ghostnet.data.image_sets import training_folder

LABELS = np.arange(100) % 10
IMAGES = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
DATASET = Cifar10(IMAGES, LABELS, IMAGES[:50], LABELS[:50])


def test_all_classes_or_some_the_first_images_of_each(tmp_path):
    assert write_cifar10_folder(DATASET, tmp_path / "all") == {"train": 100, "val": 50}
    assert len(ImageFolder(tmp_path / "all" / "train").classes) == 10
    written = write_cifar10_folder(DATASET, tmp_path / "pets", per_class=5, classes=["dog", "cat"])
    assert written == {"train": 10, "val": 2}
    folder = ImageFolder(tmp_path / "pets" / "train")
    assert list(folder.classes) == ["cat", "dog"]
    assert [int(label) for label in folder.labels] == [0] * 5 + [1] * 5
    for number in (3, 13, 23, 33, 43):  # cats
        pixels = np.asarray(Image.open(tmp_path / "pets" / "train" / "cat" / f"{number:05d}.png"))
        assert np.array_equal(pixels, IMAGES[number])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_class": 4}, r"--per-class \(=4\) must be between 5 and 5000"),
        ({"classes": ["cats"]}, "unknown class of CIFAR-10 'cats'.*cat"),
        ({"classes": ["cat", "dog", "cat"]}, "class 'cat' is named twice; name each once"),
    ],
)
def test_bad_options_write_nothing(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        write_cifar10_folder(DATASET, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="is not empty; name another folder"):
        write_cifar10_folder(DATASET, tmp_path)


def test_what_was_interrupted_goes_on(tmp_path, monkeypatch):
    saved, save = [], Image.Image.save

    def interrupted(image, path, **options):
        saved.append(path)
        if len(saved) == 8:
            path.write_bytes(b"half an image")
            raise KeyboardInterrupt
        save(image, path, **options)

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_cifar10_folder(DATASET, tmp_path, per_class=5)
    with pytest.raises(InputError, match="is not empty; name another folder"):
        write_cifar10_folder(DATASET, tmp_path, per_class=5, classes=["dog"])
    assert write_cifar10_folder(DATASET, tmp_path, per_class=5) == {"train": 50, "val": 10}
    assert len(saved) == 8 + 53, "the first seven are not written again"
    monkeypatch.undo()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".png"}
    images = {"train": DATASET.train_images, "val": DATASET.test_images}
    assert len(files) == 60
    assert all(np.array_equal(Image.open(p), images[p.parts[-3]][int(p.stem)]) for p in files)


def write(root, *names, count=4):
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8)).save(root / name / f"{number}.png")
    return root


def split(root):
    return open_split(root, held_out_fraction=0.25, seed=0)


def test_names_of_parts_in_any_case(tmp_path):
    write(tmp_path, "Training/a", "Training/b")
    write(tmp_path, "Testing/a", "Testing/b", count=2)
    training, held_out = split(tmp_path)
    assert (training.classes, len(training), len(held_out)) == (["a", "b"], 8, 4)
    assert len(open_held_out(tmp_path)) == 4


def test_a_training_part_alone_is_split(tmp_path):
    training, held_out = split(write(tmp_path, "Train/a", "Train/b"))
    assert (training.classes, len(training), len(held_out)) == (["a", "b"], 6, 2)


def test_a_held_out_part_alone_is_no_training_set(tmp_path):
    with pytest.raises(InputError, match="has val but nothing to train on; add a folder train, or give"):
        split(write(tmp_path, "val/a", "val/b"))


def test_a_part_name_among_classes_is_a_class(tmp_path):
    training, _ = split(write(tmp_path, "bus", "car", "train"))
    assert training.classes == ["bus", "car", "train"]
    assert training_folder(tmp_path) == tmp_path
    assert open_held_out(write(tmp_path / "coins", "fake", "valid")).classes == ["fake", "valid"]


@pytest.mark.parametrize("names", [("train", "val"), ("Training", "Testing"), ("train",)])
def test_the_part_to_train_on(names, tmp_path):
    write(tmp_path, *(f"{name}/a" for name in names), ".cache")
    assert training_folder(tmp_path) == tmp_path / names[0]
    assert training_folder(tmp_path / names[0]) == tmp_path / names[0]


def test_parts_without_class_folders_and_beside_other_folders(tmp_path):
    write(tmp_path / "flat", "train", "val", "masks")
    assert training_folder(tmp_path / "flat") == tmp_path / "flat" / "train"
    write(tmp_path / "more", "val/a", "val/b", "unlabelled")
    assert open_held_out(tmp_path / "more").classes == ["a", "b"]


@pytest.mark.parametrize(
    ("names", "message"),
    [(["10", "100", "20"], "has a class '10', the network 3"), (["0", "00", "1"], "has a class '0'")],
)
def test_numbers_beyond_the_networks_classes_are_no_names_in_order(names, message, tmp_path):
    with pytest.raises(InputError, match=message):
        with_class_indices(ImageFolder(write(tmp_path, *names)), 3, "here")
    assert with_class_indices(ImageFolder(write(tmp_path / "b", "x", "y", "z")), 3, "here").classes == [
        "x",
        "y",
        "z",
    ]
