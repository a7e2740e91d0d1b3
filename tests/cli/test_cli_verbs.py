"""The verbs that need neither images nor training, from the name of a network to a measured file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ghostnet
from ghostnet import cli, data


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert cli.run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "dense.safetensors"
    ghostnet.save(ghostnet.create_model("resnet20"), path)
    return path


def test_models_lists_and_filters(capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, "models", "ghost_resnet2*")
    assert [(info["name"], info["input_size"]) for info in found] == [("ghost_resnet20", [3, 32, 32])]
    assert cli.run(["models"]) == 0
    assert "resnet56" in capsys.readouterr().out


def test_models_shows_the_cards_of_one_name(capsys: pytest.CaptureFixture[str]) -> None:
    [found] = _json(capsys, "models", "ghostnet_100")
    assert found["published"] == [card["tag"] for card in found["cards"]] == ["authors", "in1k", "paddle"]
    assert cli.run(["models", "ghostnet_100"]) == 0
    shown = capsys.readouterr().out
    for card in found["cards"]:
        assert all(str(card[key]) in shown for key in ("source", "licence", "claimed_top1"))
    assert shown.count("not measured") == 3
    assert cli.run(["models", "ghostnet_*"]) == 0
    assert "licence" not in capsys.readouterr().out


def test_profile_counts_a_name_and_a_file_alike(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_name, by_file = _json(capsys, "profile", "resnet20"), _json(capsys, "profile", str(saved))
    assert by_name["macs"] == by_file["macs"] > 40_000_000
    assert by_name["params"] == by_file["params"]
    assert "layers" not in by_name
    layered = _json(capsys, "profile", "resnet20", "--layers", "--input-size", "3,16,16")
    assert sum(layer["macs"] for layer in layered["layers"]) == layered["macs"] < by_name["macs"]


def test_profile_prints_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["profile", "resnet20"]) == 0
    assert "MACs" in capsys.readouterr().out


def test_a_conversion_of_nothing_writes_nothing(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", str(saved), "-o", str(tmp_path / "ghost.safetensors")]
    assert cli.run([*arguments, "--init", "random", "--ratio", "1"]) == 2
    error = capsys.readouterr().err
    assert "no layer was converted, so nothing is written: ratio 1 keeps the plain convolution (" in error
    assert list(tmp_path.iterdir()) == []


def test_convert_wants_the_ending_that_it_writes(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["convert", str(saved), "-o", str(tmp_path / "x.pth"), "--init", "random"]) == 2
    assert "x.pth must end in .safetensors; use " in capsys.readouterr().err


def test_convert_export_bench(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ghost, exported = tmp_path / "ghost.safetensors", tmp_path / "ghost.onnx"
    report = _json(capsys, "convert", str(saved), "-o", str(ghost), "--init", "random")
    assert report["macs_after"] < 0.6 * report["macs_before"]
    assert _json(capsys, "profile", str(ghost))["macs"] == report["macs_after"]
    size = _json(capsys, "export", str(ghost), "-o", str(exported))["bytes"]
    assert exported.stat().st_size == size
    manifest = json.loads((tmp_path / "ghost.onnx.json").read_text())
    assert manifest["metadata"] == {"network": "ghost.safetensors"}
    assert manifest["preprocessing"]["image_size"] == 32
    result = tmp_path / "latency" / "two.json"
    options = ("--seconds", "0.05", "--cold-starts", "1", "--result", str(result))
    rows = _json(capsys, "bench", str(saved), str(exported), *options)["rows"]
    assert [row["name"] for row in rows] == [str(saved), str(exported)]
    record = json.loads(result.read_text())
    assert (record["exhibit"], record["metrics"]["rows"]) == ("latency", rows)
    assert cli.run(["bench", str(exported), "--result", str(result)]) == 2
    assert "exists; pass --force" in capsys.readouterr().err
    assert rows[0]["ratio"] == 1.0
    assert all(row["median_ms"] > 0 for row in rows)
    assert "processes" not in record["metrics"]
    assert all("ratios" not in row for row in rows)


@pytest.mark.slow
def test_bench_in_several_processes(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "latency" / "several.json"
    options = ("--seconds", "0.05", "--cold-starts", "1", "--result", str(result), "--processes", "2")
    found = _json(capsys, "bench", str(saved), "resnet20", *options)
    assert found["processes"] == 2
    assert [len(row["ratios"]) for row in found["rows"]] == [2, 2]
    assert json.loads(result.read_text())["metrics"] == found


def test_convert_takes_patterns_and_a_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = [str(tmp_path / f"{number}.safetensors") for number in range(3)]
    for path, seed in zip(out, ("1", "1", "2"), strict=True):
        options = ("--init", "random", "--layers", "layer1.*", "--seed", seed)
        report = _json(capsys, "convert", "resnet20", "-o", path, "--weights", _source(tmp_path), *options)
    converted = [layer["name"] for layer in report["layers"] if layer["action"] == "ghost"]
    assert converted
    assert all(name.startswith("layer1.") for name in converted)
    first, same, other = ([*ghostnet.load(path).state_dict().values()] for path in out)
    assert all(a.equal(b) for a, b in zip(first, same, strict=True))
    assert not all(a.equal(b) for a, b in zip(first, other, strict=True))


def _source(folder: Path) -> str:
    path = folder / "source.safetensors"
    if not path.exists():
        ghostnet.save(ghostnet.create_model("resnet20"), path)
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ratio", "0"), "`ratio`"),
        (("--ratio", "3000"), "ratio"),
        (("--cheap-kernel-size", "4"), "odd"),
        (("--layers", "nothing*"), "nothing"),
        (("--weights", "cifar10"), "holds its weights already"),
        (("--normalisation", "cifar", "--calibration", "cifar10"), "unknown normalisation 'cifar'"),
        (("--macs", "0.5"), "--macs measures on images what each layer costs: give --calibration FOLDER"),
        (("--macs", "0.5", "--ratio", "2"), "--macs chooses a ratio for each layer; leave out --ratio"),
        (("--macs", "0.5", "--plan", "onnx"), "--macs chooses a ratio for each layer; leave out --plan"),
        (("--macs", "0.5", "--init", "random"), "leave out --init random"),
        (("--macs", "0.5", "--form", "ghostnet"), "leave out --form ghostnet"),
        (("--costs", "costs.json"), "--costs keeps what --macs, or --plan with --budget"),
        (("--method", "l1", "--macs", "0.5", "--costs", "c.json"), "--costs is for method ghost, not for l1"),
    ],
)
def test_convert_refuses_what_cannot_be(
    saved: Path, tmp_path: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _refused(capsys, saved, tmp_path / "ghost.safetensors", arguments, message)


def _refused(
    capsys: pytest.CaptureFixture[str], saved: Path, out: Path, arguments: tuple[str, ...], message: str
) -> None:
    """See a conversion end with one line that says so, and nothing written."""
    assert cli.run(["convert", str(saved), "-o", str(out), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_convert_gives_each_layer_a_ratio_at_a_share_of_macs(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    dataset = ghostnet.data.Cifar10(images, np.arange(8), images, np.arange(8))
    monkeypatch.setattr("ghostnet.data.load_cifar10", lambda *_args, **_kwargs: dataset)
    out, costs = tmp_path / "ghost.safetensors", tmp_path / "costs.json"
    measured = ("--calibration", "cifar10", "--images", "8", "--macs", "0.9", "--costs", str(costs))
    report = _json(capsys, "convert", str(saved), "-o", str(out), "--layers", "layer1.*", *measured)
    assert 0.8 < report["macs_after"] / report["macs_before"] <= 0.9
    assert all(name.startswith("layer1.") for name in report["settings"]["ratio"])
    assert len(json.loads(costs.read_text())["costs"]) == 6 * 3
    assert _json(capsys, "profile", str(out))["macs"] == report["macs_after"]
    low = (*measured[:5], "0.1", "--costs", str(tmp_path / "low.json"))
    _refused(
        capsys, saved, tmp_path / "low.safetensors", low, "`macs` (=0.1) cannot be reached: ratios up to 4"
    )
    assert not (tmp_path / "low.json").exists(), "refused before anything was measured"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layers", "redundant"), "--layers redundant looks at images; give --calibration FOLDER"),
        (
            ("--layers", "redundant:0"),
            "--layers redundant:0: the share of MACs must be above 0 and at most 1",
        ),
        (("--layers", "redundant:1.1"), "redundant:1.1: the share"),
        (("--layers", "redundant:"), "redundant:: the share"),
        (("--layers", "redundant:half"), "redundant:half: the share"),
        (("--layers", "redundant:nan"), "redundant:nan: the share"),
        (("--layers", "conv", "--layers", "redundant"), "leave out the other --layers"),
        (("--layers", "redundant", "--method", "l1"), "--layers is for --method ghost"),
        (("--layers", "redundent"), "unknown layer 'redundent'"),
    ],
)
def test_convert_refuses_redundant_layers_that_cannot_be(
    saved: Path, tmp_path: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _refused(capsys, saved, tmp_path / "x.safetensors", arguments, message)


def test_convert_takes_the_redundant_layers(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (80, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(80, dtype=np.int64) % 10
    dataset = data.Cifar10(pixels, labels, pixels, labels)
    monkeypatch.setattr(data, "load_cifar10", lambda *_args, **_kwargs: dataset)
    start = ["convert", str(saved), "--calibration", "cifar10", "--images", "80"]
    options = ["--layers", "redundant:0.2", "--init", "random"]
    assert cli.run([*start, "-o", str(tmp_path / "a.safetensors"), *options, "--json"]) == 0
    printed = capsys.readouterr()
    converted = {layer["name"] for layer in json.loads(printed.out)["layers"] if layer["action"] == "ghost"}
    batch = data.TensorBatches(pixels, labels, 80, mean=data.CIFAR10_MEAN, std=data.CIFAR10_STD)
    images = next(iter(batch))[0][:64]
    scores = ghostnet.measure.features.redundancy(ghostnet.load(str(saved)), images)
    assert converted == set(scores.least_hurt(0.2))
    assert 0 < len(converted) < len(scores.layers)
    assert f"redundant: {len(converted)} of {len(scores.layers)} layers" in printed.err
    assert cli.run([*start, "-o", str(tmp_path / "b.safetensors"), *options, "--ratio", "1"]) == 2
    assert "must be an integer >= 2" in capsys.readouterr().err


def test_convert_prunes_to_a_share_of_macs(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pruned.safetensors"
    report = _json(capsys, "convert", str(saved), "-o", str(out), "--method", "l1", "--macs", "0.6")
    assert report["settings"] == {"method": "l1", "macs": 0.6}
    assert abs(report["macs_after"] / report["macs_before"] / 0.6 - 1) < 0.01
    assert _json(capsys, "profile", str(out))["macs"] == report["macs_after"]


def test_pruning_by_weights_leaves_a_checkpoint_of_another_run(saved: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "pruned.safetensors", tmp_path / "pruned.safetensors.checkpoint"
    other.write_bytes(b"of an interrupted --method sss")
    assert (
        cli.run(["convert", str(saved), "-o", str(out), "--method", "l1", "--macs", "0.6", "--multiple", "8"])
        == 0
    )
    assert other.exists()
    assert ghostnet.load(out).get_submodule("layer3.1.conv1").out_channels % 8 == 0


def test_streams_lose_channels_where_asked_to(tmp_path: Path) -> None:
    widths = []
    for more in ((), ("--streams",)):
        out = tmp_path / f"{len(more)}.safetensors"
        command = ["convert", "resnet9_050", "-o", str(out), "--method", "l1", "--macs", "0.5", *more]
        assert cli.run(command) == 0
        widths.append(ghostnet.load(out).get_submodule("classifier").in_features)
    assert widths[0] == 256 > widths[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "l2"), "unknown method 'l2'"),
        (("--method", "l1", "--macs", "1.5"), "'1.5' is not a share"),
        (("--method", "l1", "--macs", "half"), "'half' is not a number"),
        (("--method", "l1", "--macs", "0.01"), "`macs` (=0.01) cannot be reached"),
        (("--method", "thinet"), "give `calibration` (--calibration FOLDER or cifar10)"),
        (("--method", "sss"), "give --calibration cifar10"),
        (("--method", "thinet", "--calibration", "synthetic", "--streams"), "leaves streams alone; use 'l1'"),
    ],
)
def test_convert_refuses_what_cannot_be_pruned(
    saved: Path, tmp_path: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _refused(capsys, saved, tmp_path / "x.safetensors", arguments, message)


def test_untrained_names_are_refused_where_weights_matter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["convert", "vgg16", "-o", str(tmp_path / "x.safetensors")]) == 2
    assert "no packaged weights; give --weights" in capsys.readouterr().err


@pytest.mark.parametrize(("verb", "ending"), [("convert", "safetensors"), ("export", "onnx")])
def test_nothing_is_overwritten_without_force(
    verb: str, ending: str, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"there.{ending}"
    out.write_text("precious")
    assert cli.run([verb, str(saved), "-o", str(out)]) == 2
    assert "pass --force" in capsys.readouterr().err
    assert out.read_text() == "precious"
    quick = ["--layers", "layer3.2.conv2", "--init", "random"] if verb == "convert" else []
    assert cli.run([verb, str(saved), "-o", str(out), "--force", *quick]) == 0
    assert out.stat().st_size > 1000


def test_broken_files_are_bad_input(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truncated, pickled = tmp_path / "short.safetensors", tmp_path / "pickle.safetensors"
    truncated.write_bytes(saved.read_bytes()[:1000])
    pickled.write_bytes(b"\x80\x04K*.")
    for path in (truncated, pickled):
        assert cli.run(["profile", str(path)]) == 2
        error = capsys.readouterr().err
        assert path.name in error
        assert error.count("\n") == 1
