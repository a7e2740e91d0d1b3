"""Batches from files: every image once, the same ones whoever decodes them, and none silently missing."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import class_folders, jpeg, picture
from torch import Tensor

from ghostnet.data import (
    CropAugmentation,
    ImageBatches,
    ImageFolder,
    Preprocessing,
    ShardFolder,
    Subset,
    compare_loading_speed,
    evaluation_transform,
    training_transform,
    write_shards,
)
from ghostnet.errors import InputError

SMALL = Preprocessing(16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
AUGMENTATION = CropAugmentation()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("batches") / "photos", {"ant": 9, "bee": 8, "cat": 6})


def _each_its_own_label(folder: Path) -> Subset:
    """Labels that tell which image came."""
    source = ImageFolder(folder)
    return Subset(source, range(23), labels=np.arange(23), classes=[str(number) for number in range(23)])


def _batches(folder: Path, *, workers: int = 0, augmented: bool = True, size: int = 5) -> ImageBatches:
    return ImageBatches(
        _each_its_own_label(folder),
        size,
        preprocessing=SMALL,
        augmentation=AUGMENTATION if augmented else None,
        seed=3,
        workers=workers,
    )


def _labels(batches: list[tuple[Tensor, Tensor]]) -> list[int]:
    return [label for _, labels in batches for label in labels.tolist()]


def _same(left: list[tuple[Tensor, Tensor]], right: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = zip(left, right, strict=True)
    return all(torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_evaluation_takes_every_image_in_order(folder: Path) -> None:
    batches = _batches(folder, augmented=False)
    found = list(batches)
    assert len(found) == len(batches) == 5
    assert _labels(found) == list(range(23))
    assert found[0][0].shape == (5, 3, 16, 16)
    assert found[0][0].dtype == torch.float32


@pytest.mark.parametrize("start", [0, 1, 3])
def test_killed_and_resumed_in_mid_epoch_no_image_repeats_and_none_is_lost(folder: Path, start: int) -> None:
    whole = list(_batches(folder).epoch(4))
    assert len(set(_labels(whole))) == 20  # the last, smaller batch is dropped
    first = []
    for batch in _batches(folder).epoch(4):  # a run that is killed after `start` batches
        if len(first) == start:
            break
        first.append(batch)
    rest = list(_batches(folder).epoch(4, start=start))  # a new process has a new loader
    assert _same(first + rest, whole)


def test_workers_and_processes_change_nothing(folder: Path) -> None:
    whole = list(_batches(folder, size=6).epoch(1))
    with_workers = _batches(folder, size=6, workers=2)
    torch.manual_seed(9)  # nor does the global generator
    assert _same(list(with_workers.epoch(1)), whole)
    assert _same(list(with_workers.epoch(1, start=2)), whole[2:])  # the same workers, another epoch's plan
    shares = [list(_batches(folder, size=6).epoch(1, share=(rank, 2))) for rank in range(2)]
    assert all(len(labels) == 3 for share in shares for _, labels in share)
    for (images, labels), *parts in zip(whole, *shares, strict=True):
        for rank, (pixels, answers) in enumerate(parts):
            assert torch.equal(images[rank::2], pixels)
            assert torch.equal(labels[rank::2], answers)


def test_epochs_and_seeds_differ_and_the_global_generator_is_left_alone(folder: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second = (list(_batches(folder).epoch(epoch)) for epoch in (0, 1))
    assert _labels(first) != _labels(second)
    assert torch.equal(before, torch.get_rng_state())


def test_shards_and_folder_give_the_same_batches(folder: Path, tmp_path: Path) -> None:
    write_shards(ImageFolder(folder), tmp_path / "shards", images_per_shard=6)
    found = []
    for source in (ImageFolder(folder), ShardFolder(tmp_path / "shards")):
        images, labels = zip(*ImageBatches(source, 8, preprocessing=SMALL), strict=True)
        rows = zip(torch.cat(images).flatten(1).tolist(), torch.cat(labels).tolist(), strict=True)
        found.append(sorted((label, pixels) for pixels, label in rows))
    assert found[0] == found[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_named_counted_and_left_out(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    root = class_folders(tmp_path / "photos", {"ant": 4, "bee": 4})
    content = (root / "bee" / "001.jpg").read_bytes()
    (root / "bee" / "001.jpg").write_bytes(content[: len(content) // 2])
    (root / "ant" / "000.jpg").write_bytes(b"")
    batches = ImageBatches(ImageFolder(root), 4, preprocessing=SMALL, workers=workers)
    assert [len(labels) for _, labels in batches] == [3, 3]
    assert [len(labels) for _, labels in batches] == [3, 3]
    assert sorted(Path(name).parent.name for name in batches.skipped) == ["ant", "bee"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2  # each is told once
    assert all(line.startswith(f"skipped {root}") for line in lines)
    strict = ImageBatches(ImageFolder(root), 4, preprocessing=SMALL, workers=workers, strict=True)
    with pytest.raises(InputError, match=r"ant/000\.jpg cannot be read as an image: its format is not known"):
        list(strict)


def test_a_training_batch_without_any_image_is_an_error(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos", {"ant": 2})
    for path in (root / "ant").iterdir():
        path.write_bytes(b"nothing")
    batches = ImageBatches(ImageFolder(root), 2, preprocessing=SMALL, augmentation=AUGMENTATION)
    with pytest.raises(InputError, match=r"no image of a batch can be read, the first is .*\.jpg"):
        list(batches)
    assert list(ImageBatches(ImageFolder(root), 2, preprocessing=SMALL)) == []


def test_normalising_is_the_formula() -> None:
    pixels = torch.from_numpy(picture(0)).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (SMALL.mean, SMALL.std))
    assert torch.allclose(SMALL.normalise(pixels), (pixels / 255 - mean) / std, atol=1e-5)


def test_evaluation_is_resize_and_centre_crop_as_pillow_does_them() -> None:
    from PIL import Image

    pixels = picture(5, width=96, height=64)
    found = evaluation_transform(Preprocessing(28, 0.875))(torch.from_numpy(pixels).permute(2, 0, 1))
    resized = np.asarray(Image.fromarray(pixels).resize((48, 32), Image.Resampling.BILINEAR))
    difference = found.permute(1, 2, 0).numpy().astype(int) - resized[2:30, 10:38].astype(int)
    assert np.abs(difference).max() <= 1


def test_a_padded_crop_is_a_window_of_the_reflected_image() -> None:
    pixels = picture(6, width=8, height=8)
    transform = training_transform(
        Preprocessing(8, 1.0), CropAugmentation("padded_crop", padding=2, mirror=False)
    )
    padded = np.pad(pixels, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    windows = [padded[row : row + 8, column : column + 8] for row in range(5) for column in range(5)]
    for _ in range(20):
        found = transform(torch.from_numpy(pixels).permute(2, 0, 1)).permute(1, 2, 0).numpy()
        assert any(np.array_equal(found, window) for window in windows)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Preprocessing(0), r"the image size \(=0\)"),
        (lambda: Preprocessing(crop_fraction=1.5), r"`crop_fraction` \(=1.5\)"),
        (
            lambda: Preprocessing(interpolation="bicubik"),
            r"unknown interpolation 'bicubik'; did you mean 'bicubic'",
        ),
        (lambda: Preprocessing(std=(0.0, 1.0, 1.0)), r"`std` above 0"),
        (lambda: CropAugmentation("resized"), r"unknown augmentation 'resized'; did you mean 'resized_crop'"),
        (lambda: CropAugmentation(scale=(0.5, 0.2)), r"`crop_scale` \(=\[0.5, 0.2\]\)"),
        (lambda: CropAugmentation(padding=-1), r"`crop_padding` \(=-1\)"),
    ],
)
def test_bad_settings_are_told(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]


def test_bad_batches_are_told(folder: Path) -> None:
    source = ImageFolder(folder)
    with pytest.raises(InputError, match=r"`batch_size` \(=24\) must be between 1 and the 23 images"):
        ImageBatches(source, 24, preprocessing=SMALL, augmentation=AUGMENTATION)
    with pytest.raises(InputError, match=r"`workers` \(=-1\) must be >= 0"):
        ImageBatches(source, 4, preprocessing=SMALL, workers=-1)
    with pytest.raises(InputError, match=r"`crop_padding` \(=16\) must be below the 16 pixels"):
        ImageBatches(source, 4, preprocessing=SMALL, augmentation=CropAugmentation("padded_crop", padding=16))


def test_loading_speed_is_measured_beside_torchvisions(folder: Path) -> None:
    (folder / "ant" / "more.jpg").write_bytes(jpeg(99))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # torchvision's own decoder, which ours is compared with, is deprecated
        found = compare_loading_speed(str(folder), batch_size=8, rounds=1)
    (folder / "ant" / "more.jpg").unlink()
    assert [row["name"].split(",")[0] for row in found["rows"]] == ["ghostnet", "torchvision", "torchvision"]
    assert all(row["images_per_s"] > 0 for row in found["rows"])
    assert found["images"] == 24
    with pytest.raises(InputError, match=r"`rounds` \(=0\)"):
        compare_loading_speed(str(folder), rounds=0)
    with pytest.raises(InputError, match="images; the comparison loads batches of 1000"):
        compare_loading_speed(str(folder), batch_size=1000)
