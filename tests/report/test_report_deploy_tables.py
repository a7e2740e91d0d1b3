"""The README's tables of int8 and of plans, from records alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ghostnet.report import deploy_part, latency_summary
from ghostnet.report.deploy_tables import int8_rows, peers_part, plan_rows, time_over
from ghostnet.report.headline import headline
from ghostnet.report.points import figure7


def record(exhibit: str, recipe: dict[str, Any], metrics: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    place = Path(exhibit) / f"{recipe['name']}.json"
    return place, {
        "exhibit": exhibit,
        "recipe": recipe,
        "metrics": metrics,
        "environment": {"cpu": "A processor"},
    }


def evaluated(precision: str, top1: float, size: int, runtime: str = "onnx") -> tuple[Path, dict[str, Any]]:
    metrics = {"top1": top1, "count": 10000, "bytes": size, "runtime": runtime, "precision": precision}
    if precision == "int8":
        metrics["quantisation"] = {"layers": 9, "float_layers": ["a"]}
    return record("int8", {"name": f"net-{runtime}-{precision}", "data": "cifar10"}, metrics)


def planned() -> tuple[Path, dict[str, Any]]:
    metrics = {
        "target": "openvino",
        "precision": "int8",
        "layers": ["a", "b"],
        "rows": [{}, {}, {}],
        "measured_ratio": 0.78834,
        "all_ratio": None,
        "processor_features": ["avx512_vnni"],
    }
    return record("plan", {"name": "x", "network": "resnet50"}, metrics)


def test_a_variant_stands_beside_the_float_file_of_its_network() -> None:
    tuned = evaluated("int8", 92.4, 900_000)
    tuned[1]["recipe"]["name"] = "net@w4@tuned-onnx-int8"
    other = evaluated("int8", 1, 1)
    other[1]["recipe"]["name"] = "network@w4-onnx-int8"
    [row] = int8_rows([evaluated("fp32", 92.75, 6_590_000), tuned, other])
    assert (row[0], row[3], row[4], row[5]) == ("net@w4@tuned", "92.75", "92.40", "-0.35")


def test_int8_stands_beside_the_float_file_of_the_same_runtime() -> None:
    results = [
        evaluated("fp32", 92.77, 6_590_000),
        evaluated("int8", 92.5, 1_680_000),
        evaluated("int8", 1, 1, "ncnn"),
    ]
    [row] = int8_rows(results)
    assert row[:9] == (
        *("net", "ONNX Runtime", "10,000 (cifar10)", "92.77", "92.50", "-0.27"),
        *("6.59", "1.68", "1 of 9"),
    )
    assert "(results/int8/net-onnx-int8.json)" in row[9]


def test_a_plan_says_how_many_layers_and_how_fast() -> None:
    [row] = plan_rows([planned()])
    assert row[:8] == ("resnet50", "OpenVINO", "int8", "?", "–", "2 of 3", "0.788", "–")
    place, result = planned()
    result["metrics"] |= {
        "processor_features": ["avx2"],
        "budget": 0.8,
        "settings": {"ratio": [2, 3, 4]},
        "ratios": {"a": 4, "b": 2},
    }
    [row] = plan_rows([(place, result)])
    assert row[3:6] == ("AVX2", "0.8", "2 of 3, s = 2, 4")


def test_a_pruned_network_says_how_much_is_left() -> None:
    metrics = {"target": "onnx", "precision": "fp32", "budget": 0.7, "share": 0.536, "measured_ratio": 0.691}
    [row] = plan_rows([record("plan", {"name": "x", "network": "resnet20", "method": "l1"}, metrics)])
    assert row[:8] == (
        *("resnet20", "ONNX Runtime", "fp32", "?", "0.7"),
        *("pruned (l1) to 0.54 of the MACs", "0.691", "–"),
    )


def test_another_processor_has_a_table_of_its_own_and_is_in_no_picture() -> None:
    rows = [
        {"name": "a", "runtime": "onnx", "precision": "fp32", "threads": 1, "median_ms": 2.0, "ratio": 1.0},
        {"name": "b", "runtime": "onnx", "precision": "fp32", "threads": 1, "median_ms": 1.5, "ratio": 0.75},
    ]
    here = record("deploy", {"name": "x"}, {"rows": rows})
    there = record("processors", {"name": "x"}, {"rows": rows})
    there[1]["environment"]["vectors"] = "AVX2"
    wider = record("processors", {"name": "y"}, {"rows": rows[:1]})
    wider[1]["environment"] = {**wider[1]["environment"], "vectors": "AVX512"}
    text = deploy_part([here, wider, there])
    assert "\n\nThe same on A processor with AVX512, no wider ones:\n\n" in text
    assert "\n\nThe same on A processor with AVX2, no wider ones:\n\n" in text
    assert text.count("| ONNX Runtime | b | – | 1.50 | 0.750 |") == 2
    assert "(results/processors/x.json)" in text
    assert {point.record for point in figure7([here, there])} == {"", "deploy/x.json"}


def test_arm_rows_say_both_differences() -> None:
    row = {
        "network": "net",
        "input_size": [3, 64, 48],
        "runtime": "mnn",
        "version": "3.6.1",
        "machine": "riscv64",
    }
    row |= {"against_here": 1.25e-7, "against_pytorch": 5e-7}
    rows = [row, row | {"precision": "fp16", "network": "half"}]
    text = deploy_part([record("arm", {"name": "emulated"}, {"rows": rows, "qemu": "10.0.13"})])
    place = "riscv64, QEMU 10.0.13 | [record](results/arm/emulated.json)"
    cells = f"| net | 64x48 | MNN 3.6.1 | 1.2e-07 | 5.0e-07 | {place} |"
    assert cells in text
    assert "| half | 64x48 | MNN fp16 3.6.1 | 1.2e-07 |" in text


def test_browsers_say_differences_and_times() -> None:
    row = {"network": "net", "rewrites": "browser", "input_size": [3, 64, 48], "version": "1.30.0"}
    row |= {
        "against_here": 1.25e-7,
        "against_pytorch": 5e-7,
        "median_ms": 8.456,
        "ratio": 0.9,
        "ratios": [0.92, 0.9],
    }
    metrics = {"rows": [row], "browser": "Chromium 1.2"}
    text = deploy_part([record("web", {"name": "chromium"}, metrics)])
    assert (
        "| net | browser | 64x48 | 1.2e-07 | 5.0e-07 | 8.46 | 0.90 (0.90-0.92) | [record](results/web/"
        in text
    )
    assert "onnxruntime-web 1.30.0, WASM, one thread, batch 1, Chromium 1.2, A processor;" in text


def test_nothing_run_is_nothing_said() -> None:
    assert deploy_part([]) == ""
    text = deploy_part([planned()])
    assert "one thread, batch 1, A processor; s: the ratios" in text
    assert "int8 against float" not in text


def test_latencies_in_full_and_a_row_a_runtime() -> None:
    def record(runtime: str, times: dict[str, float]) -> tuple[Path, dict[str, object]]:
        first = next(iter(times.values()))
        rows = [
            {"name": name, "runtime": runtime, "median_ms": ms, "ratio": ms / first}
            for name, ms in times.items()
        ]
        result = {
            "exhibit": "deploy",
            "environment": {"cpu": "a processor"},
            "metrics": {"rows": rows, "input_size": [3, 64, 48]},
        }
        return Path(f"deploy/{runtime}.json"), result

    results = [
        record("onnx", {"timm:a@plain": 4.0, "ghostnet_100": 3.0, "timm:b@plain": 6.0}),
        record("ncnn", {"timm:a@plain": 2.0, "ghostnet_100": 3.0, "timm:b@plain": 3.0}),
    ]
    full = deploy_part(results)
    assert (
        "| ONNX Runtime | ghostnet_100 | 64x48 | 3.00 | 0.750 | [record](results/deploy/onnx.json) |" in full
    )
    assert full.count("[record]") == 6
    short = latency_summary(results)
    assert "| runtime | network | ms | time / timm:a@plain | time / timm:b@plain | record |" in short
    assert "| ONNX Runtime | ghostnet_100 | 3.00 | 0.75 | 0.50 |" in short
    assert "| ncnn | ghostnet_100 | 3.00 | 1.50 | 1.00 |" in short
    assert latency_summary([]) == ""


def timed(exhibit: str, runtime: str, *rows: tuple[str, float]) -> tuple[Path, dict[str, Any]]:
    measured = [
        {"name": name, "runtime": runtime, "precision": "fp32", "threads": 1, "median_ms": ms, "ratio": 1.0}
        for name, ms in rows
    ]
    return record(exhibit, {"name": runtime}, {"rows": measured})


def test_peers_stand_in_the_order_of_table_7_with_a_column_a_runtime() -> None:
    counted = [
        {"name": name, "row": row, "macs": 1, "params": 1}
        for name, row in (("ghostnet_100", "GhostNet 1.0x"), ("mobilenetv1_050", "MobileNetV1 0.5x"))
    ]
    results = [
        record("table7", {"name": "counts"}, {"rows": counted}),
        timed("figure7", "onnx", ("a/ghostnet_100.onnx", 4.0), ("a/mobilenetv1_050.onnx", 2.5)),
        timed("figure7", "ncnn", ("a/ghostnet_100.param", 5.125), ("repghostnet_100", 3.0)),
        timed("deploy", "mnn", ("ghostnet_100", 9.0)),
    ]
    title, table = peers_part(results, "../results").split("\n\n")
    assert "[ncnn fp32](../results/figure7/ncnn.json)" in title
    assert [line.strip("| ").split(" | ") for line in table.splitlines()] == [
        ["network", "top-1 %", "ONNX Runtime fp32", "ncnn fp32"],
        [":--", "--:", "--:", "--:"],
        ["MobileNetV1 0.5x", "63.3", "2.50", "–"],
        ["GhostNet 1.0x", "73.9", "4.00", "5.12"],
        ["repghostnet_100", "–", "–", "3.00"],
    ]
    assert peers_part(results[:1]) == ""


def test_ghost_networks_stand_in_the_headline_beside_their_dense_ones_plain_exports() -> None:
    common = {"runtime": "onnx", "threads": 1}
    rows = [
        {"name": "a@plain", "median_ms": 8.0, "ratio": 1.0, **common},
        {"name": "a@optimized", "median_ms": 7.0, "ratio": 0.875, **common},
        {"name": "ghost_a@plain", "median_ms": 5.0, "ratio": 0.625, **common},
        {"name": "ghost_a@optimized", "median_ms": 4.0, "ratio": 0.5, "ratios": [0.5, 0.48, 0.5], **common},
        {"name": "ghost_b", "median_ms": 4.0, "ratio": 0.5, **common},
        {"name": "b", "median_ms": 8.0, "ratio": 1.0, **common, "runtime": "ncnn"},
        {
            "name": "ghost_b",
            "median_ms": 4.0,
            "ratio": 0.5,
            **common,
            "runtime": "ncnn",
        },  # not to a plain export
    ]
    results = [record("deploy", {"name": "bench"}, {"rows": rows, "input_size": [3, 64, 64]})]
    top = headline(results)
    assert [line for line in top.splitlines() if "| ghost" in line] == [
        "| ghost_a, 64x64 | ONNX Runtime | – | – | 4.00 | 0.50 (0.48-0.50) | [bench](results/deploy/bench.json) |"
    ]
    assert "Time ratio: to the dense network; where a size is named, to its plain export (" in top


def test_the_packaged_converted_network_has_its_accuracy_in_the_headline() -> None:
    common = {"runtime": "onnx", "threads": 1}
    rows = [
        {"name": "a@plain", "median_ms": 8.0, "ratio": 1.0, **common},
        {"name": "a.ghost", "median_ms": 4.0, "ratio": 0.5, **common},
    ]
    trained = {"top1": 93.284, "macs": 47_360_704}
    made = record("ghost", {"name": "ghost_a", "model": "a"}, trained)[1]
    timed = record("deploy", {"name": "bench"}, {"rows": rows, "input_size": [3, 32, 32]})
    top = headline([timed, (Path("ghost/ghost_a-seed0.json"), made)])
    assert "| a.ghost, 32x32 | ONNX Runtime | 93.28 | 47.4 | 4.00 | 0.50 |" in top
    shorter = headline([timed, (Path("ghost/ghost_a_3_epochs-seed0.json"), made)])
    assert "| a.ghost, 32x32 | ONNX Runtime | – | – | 4.00 | 0.50 |" in shorter


def test_ratios_of_several_processes_show_their_spread() -> None:
    common = {"runtime": "onnx", "precision": "fp32", "threads": 1}
    rows = [
        {"name": "timm:a@plain", "median_ms": 4.0, "ratio": 1.0, "ratios": [1.0, 1.0, 1.0], **common},
        {"name": "ghostnet_100", "median_ms": 3.4, "ratio": 0.85, "ratios": [0.87, 0.84, 0.85], **common},
        {"name": "timm:b@plain", "median_ms": 5.2, "ratio": 1.25, "ratios": [1.0, 1.26, 1.25], **common},
    ]
    path, result = record("deploy", {"name": "bench"}, {"rows": rows, "processes": 3})
    full = deploy_part([(path, result)])
    assert "| timm:a@plain | – | 4.00 | 1.000 | [record]" in full
    assert "| ghostnet_100 | – | 3.40 | 0.850 (0.840-0.870) | [record]" in full
    assert "gives, in brackets the lowest and highest of several processes:" in full
    short = latency_summary([(path, result)])
    # over b: the middle, lowest and highest of 0.87, 0.84 / 1.26 and 0.85 / 1.25, not 3.4 / 5.2
    assert "| ghostnet_100 | 3.40 | 0.85 (0.84-0.87) | 0.68 (0.67-0.87) |" in short
    assert "exports, in brackets the lowest and highest of several processes (" in short
    top = headline([(path, result)])
    assert "| 3.40 | 0.85 (0.84-0.87) / 0.68 (0.67-0.87) |" in top
    assert "timm's b, in brackets the lowest and highest of several processes." in top
    eighth = [row | {"precision": "int8"} for row in rows]
    both = [(path, result), record("deploy", {"name": "int8"}, {"rows": eighth, "processes": 3})]
    assert "| ONNX Runtime int8 | ghostnet_100 | – | 3.40 | 0.850 (0.840-0.870) | [record]" in deploy_part(
        both
    )
    assert "| ONNX Runtime int8 | ghostnet_100 | 3.40 |" in latency_summary(both)
    assert headline(both) == top
    # ratios in two settings have two references
    assert time_over(rows[1], rows[2] | {"threads": 2}) == "0.65"
