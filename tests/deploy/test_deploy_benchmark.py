"""Networks side by side: settings, ratios, fresh processes, what is left out, and random statistics."""

import copy
import dataclasses
import itertools
import json
import signal
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ghostnet.deploy import (
    Candidate,
    Limits,
    benchmark,
    export,
    load,
    optimize,
    probe,
    quantize,
    randomise_statistics_,
    repeated,
)
from ghostnet.deploy.fresh import run_fresh
from ghostnet.deploy.repeated import load_orders
from ghostnet.deploy.targets import TARGETS
from ghostnet.errors import InputError
from ghostnet.measure import Timing
from ghostnet.models import create_model

for module in ("onnx", "onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(module)

SIZE = (3, 16, 16)


class Bessel(nn.Module):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(maps)


def network(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(width)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))
    return nn.Sequential(nn.Conv2d(3, width, 3), norm, nn.ReLU(), *head)


def test_any_mix_in_any_setting(tmp_path: Path) -> None:
    export(network(), "openvino", tmp_path / "net.xml", input_size=SIZE)
    lines: list[str] = []
    result = benchmark(
        {"wide": Candidate(network(16), optimized=False), "module": network(), "file": tmp_path / "net.xml"},
        input_size=SIZE,
        runtimes=("onnx", "openvino"),
        threads=(1, 2),
        min_seconds=0,
        cold_starts=0,
        announce=lines.append,
    )
    settings = [(row.name, row.runtime, row.threads) for row in result.rows]
    assert settings == [
        *((name, "onnx", count) for count in (1, 2) for name in ("wide", "module")),
        *((name, "openvino", count) for count in (1, 2) for name in ("wide", "module", "file")),
    ]
    for row in result.rows:
        first = next(
            other for other in result.rows if (other.runtime, other.threads) == (row.runtime, row.threads)
        )
        assert row.ratio == pytest.approx(row.median_ms / first.median_ms)
    assert (result.threads, result.skipped) == ([1, 2], [])
    assert len(lines) == 4
    assert result.environment["openvino"]
    assert "cold start ms" not in str(result)
    assert str(result).count("\n") == len(result.rows) + 1


def test_cold_start_and_memory_are_those_of_fresh_processes(tmp_path: Path) -> None:
    export(network(), "onnx", tmp_path / "net.onnx", input_size=SIZE)
    result = benchmark({"net": tmp_path / "net.onnx"}, input_size=SIZE, min_seconds=0, cold_starts=2)
    row = result.rows[0]
    assert row.cold_start_ms is not None
    assert row.cold_start_ms > row.p10_ms
    assert row.peak_memory_mb is not None
    assert 15 < row.peak_memory_mb < 300  # this process holds torch, and far more
    assert "cold start ms" in str(result)


def test_a_ratio_without_the_first_network_in_its_setting(tmp_path: Path) -> None:
    export(network(), "onnx", tmp_path / "a.onnx", input_size=SIZE)
    export(network(), "openvino", tmp_path / "b.xml", input_size=SIZE)
    result = benchmark(
        {"b": tmp_path / "b.xml", "a": tmp_path / "a.onnx"}, input_size=SIZE, min_seconds=0, cold_starts=0
    )
    by_name = {row.name: row for row in result.rows}
    assert by_name["b"].ratio == 1.0
    assert by_name["a"].ratio == pytest.approx(by_name["a"].median_ms / by_name["b"].median_ms)
    assert result.rows[0].peak_memory_mb is None
    assert "cold start" not in str(result)
    footnote = "its ratios are to the first network in another setting"
    assert footnote in str(result)
    alone = benchmark({"b": tmp_path / "b.xml"}, input_size=SIZE, min_seconds=0, cold_starts=0)
    assert footnote not in str(alone)


def test_what_cannot_run_is_left_out_and_said() -> None:
    model = network()
    model[2] = Bessel()
    result = benchmark(
        {"net": network(), "odd": model},
        input_size=SIZE,
        precisions=("fp32", "bf16"),
        min_seconds=0,
        cold_starts=0,
    )
    assert [row.name for row in result.rows] == ["net"]
    assert result.skipped == [
        "net: ONNX Runtime has no bf16 here",
        "odd in ONNX Runtime: ONNX Runtime cannot express bessel_j0 (layer 2); "
        "use another operation there or another target",
    ]
    assert "left out: odd in ONNX Runtime" in str(result)
    with pytest.raises(InputError, match="nothing can be run: odd in ONNX Runtime"):
        benchmark({"odd": model}, input_size=SIZE)


def test_int8_is_timed_beside_float_where_there_is_int8(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    export(network(), "onnx", tmp_path / "float.onnx", input_size=SIZE)
    images = np.random.default_rng(0).standard_normal((16, *SIZE), dtype=np.float32)
    loose = Limits(min_agreement=0.0)
    quantize(network(), "onnx", tmp_path / "int8.onnx", images, limits=loose, input_size=SIZE)
    lines: list[str] = []
    result = benchmark(
        {"net": network(), "float": tmp_path / "float.onnx", "int8": tmp_path / "int8.onnx"},
        input_size=SIZE,
        runtimes=("onnx", "openvino", "ncnn"),
        precisions=("int8", "fp32"),
        min_seconds=0,
        cold_starts=0,
        announce=lines.append,
    )
    assert [(row.name, row.runtime, row.precision) for row in result.rows] == [
        *(("net", "onnx", "fp32"), ("float", "onnx", "fp32")),
        *(("net", "onnx", "int8"), ("int8", "onnx", "int8")),
        *(("net", "openvino", "fp32"), ("net", "openvino", "int8"), ("net", "ncnn", "fp32")),
    ]
    sizes = {(row.name, row.runtime, row.precision): row.bytes for row in result.rows}
    assert sizes["net", "onnx", "int8"] == pytest.approx(sizes["int8", "onnx", "int8"], rel=0.01)
    assert result.skipped == [
        "net in ncnn in int8: ncnn has no int8 here; the targets with int8 are onnx, openvino, litert, c",
        "float: a file keeps its precision; `ghostnet export --precision int8` writes int8",
    ]
    assert "exporting net to ONNX Runtime in int8" in lines


@pytest.mark.slow
def test_several_outputs_are_timed_in_int8_whatever_it_costs_them(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first, second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
    with torch.no_grad():  # the second hardly reads the channel that sets the first one's range
        first.weight[0] *= 3000
        second.weight[:, 0] /= 3000

    class Maps(nn.Sequential):
        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"maps": super().forward(images)}

    model = Maps(first, second).eval()
    images = np.random.default_rng(0).standard_normal((16, *SIZE), dtype=np.float32)
    with pytest.raises(InputError, match="int8 costs too much"):
        quantize(model, "onnx", tmp_path / "net.onnx", images, input_size=SIZE)
    result = benchmark(
        {"net": model}, input_size=SIZE, runtimes=("onnx", "c"), precisions=("int8",), min_seconds=0
    )
    assert [(row.runtime, row.precision) for row in result.rows] == [("onnx", "int8"), ("c", "int8")]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_orders_are_balanced(count: int) -> None:
    orders = load_orders(count, count * (1 + count % 2))
    assert orders[0][0] == 0
    assert all(sorted(order) == list(range(count)) for order in orders)
    places = {(number, place) for order in orders for place, number in enumerate(order)}
    assert len(places) == count**2
    behind = [pair for order in orders for pair in itertools.pairwise(order)]
    assert {behind.count((a, b)) for a in range(count) for b in range(count) if a != b} <= {1, 2}
    assert len({behind.count(pair) for pair in behind}) <= 1
    if count > 1:
        assert all(one != next_one for one, next_one in itertools.pairwise(orders))


def test_several_processes_load_in_turn_and_medians_are_over_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timings are made up, so that the right medians are known; the order is what each process was told."""
    for name in ("a", "b"):
        export(network(), "onnx", tmp_path / f"{name}.onnx", input_size=SIZE)
    times = {"a": [1.0, 4.0, 2.0], "b": [3.0, 2.0, 1.0]}
    loaded: list[str] = []

    def answer(module: str, arguments: list[str], *, subject: str) -> list[dict[str, float]]:
        assert (module, subject) == ("ghostnet.deploy.repeated", "the benchmark")
        job = json.loads(arguments[0])
        assert (job["images"], job["min_seconds"]) == ([2, *SIZE], 0.5)
        names = [Path(entry["path"]).stem for entry in job["networks"]]
        number = len(loaded)
        loaded.append("".join(names))
        return [
            Timing(times[name][number], 0.1 * times[name][number], 9, rounds=10 + number).to_dict()
            for name in names
        ]

    monkeypatch.setattr(repeated, "run_fresh", answer)
    lines: list[str] = []
    found = benchmark(
        {"a": tmp_path / "a.onnx", "b": tmp_path / "b.onnx"},
        input_size=SIZE,
        batch=2,
        min_seconds=0.5,
        cold_starts=0,
        processes=3,
        announce=lines.append,
    )
    assert loaded == ["ab", "ba", "ab"]
    assert lines == [f"timing in process {number} of 3" for number in (1, 2, 3)]
    a, b = found.rows
    assert (a.name, a.median_ms, a.ratio, a.ratios, a.rounds) == ("a", 2.0, 1.0, [1.0, 1.0, 1.0], 33)
    assert (b.name, b.median_ms, b.ratio, b.ratios) == ("b", 2.0, 0.5, [3.0, 0.5, 0.5])
    assert b.p10_ms == pytest.approx(0.2)
    assert found.to_dict()["processes"] == 3
    assert found.to_dict()["rows"][1]["ratios"] == [3.0, 0.5, 0.5]
    assert "0.500 (0.500-3.000)" in str(found)
    assert "1.000 (" not in str(found)
    assert "3 processes, ratios (lowest-highest), batch 2" in str(found)
    once = dataclasses.replace(found, processes=1).to_dict()  # as records were before there were several
    assert "processes" not in once
    assert all("ratios" not in row for row in once["rows"])


def test_several_real_processes_share_what_was_exported_once(tmp_path: Path) -> None:
    export(network(16), "openvino", tmp_path / "net.xml", input_size=SIZE)
    lines: list[str] = []
    found = benchmark(
        {"module": network(), "file": tmp_path / "net.xml"},
        input_size=SIZE,
        runtimes=("onnx", "openvino"),
        min_seconds=0,
        cold_starts=0,
        processes=2,
        announce=lines.append,
    )
    assert [(row.name, row.runtime) for row in found.rows] == [
        *(("module", "onnx"), ("module", "openvino"), ("file", "openvino")),
    ]
    assert len([line for line in lines if line.startswith("exporting")]) == 2
    assert all(row.rounds == 40 and row.median_ms > 0 for row in found.rows)
    assert [len(row.ratios) for row in found.rows] == [2, 2, 2]
    assert found.rows[2].ratio == statistics.median(found.rows[2].ratios)


def test_a_process_that_fails_is_one_line_and_an_interrupted_one_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(network(), "onnx", tmp_path / "net.onnx", input_size=SIZE)
    session = load(tmp_path / "net.onnx")
    (tmp_path / "net.onnx").write_bytes(b"x" * 5)
    with pytest.raises(RuntimeError) as failure:
        benchmark({"net": session}, input_size=SIZE, min_seconds=0, cold_starts=0, processes=2)
    text = str(failure.value)
    assert text.startswith("the benchmark fails in a process of its own: /")
    assert text.endswith("it is truncated or was replaced; export it again")
    stop = "signal.signal(signal.SIGINT, signal.SIG_DFL)\nos.kill(os.getpid(), signal.SIGINT)\n"
    (tmp_path / "stops.py").write_text(f"import os, signal\n{stop}")  # jobs in the background ignore it
    (tmp_path / "dies.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        run_fresh("stops", [], subject="it")
    with pytest.raises(
        RuntimeError, match=f"it fails in a process of its own: no message, code -{signal.SIGKILL:d}"
    ):
        run_fresh("dies", [], subject="it")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runtimes": ("onxx",)}, "unknown export target 'onxx'; did you mean 'onnx'"),
        ({"runtimes": ()}, "no runtime is given"),
        ({"runtimes": ("onnx", "onnx")}, "the same runtime is given twice: onnx, onnx"),
        ({"precisions": ("fp31",)}, "unknown precision 'fp31'; did you mean 'fp32'"),
        ({"threads": 0}, r"threads \(=0\) must be an integer >= 1"),
        ({"threads": (1, 1)}, "the same thread count is given twice"),
        ({"processes": 0}, r"processes \(=0\) must be an integer >= 1"),
        ({"processes": 1.5}, r"processes \(=1\.5\) must be an integer >= 1"),
        ({"cold_starts": -1}, r"cold_starts \(=-1\) must be an integer >= 0"),
    ],
)
def test_bad_requests(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        benchmark({"net": network()}, input_size=SIZE, **arguments)  # type: ignore[arg-type]


def test_the_probe_measures_loading_and_the_first_call(tmp_path: Path) -> None:
    export(network(), "onnx", tmp_path / "net.onnx", input_size=SIZE)
    found = probe.measure(str(tmp_path / "net.onnx"), threads=1, precision="fp32", shape=(2, *SIZE))
    assert found["load_ms"] > 0
    assert found["first_ms"] > 0
    assert found["peak_memory_mb"] >= found["base_memory_mb"] > 0


def test_a_file_that_fails_alone_is_one_line(tmp_path: Path) -> None:
    export(network(), "onnx", tmp_path / "net.onnx", input_size=SIZE)
    session = load(tmp_path / "net.onnx")
    (tmp_path / "net.onnx").unlink()
    (tmp_path / "net.onnx").write_bytes(b"x" * 5)
    with pytest.raises(RuntimeError, match=r"net\.onnx fails in a process of its own: .*is truncated"):
        benchmark({"net": session}, input_size=SIZE, min_seconds=0, cold_starts=1)


def test_random_statistics_keep_maps_alive_through_a_deep_network() -> None:
    model = randomise_statistics_(create_model("ghostnet_100"), (3, 64, 64))
    spread: list[float] = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.running_mean != 0).all()
            module.register_forward_hook(lambda _m, _a, output: spread.append(output.std().item()))
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5)))
    assert len(spread) >= 80
    assert min(spread) > 0.05
    assert max(spread) < 20
    model, state = network(), torch.random.get_rng_state()
    randomise_statistics_(model, SIZE)
    assert torch.equal(state, torch.random.get_rng_state())


def test_functions_stay_functions_when_their_files_are_imported() -> None:
    import ghostnet.deploy.export
    import ghostnet.deploy.optimize  # the file of the same name

    assert callable(ghostnet.deploy.export)
    assert ghostnet.deploy.optimize is optimize
    assert {"load", "TARGETS"} <= set(dir(ghostnet.deploy))
    with pytest.raises(AttributeError, match="has no attribute 'exprot'"):
        _ = ghostnet.deploy.exprot


def test_an_export_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    export(model, "openvino", tmp_path / "net.xml", input_size=SIZE)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    images = np.zeros((1, *SIZE), np.float32)
    assert load(tmp_path / "net.xml").predict(images).shape == (1, 4)
    assert TARGETS["openvino"].suffixes == (".xml", ".bin")
