"""Whatever is wrong with an export or a file is one clear line, and nothing half-written is left."""

import importlib.util
import json
import platform
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ghostnet.cli.export import TARGET_NAMES
from ghostnet.deploy import TARGETS, export, load
from ghostnet.deploy.targets import require_to_open, require_to_write
from ghostnet.errors import InputError
from ghostnet.files import atomic_group

NAMES = ("c", "coreml", "executorch", "litert", "mnn", "ncnn", "onnx", "openvino")
RUN_HERE = tuple(name for name in NAMES if name != "coreml")  # Core ML has tests of its own
EXTRAS = {"litert": "litert", "coreml": "mobile", "executorch": "mobile"}
SIZE = (3, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )


def skip_without(name: str) -> None:
    for module in (*TARGETS[name].write_modules, TARGETS[name].open_module):
        pytest.importorskip(module)


@pytest.fixture(scope="module", params=RUN_HERE)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    skip_without(request.param)
    path = tmp_path_factory.mktemp(request.param) / f"net{TARGETS[request.param].suffixes[0]}"
    export(network(), request.param, path, input_size=SIZE)
    return path


def copied(path: Path, folder: Path, *, manifest: bool) -> Path:
    """Copy an export; its files share the stem."""
    for file in path.parent.iterdir():
        if manifest or not file.name.endswith(".json"):
            shutil.copy(file, folder / file.name)
    return folder / path.name


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_the_command_knows_the_same_targets() -> None:
    assert set(TARGET_NAMES) == set(TARGETS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_runtime_names_the_pip_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = TARGETS[name]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _module: None)
    extra = EXTRAS.get(name, "export")
    with pytest.raises(InputError, match=rf'is not installed; run: pip install "ghostnet\[{extra}\]"'):
        require_to_write(target)
    monkeypatch.setattr(platform, "system", lambda: target.system or "Linux")
    with pytest.raises(InputError, match=rf"run: pip install {target.package}$"):
        require_to_open(target)


def test_a_truncated_file_is_told_by_its_manifest(exported: Path, tmp_path: Path) -> None:
    main = copied(exported, tmp_path, manifest=True)
    for file in (main, *(main.with_suffix(s) for s in (".bin",) if main.with_suffix(s).exists())):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(
            InputError, match=rf"{file.name} has \d+ bytes .* says \d+: it is truncated"
        ) as error:
            load(main)
        one_line(error)
        file.write_bytes(whole)
    load(main)


def test_a_truncated_file_without_manifest_is_refused(
    exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    main = copied(exported, tmp_path, manifest=False)
    for file in (main, *(main.with_suffix(s) for s in (".bin",) if main.with_suffix(s).exists())):
        whole = file.read_bytes()
        for keep in (len(whole) // 2, 0):
            file.write_bytes(whole[:keep])
            with pytest.raises(InputError, match=r"is not a usable .* file: .*; export it again") as error:
                load(main)
            one_line(error)
        file.write_bytes(whole)
    load(main)
    assert capfd.readouterr().err == ""  # the runtimes' own lines stay off the terminal


def test_a_foreign_file_is_refused(exported: Path, tmp_path: Path) -> None:
    main = copied(exported, tmp_path, manifest=False)
    main.write_text("hello world\n" * 30)
    with pytest.raises(InputError, match="is not a usable") as error:
        load(main)
    one_line(error)


@pytest.mark.parametrize("name", ["ncnn", "openvino"])
def test_weights_that_are_missing_are_named(name: str, tmp_path: Path) -> None:
    skip_without(name)
    path = tmp_path / f"net{TARGETS[name].suffixes[0]}"
    export(network(), name, path, input_size=SIZE)
    path.with_suffix(".bin").unlink()
    with pytest.raises(InputError, match=r"there is no file .*net\.bin; it belongs beside net\."):
        load(path)


def test_wrong_arrays_are_refused(exported: Path) -> None:
    session = load(exported)
    for array, message in (
        (np.zeros((1, *SIZE)), "needs a float32 numpy array, not float64"),
        ([[1.0]], "not list"),
        (
            np.zeros((1, 3, 9, 8), np.float32),
            r"shape \(1, 3, 9, 8\) does not fit; net\.\w+ takes \(N, 3, 8, 8\)",
        ),
        (np.zeros((3, 8, 8), np.float32), "does not fit"),
        (np.zeros((0, *SIZE), np.float32), "a batch of 0 does not fit"),
    ):
        with pytest.raises(InputError, match=message):
            session.predict(array)  # type: ignore[arg-type]


def test_precisions_and_endings(exported: Path, tmp_path: Path) -> None:
    target = TARGETS[load(exported).target]
    with pytest.raises(InputError, match="unknown precision 'fp23'; did you mean 'fp32'"):
        load(exported, precision="fp23")
    if "bf16" not in target.precisions:
        with pytest.raises(InputError, match="runs in fp32 here, not in precision bf16"):
            load(exported, precision="bf16")
    other = ".onnx" if target.name != "onnx" else ".tflite"
    with pytest.raises(
        InputError, match=rf"must end in {target.suffixes[0]} for .*; use .*net\{exported.suffix}"
    ):
        export(network(), target.name, tmp_path / f"net{other}", input_size=SIZE)
    if len(target.suffixes) > 1:
        with pytest.raises(InputError, match=rf"must end in {target.suffixes[0]} for"):
            export(network(), target.name, tmp_path / "net.zip", input_size=SIZE)
    (tmp_path / "net.zip").write_text("zip")
    with pytest.raises(InputError, match=r"is no file of a known runtime; the endings are \.onnx"):
        load(tmp_path / "net.zip")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "is not a manifest"),
        ("[]", "is not a manifest"),
        ('{"schema": 1}', "is not a manifest"),
        ('{"schema": 99}', "is a manifest of a newer ghostnet"),
    ],
)
def test_a_foreign_manifest_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_text("x")
    (tmp_path / "net.onnx.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load(tmp_path / "net.onnx")


def test_a_manifest_of_an_unknown_target(exported: Path, tmp_path: Path) -> None:
    main = copied(exported, tmp_path, manifest=True)
    beside = main.with_name(main.name + ".json")
    record = json.loads(beside.read_text())
    beside.write_text(json.dumps(record | {"target": "ncnnn"}))
    with pytest.raises(InputError, match="unknown export target 'ncnnn'; did you mean 'ncnn'"):
        load(main)


class Bessel(nn.Module):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(maps)


class Branching(nn.Module):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return 2 * maps if maps.mean() > 0 else maps


@pytest.mark.parametrize("name", NAMES)
def test_the_layer_that_a_runtime_cannot_express_is_named(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    skip_without(name)
    path = tmp_path / f"net{TARGETS[name].suffixes[0]}"
    model = network()
    model[1] = nn.Sequential(nn.ReLU(), Bessel())
    with pytest.raises(InputError, match=r"cannot express (special_)?bessel_j0 \(layer 1\.1\)") as error:
        export(model, name, path, input_size=SIZE)
    one_line(error)
    model[1] = nn.Sequential(nn.ReLU(), Branching())
    with pytest.raises(
        InputError, match=r"layer 1\.1 does not export \(.*\); remove data-dependent"
    ) as error:
        export(model, name, path, input_size=SIZE)
    one_line(error)
    assert list(tmp_path.iterdir()) == []
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize("name", NAMES)
def test_unwritable_places_and_failed_parity_leave_nothing(name: str, tmp_path: Path) -> None:
    skip_without(name)
    suffix = TARGETS[name].suffixes[0]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        InputError, match=r"nothing can be written into .*file: file is a file, no folder"
    ) as error:
        export(network(), name, tmp_path / "file" / f"net{suffix}", input_size=SIZE)
    one_line(error)
    if name != "coreml":  # computed by PyTorch it may not differ at all; it has a test of its own
        with pytest.raises(RuntimeError, match=rf"the {name} file differs from PyTorch by .*nothing is kept"):
            export(network(), name, tmp_path / f"net{suffix}", input_size=SIZE, tolerance=1e-30)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("in_the_way", ["net.param", "net.bin", "net.param.json"])
def test_no_file_of_an_export_is_overwritten_without_force(in_the_way: str, tmp_path: Path) -> None:
    skip_without("ncnn")
    (tmp_path / in_the_way).write_text("mine")
    with pytest.raises(InputError, match=f"{in_the_way} exists; pass --force"):
        export(network(), "ncnn", tmp_path / "net.param", input_size=SIZE)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]
    export(network(), "ncnn", tmp_path / "net.param", input_size=SIZE, force=True)
    assert load(tmp_path / "net.param").input_size == SIZE


@pytest.mark.parametrize("force", [False, True])
def test_weights_that_another_runtimes_file_needs_are_not_replaced(force: bool, tmp_path: Path) -> None:
    skip_without("ncnn")
    skip_without("openvino")
    export(network(), "openvino", tmp_path / "net.xml", input_size=SIZE)
    with pytest.raises(InputError, match=r"net\.bin belongs to .*net\.xml, which would be lost"):
        export(network(), "ncnn", tmp_path / "net.param", input_size=SIZE, force=force)
    assert load(tmp_path / "net.xml").input_size == SIZE
    export(network(), "openvino", tmp_path / "net.xml", input_size=SIZE, force=True)


def test_a_folder_in_a_files_place_is_refused_before_the_work(tmp_path: Path) -> None:
    skip_without("onnx")
    (tmp_path / "net.onnx").mkdir()
    with pytest.raises(InputError, match=r"^\. is a folder; name a file"):
        export(nn.Identity(), "onnx", ".", input_size=SIZE)
    with pytest.raises(InputError, match=r"net\.onnx is a folder; name a file"):
        export(
            nn.Identity(), "onnx", tmp_path / "net.onnx", input_size=SIZE, force=True
        )  # it cannot be exported


def test_passes_and_no_rewrites_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="passes are given but optimized is false"):
        export(network(), "onnx", tmp_path / "net.onnx", input_size=SIZE, passes=["x"], optimized=False)


def _write_and_fail(path: Path) -> None:
    path.write_text("new")
    raise OSError("gone")


def test_a_group_of_files_moves_as_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError, match="gone"), atomic_group(tmp_path / "a") as folder:
        _write_and_fail(folder / "a")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]
    with atomic_group(tmp_path / "a") as folder:
        (folder / "a").write_text("new")
        (folder / "b").write_text("other")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a": "new", "b": "other"}


def _write_folder(path: Path, text: str) -> None:
    with atomic_group(path) as folder:
        (folder / path.name).mkdir()
        (folder / path.name / "part").write_text(text)
        (folder / "beside").write_text(text)


def test_a_folder_replaces_one_of_its_own_make(tmp_path: Path) -> None:
    for text in ("old", "new"):
        _write_folder(tmp_path / "net", text)
        assert [(tmp_path / name).read_text() for name in ("net/part", "beside")] == [text, text]
        assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "net" / "mine").write_text("mine")
    with pytest.raises(OSError, match="holds other files"):
        _write_folder(tmp_path / "net", "newer")
    assert (tmp_path / "beside").read_text() == (tmp_path / "net" / "part").read_text() == "new"
