"""The floor: files that are whole or not there, errors with a way out, progress that a log can bear."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ghostnet import progress as progress_module
from ghostnet.errors import DiskFullError, InputError, unknown_name
from ghostnet.files import atomic_group, atomic_write, refuse_overwrite, sha256_of_file
from ghostnet.progress import Progress


def test_atomic_write_makes_folders_and_a_readable_file(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "file"
    with atomic_write(target) as temporary:
        temporary.write_text("new")
        assert temporary.parent == target.parent  # a rename across file systems would not be atomic
        assert not target.exists()
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(("mask", "mode"), [("022", "0o644"), ("077", "0o600"), ("002", "0o664")])
def test_files_have_the_permissions_that_the_user_gives_to_new_ones(
    tmp_path: Path, mask: str, mode: str
) -> None:
    code = (
        "from ghostnet.files import atomic_group, atomic_write\n"
        "with atomic_write('one') as file: file.write_text('1')\n"
        "with atomic_group('two') as folder: (folder / 'two').write_text('2')\n"
        "import os, stat\n"
        "print({oct(stat.S_IMODE(os.stat(name).st_mode)) for name in ('one', 'two')})"
    )
    command = f'umask {mask}; exec {sys.executable} -c "$0"'
    done = subprocess.run(
        ["sh", "-c", command, code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str({mode})


def test_atomic_write_replaces_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with atomic_write(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError("half way"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_old_file_and_no_temporary(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def write_half() -> None:
        with atomic_write(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (100_000, hard)
    )  # the kernel refuses the write, as a full disk does
    try:
        with (
            pytest.raises(DiskFullError, match=r"no room to write .*too large.*another place"),
            atomic_write(target) as temporary,
        ):
            temporary.write_bytes(bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_parent_that_is_a_file_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="file"), atomic_write(tmp_path / "file" / "below"):
        pytest.fail("the block must not run")


def test_sha256_of_file_reads_all_pieces(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than one piece of 1 MiB
    (tmp_path / "file").write_bytes(content)
    assert sha256_of_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_refuse_overwrite(tmp_path: Path) -> None:
    target = tmp_path / "file"
    refuse_overwrite(target, force=False)
    target.write_text("old")
    refuse_overwrite(target, force=True)
    with pytest.raises(
        InputError,
        match=r"exists; pass --force \(in Python force=True\) to overwrite it or",
    ):
        refuse_overwrite(target, force=False)


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for force in (False, True):
        with pytest.raises(InputError, match=r"folder is a folder; name a file"):
            refuse_overwrite(tmp_path / "folder", force=force)
        with pytest.raises(InputError, match=r"nothing can be written into .*file/new: file is a file"):
            refuse_overwrite(tmp_path / "file" / "new" / "a", force=force)
    refuse_overwrite(tmp_path / "folder", force=True, folders=True)
    with pytest.raises(InputError, match=r"folder exists; pass --force"):
        refuse_overwrite(tmp_path / "folder", force=False, folders=True)
    refuse_overwrite(tmp_path / "new" / "newer" / "a", force=False)
    monkeypatch.chdir(tmp_path)
    refuse_overwrite("a", force=False)
    refuse_overwrite("~a", force=False)  # no folder's name
    for path in ("~/a", "~someone/b/a"):
        with pytest.raises(InputError, match=r"^~.* begins with ~, which was not expanded"):
            refuse_overwrite(path, force=True)
    with monkeypatch.context() as patch:

        def fails(**_: object) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        patch.setattr(tempfile, "TemporaryFile", fails)
        with pytest.raises(InputError, match=r"into .*new: Read-only file system; name another place"):
            refuse_overwrite(tmp_path / "new" / "a", force=False)
    asked = []
    monkeypatch.setattr(
        os, "access", lambda path, _mode: asked.append(Path(path))
    )  # root may write everywhere
    with pytest.raises(InputError, match=r"nothing can be written into .*new: it is read-only"):
        refuse_overwrite(tmp_path / "new" / "a", force=False)
    assert asked == [tmp_path]


def test_unknown_name_lists_near_matches_or_all_or_the_first() -> None:
    near = unknown_name("model", "resnet65", ["resnet56", "vgg16"])
    assert isinstance(near, ValueError)
    assert str(near) == "unknown model 'resnet65'; did you mean 'resnet56'?"
    assert str(unknown_name("model", "zzz", ["b", "a"])) == "unknown model 'zzz'; known: a, b"
    many = str(unknown_name("model", "zzz", [f"name{index:02}" for index in range(20)]))
    assert many.startswith("unknown model 'zzz'; 20 are known, the first ones: name00, ")
    assert "name08" not in many


def test_progress_prints_one_plain_line_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress("epoch 1", total=4, unit="batch") as bar:
        for _ in range(4):
            bar.update(1, "loss 0.3")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("epoch 1: 4/4 batch, 0 s")
    assert printed.err.endswith("  loss 0.3\n")


def test_progress_prints_now_and_then_without_a_known_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "_PLAIN_INTERVAL_S", 0.0)
    with Progress("fetch", total=None, unit="MB") as bar:
        bar.update(2)
    assert [line.partition(",")[0] for line in capsys.readouterr().err.splitlines()] == ["fetch: 2 MB"] * 2


def test_progress_is_silent_when_disabled_and_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("epoch 1", total=1, enabled=False) as bar:
        bar.update()
    with pytest.raises(RuntimeError), Progress("epoch 1", total=1):
        raise RuntimeError
    assert capsys.readouterr().err == ""


def test_progress_draws_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("epoch 1", total=2) as bar:
        bar.update(2, "loss 0.3")
    printed = capsys.readouterr()
    assert "epoch 1" in printed.err
    assert "2/2" in printed.err
    assert printed.out == ""


def test_a_folder_in_the_way_of_a_file_leaves_all_files_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").mkdir()
    (tmp_path / "net.onnx.json").write_text("old")

    def write() -> None:
        with atomic_group(tmp_path / "net.onnx") as new:
            for name in ("net.onnx", "net.onnx.json"):
                (new / name).write_text("new")

    with pytest.raises(IsADirectoryError, match="a folder is there"):
        write()
    assert (tmp_path / "net.onnx.json").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net.onnx.json"]
