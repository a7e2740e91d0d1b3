"""Class folders, shards and splits: the same images whichever way, and what is wrong with a set in one line."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from pictures import class_folders

from ghostnet.data import (
    ImageFolder,
    ShardFolder,
    Subset,
    list_images,
    open_held_out,
    open_images,
    open_split,
    split_stratified,
    with_class_indices,
    with_labels_of,
    write_shards,
)
from ghostnet.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "photos", {"cat": 7, "ant": 10, "dog": 3})


def _contents(source: object) -> list[tuple[bytes, str]]:
    return sorted(
        (source.read(index), source.classes[source.labels[index]])  # type: ignore[attr-defined]
        for index in range(len(source))  # type: ignore[arg-type]
    )


def test_classes_are_sorted_and_images_in_order(folder: Path) -> None:
    (folder / "cat" / "notes.txt").write_text("not an image")
    (folder / ".cache").mkdir()
    source = ImageFolder(folder)
    assert source.classes == ["ant", "cat", "dog"]
    assert source.labels.tolist() == [0] * 10 + [1] * 7 + [2] * 3
    assert source.name(10).endswith("cat/000.jpg")
    assert source.read(10) == (folder / "cat" / "000.jpg").read_bytes()


def test_what_is_wrong_with_a_folder_is_one_line(folder: Path, tmp_path: Path) -> None:
    (folder / "cow").mkdir()
    with pytest.raises(InputError, match=r"class 'cow' in .* holds no images; add some or remove its folder"):
        ImageFolder(folder)
    with pytest.raises(InputError, match=r"has no subfolders; put the images of each class"):
        ImageFolder(folder / "cat")
    with pytest.raises(InputError, match=r"there is no folder .*nowhere"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"is a file; give a folder"):
        open_images(folder / "cat" / "000.jpg")


def test_shards_hold_the_folders_images(folder: Path, tmp_path: Path) -> None:
    source = ImageFolder(folder)
    paths = write_shards(source, tmp_path / "shards", images_per_shard=6)
    assert [path.name for path in paths] == [f"{number:06d}.tar" for number in range(4)]
    for shards in (open_images(tmp_path / "shards"), ShardFolder(tmp_path / "shards")):
        assert shards.classes == source.classes
        assert _contents(shards) == _contents(source)
    (tmp_path / "shards" / "shards.json").unlink()
    scanned = open_images(tmp_path / "shards")
    assert scanned.classes == ["0", "1", "2"]
    assert sorted(scanned.labels.tolist()) == source.labels.tolist()
    assert {content for content, _ in _contents(scanned)} == {content for content, _ in _contents(source)}


def test_shards_are_tars_that_others_read(folder: Path, tmp_path: Path) -> None:
    (path,) = write_shards(ImageFolder(folder), tmp_path / "shards")
    with tarfile.open(path) as archive:
        names = archive.getnames()
        first = archive.extractfile(names[1])
        assert first is not None
        assert first.read() in (b"0", b"1", b"2")
    stems = [name.split(".")[0] for name in names]
    assert stems[::2] == stems[1::2]  # an image and its label are neighbours, as streams need them
    assert {name.split(".")[1] for name in names} == {"jpg", "cls"}


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_a_shard_cut_in_half_is_noticed(folder: Path, tmp_path: Path, share: float, indexed: bool) -> None:
    (path,) = write_shards(ImageFolder(folder), tmp_path / "shards")
    if not indexed:
        (tmp_path / "shards" / "shards.json").unlink()
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"shard .*000000\.tar is cut off or damaged"):
        open_images(tmp_path / "shards")


def test_a_shard_cut_between_two_members_is_noticed(folder: Path, tmp_path: Path) -> None:
    (path,) = write_shards(ImageFolder(folder), tmp_path / "shards")
    (tmp_path / "shards" / "shards.json").unlink()
    with tarfile.open(path) as archive:
        member = archive.getmembers()[6]
    path.write_bytes(path.read_bytes()[: member.offset])
    with pytest.raises(InputError, match=r"its end mark is missing"):
        open_images(path)


def test_what_is_wrong_with_shards_is_one_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    paths = write_shards(ImageFolder(folder), out, images_per_shard=8)
    with pytest.raises(InputError, match=r"holds shards already"):
        write_shards(ImageFolder(folder), out)
    with pytest.raises(InputError, match=r"`images_per_shard` \(=0\)"):
        write_shards(ImageFolder(folder), tmp_path / "other", images_per_shard=0)
    with pytest.raises(InputError, match=r"`seed` \(=-1\) must be an integer >= 0"):
        write_shards(ImageFolder(folder), tmp_path / "b", seed=-1)
    kept = paths[1].read_bytes()
    paths[1].unlink()
    with pytest.raises(InputError, match=r"shards\.json names 000001\.tar, which is not there"):
        open_images(out)
    (out / "more.tar").write_bytes(kept)
    with pytest.raises(InputError, match=r"does not know more\.tar"):
        open_images(out)
    (out / "shards.json").write_text("{}")
    with pytest.raises(InputError, match=r"is not an index of shards"):
        open_images(out)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.jpg": b"x"}, r"a has no label; write its class number into a member a\.cls"),
        ({"a.jpg": b"x", "a.cls": b"cat"}, r"a\.cls \(='cat'\) must be a class number in digits"),
        ({"a.jpg": b"x", "a.cls": b"99999999999"}, "is beyond the 1,000,000 classes"),
        ({"a.txt": b"x"}, "holds no images"),
    ],
)
def test_foreign_shards_that_cannot_be_used(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    import io

    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(InputError, match=message):
        open_images(tmp_path)


def test_order_of_shards_has_every_image_once(folder: Path, tmp_path: Path) -> None:
    write_shards(ImageFolder(folder), tmp_path / "shards", images_per_shard=1)
    shards = ShardFolder(tmp_path / "shards")
    first, second = (shards.order(np.random.default_rng(seed)).tolist() for seed in (0, 1))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    part = Subset(shards, range(0, 20, 2))
    assert sorted(part.order(np.random.default_rng(0)).tolist()) == list(range(10))


def test_a_split_keeps_the_classes_shares(folder: Path) -> None:
    source = ImageFolder(folder)
    training, held_out = split_stratified(source, 0.3, seed=1)
    assert np.bincount(held_out.labels).tolist() == [3, 2, 1]
    assert np.bincount(training.labels).tolist() == [7, 5, 2]
    names = [part.name(index) for part in (training, held_out) for index in range(len(part))]
    assert sorted(names) == sorted(source.name(index) for index in range(20))
    again = split_stratified(source, 0.3, seed=1)[1]
    assert again.indices.tolist() == held_out.indices.tolist()
    assert split_stratified(source, 0.3, seed=2)[1].indices.tolist() != held_out.indices.tolist()


def test_splits_that_cannot_be(folder: Path) -> None:
    with pytest.raises(InputError, match=r"held-out share \(=1\) must be above 0 and below 1"):
        split_stratified(ImageFolder(folder), 1, seed=0)
    for number in (1, 2):
        (folder / "dog" / f"{number:03d}.jpg").unlink()
    with pytest.raises(InputError, match=r"class 'dog' has 1 image; a split .* needs two"):
        split_stratified(ImageFolder(folder), 0.2, seed=0)


def test_train_and_val_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"ant": 3, "bee": 2, "cat": 2})
    class_folders(tmp_path / "val", {"cat": 2, "bee": 1})
    training, held_out = open_split(tmp_path, held_out_fraction=0.5, seed=0)
    assert len(training) == 7
    assert held_out.labels.tolist() == [1, 2, 2]  # numbered as in training, though a class is missing
    assert open_held_out(tmp_path).classes == ["bee", "cat"]
    class_folders(tmp_path / "val" / "..", {"val/cow": 1})
    with pytest.raises(InputError, match=r"the network was not trained on 'cow'"):
        open_split(tmp_path, held_out_fraction=0.5, seed=0)


def test_labels_by_a_networks_classes(tmp_path: Path) -> None:
    source = ImageFolder(class_folders(tmp_path / "names", {"bee": 1, "cat": 1}))
    assert with_labels_of(source, ["cat", "dog", "bee"], "x").labels.tolist() == [2, 0]
    assert with_class_indices(source, 2, "x") is source
    with pytest.raises(
        InputError, match=r"x has 2 classes, the network 5, .* name the folders by class number"
    ):
        with_class_indices(source, 5, "x")
    numbered = ImageFolder(class_folders(tmp_path / "numbers", {"10": 1, "9": 1, "0100": 1}))
    assert with_class_indices(numbered, 101, "x").labels.tolist() == [100, 10, 9]


def test_the_index_names_no_place(folder: Path, tmp_path: Path) -> None:
    write_shards(ImageFolder(folder), tmp_path / "shards")
    assert str(tmp_path) not in json.dumps(json.loads((tmp_path / "shards" / "shards.json").read_text()))


def test_images_in_hidden_folders_are_no_images_and_rarer_endings_are(tmp_path: Path) -> None:
    for name in (".ipynb_checkpoints/a-checkpoint.jpg", "b/.hidden/c.png", "b/d.JFIF", "e.jpe", "f.avif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["d.JFIF", "e.jpe", "f.avif"]
    inside = tmp_path / ".cache"  # a root that is hidden itself is meant
    (inside / "x").mkdir(parents=True)
    (inside / "x" / "g.png").touch()
    assert len(list_images(inside)) == 1


def test_an_interrupted_set_of_shards_leaves_nothing_and_can_be_written_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = ImageFolder(folder), tmp_path / "shards"
    reads = iter(range(8))

    def read(index: int) -> bytes:
        if next(reads) == 7:
            raise KeyboardInterrupt
        return source.paths[index].read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr(source, "read", read)
        with pytest.raises(KeyboardInterrupt):
            write_shards(source, out, images_per_shard=3)
    assert list(out.iterdir()) == []
    write_shards(source, out, images_per_shard=3)
    assert len(ShardFolder(out)) == len(source)
    assert all(path.suffix == ".tar" or path.name == "shards.json" for path in out.iterdir())
