"""Batches are a function of (seed, epoch, index) alone; augmentation moves pixels and invents none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ghostnet.data import Augmentation, TensorBatches
from ghostnet.data.augment import cutout, random_crop, random_mirror
from ghostnet.errors import InputError

COUNT, SIDE = 22, 12
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
AUGMENTATION = Augmentation(crop_padding=4, mirror=True, cutout=4)
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
LABELS = np.arange(COUNT)  # each image its own, so that a label tells which image came


def _batches(augmentation: Augmentation | None = None, seed: int = 0, batch_size: int = 5) -> TensorBatches:
    return TensorBatches(IMAGES, LABELS, batch_size, mean=MEAN, std=STD, augmentation=augmentation, seed=seed)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _pixels(count: int = 200) -> Tensor:
    return torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=_generator(1))


def _same(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(left, right, strict=True))


def test_without_augmentation_all_images_come_in_order_and_normalised() -> None:
    batches = _batches()
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    expected = (IMAGES.transpose(0, 3, 1, 2) / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    np.testing.assert_allclose(images.numpy(), expected, atol=1e-5)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert labels.tolist() == LABELS.tolist()
    assert len(batches) == len(list(batches)) == 5  # the last one has 2 images
    assert batches.count == COUNT


def test_with_augmentation_a_partial_batch_is_dropped_and_nothing_comes_twice() -> None:
    batches = _batches(AUGMENTATION)
    parts = list(batches.epoch(3))
    assert len(batches) == len(parts) == 4
    assert {tuple(images.shape) for images, _ in parts} == {(5, 3, SIDE, SIDE)}
    labels = torch.cat([labels for _, labels in parts]).tolist()
    assert len(set(labels)) == 20
    assert labels != sorted(labels)


def test_shuffled_without_augmentation_images_stay_as_they_are() -> None:
    batches = TensorBatches(IMAGES, LABELS, 5, mean=MEAN, std=STD, shuffle=True)
    epochs = [[torch.cat(parts) for parts in zip(*batches.epoch(number), strict=True)] for number in (0, 1)]
    assert (
        len(batches) == 4
    )  # the last one, with 2 images, is dropped, so that each process gets its share of all
    assert epochs[0][1].tolist() != epochs[1][1].tolist()
    for images, labels in epochs:
        assert sorted({*labels.tolist()}) == sorted(labels.tolist())
        pixels = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2)[labels.numpy()].copy())
        assert torch.equal(images, batches.normalise(pixels))
    with pytest.raises(InputError, match="must be between 1 and the 22 images"):
        TensorBatches(IMAGES, LABELS, 23, mean=MEAN, std=STD, shuffle=True)


def test_shuffling_keeps_each_image_with_its_label() -> None:
    plain = Augmentation(crop_padding=0, mirror=False)
    whole = _batches()
    for images, labels in _batches(plain).epoch(1):
        torch.testing.assert_close(images, whole.normalise(whole.images[labels]), rtol=0, atol=0)


@pytest.mark.parametrize("start", range(5))
def test_an_epoch_entered_in_the_middle_is_the_uninterrupted_one(start: int) -> None:
    whole = list(_batches(AUGMENTATION, seed=7).epoch(2))
    batches = _batches(AUGMENTATION, seed=7)
    list(batches.epoch(0))  # neither what came before nor the global generator may matter
    torch.manual_seed(start)
    rest = list(batches.epoch(2, start=start))
    assert len(rest) == 4 - start
    assert all(_same(left, right) for left, right in zip(whole[start:], rest, strict=True))


def test_seed_epoch_and_index_each_matter() -> None:
    first, second = list(_batches(AUGMENTATION).epoch(0))[:2]
    assert not _same(first, second)
    assert not _same(first, next(_batches(AUGMENTATION).epoch(1)))
    assert not _same(first, next(_batches(AUGMENTATION, seed=1).epoch(0)))


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(_batches(AUGMENTATION).epoch(0))
    assert torch.equal(before, torch.get_rng_state())


def test_random_crop_takes_a_window_of_the_reflected_image() -> None:
    pixels, padding = _pixels(), 2
    cropped = random_crop(pixels, padding, _generator())
    padded = np.pad(pixels.numpy(), ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2), mode="reflect")
    offsets = set()
    for image, source in zip(cropped.numpy(), padded, strict=True):
        found = [
            (row, column)
            for row in range(2 * padding + 1)
            for column in range(2 * padding + 1)
            if np.array_equal(image, source[:, row : row + SIDE, column : column + SIDE])
        ]
        assert len(found) == 1
        offsets.add(found[0])
    assert cropped.dtype == pixels.dtype
    assert len(offsets) == (2 * padding + 1) ** 2  # each of 25 in 200 draws: none is out of reach


def test_random_mirror_flips_about_half() -> None:
    pixels = _pixels()
    mirrored = random_mirror(pixels, _generator())
    flipped = [torch.equal(image, source.flip(2)) for image, source in zip(mirrored, pixels, strict=True)]
    kept = [torch.equal(image, source) for image, source in zip(mirrored, pixels, strict=True)]
    assert all(one != other for one, other in zip(flipped, kept, strict=True))
    assert 70 <= sum(flipped) <= 130


@pytest.mark.parametrize("side", [1, 3, 4])
def test_cutout_zeroes_one_square_clipped_at_the_border(side: int) -> None:
    images = torch.ones(200, 3, SIDE, SIDE)
    holes = cutout(images, side, _generator()) == 0
    assert torch.equal(holes[:, 0], holes[:, 2])
    sizes = set()
    for hole in holes[:, 0]:
        height, width = int(hole.any(1).sum()), int(hole.any(0).sum())
        assert int(hole.sum()) == height * width  # a full rectangle
        sizes.add((height, width))
    assert max(sizes) == (side, side)
    assert min(min(size) for size in sizes) >= side // 2
    assert torch.equal(images, torch.ones_like(images))


@pytest.mark.parametrize(
    ("images", "labels", "batch_size", "augmentation", "message"),
    [
        (IMAGES.astype(np.float32), LABELS, 5, None, "images must be uint8 of shape .*, not float32"),
        (IMAGES[0], LABELS, 5, None, "images must be uint8 of shape"),
        (IMAGES[:0], LABELS[:0], 5, None, "images must be uint8 of shape"),
        (IMAGES, LABELS[:3], 5, None, "22 images need as many labels, not an array of shape"),
        (
            IMAGES.transpose(0, 3, 1, 2),
            LABELS,
            5,
            None,
            r"12 channels in their last axis, `mean` has 3 .*\(N, C, H, W\)\? use \.transpose\(0, 2, 3, 1\)",
        ),
        (IMAGES[..., :1], LABELS, 5, None, r"have 1 channels in their last axis, `mean` has 3 and `std` 3$"),
        (IMAGES, LABELS - 1, 5, None, "labels must be integers >= 0, not -1"),
        (IMAGES, LABELS, 0, None, r"`batch_size` \(=0\) must be between 1 and the 22 images"),
        (IMAGES, LABELS, 23, AUGMENTATION, r"`batch_size` \(=23\) must be between 1 and the 22 images"),
    ],
)
def test_bad_input_is_told(
    images: np.ndarray, labels: np.ndarray, batch_size: int, augmentation: Augmentation | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        TensorBatches(images, labels, batch_size, mean=MEAN, std=STD, augmentation=augmentation)


@pytest.mark.parametrize("name", ["crop_padding", "cutout"])
def test_a_negative_augmentation_is_told(name: str) -> None:
    with pytest.raises(InputError, match=rf"`{name}` \(=-1\) must be >= 0; 0 turns it off"):
        Augmentation(**{name: -1})


def test_crop_border_of_zeros_is_black_and_of_reflection_is_not():
    images = torch.full((64, 3, 8, 8), 200, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    black = random_crop(images, 4, generator, "zeros")
    assert set(black.unique().tolist()) == {0, 200}
    assert set(random_crop(images, 4, generator).unique().tolist()) == {200}


def test_unknown_crop_border():
    with pytest.raises(InputError, match="unknown crop border 'zeroes'; did you mean 'zeros'"):
        Augmentation(crop_border="zeroes")


def test_batches_are_made_where_they_are_wanted():
    """Nothing but drawn numbers is sent to the device: on "meta" any tensor of the CPU's would raise."""
    images, labels = np.zeros((8, 6, 6, 3), np.uint8), np.zeros(8, np.int64)
    chosen = Augmentation(crop_padding=2, mirror=True, cutout=3)
    made = TensorBatches(images, labels, 4, mean=(0.5,) * 3, std=(0.25,) * 3, augmentation=chosen)
    for pixels, classes in made.epoch(0, device=torch.device("meta")):
        assert (pixels.device.type, classes.device.type) == ("meta", "meta")
        assert pixels.shape == (4, 3, 6, 6)
