"""The choice of layers by measuring: what is timed, what is chosen, and that slower networks are never the answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ghostnet.deploy import Plan, PlannedLayer, plan
from ghostnet.deploy.layer_times import find_sites
from ghostnet.deploy.plan_search import GhostOption, least_cost, search
from ghostnet.errors import InputError
from ghostnet.measure import profile
from ghostnet.nn import GhostConv2d
from ghostnet.nn.edits import replace_module_

SIZE = (3, 16, 16)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 160, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(160, 160, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(160, 160, 3, padding=1, bias=False),
        nn.Conv2d(160, 160, 3, groups=160),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(160, 4, 1),
        nn.Flatten(),
    ).eval()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path, list[str]]:
    pytest.importorskip("onnxruntime")
    folder, said = tmp_path_factory.mktemp("plan"), []
    for _ in range(3):  # what else this machine does may have met one form and not the other
        made = plan(
            network(),
            "onnx",
            input_size=SIZE,
            seconds=0.05,
            folder=folder,
            announce=lambda line: said.append(line),
        )
        if {"2", "4"} <= set(made.layers):
            break
    return made, folder, said


def test_wide_layers_gain_and_the_whole_network_is_faster(found: tuple[Plan, Path, list[str]]) -> None:
    made, _, _ = found
    assert {"2", "4"} <= set(made.layers)
    assert [row.name for row in made.rows] == ["2", "4", "7"]
    assert made.left_out == {"0": "the first convolution", "5": "a depthwise convolution"}
    first, second, _ = made.rows
    assert (first.dense_ms, first.ghost_ms) == (
        second.dense_ms,
        second.ghost_ms,
    )  # of equal shape: timed once
    assert first.time_ratio is not None
    assert first.time_ratio < 0.98
    assert made.measured_ratio <= 0.95
    assert made.met
    assert min(attempt["ratio"] for attempt in made.attempts) == pytest.approx(made.measured_ratio, abs=0.02)


def test_its_counts_are_those_of_the_profiler(found: tuple[Plan, Path, list[str]]) -> None:
    row = found[0].rows[0]
    dense = nn.Conv2d(160, 160, 3, padding=1, bias=False)
    ghost = GhostConv2d(160, 160, 3, padding=1, bias=False)
    assert row.macs == profile(dense, (160, 16, 16)).macs
    assert row.macs_ratio == pytest.approx(profile(ghost, (160, 16, 16)).macs / row.macs)
    assert row.shape == "160x16x16, 3x3, 160"


def test_the_table_and_the_record_say_what_was_chosen(found: tuple[Plan, Path, list[str]]) -> None:
    made, _, _ = found
    lines = str(made).splitlines()
    assert len(lines) == 1 + 3 + 1
    assert lines[1].endswith("ghost")
    assert "whole network at" in lines[-1]
    assert made.to_dict()["layers"] == made.layers
    assert made.ratios == dict.fromkeys(made.layers, 2)


def test_kept_files_are_used_again(found: tuple[Plan, Path, list[str]]) -> None:
    _, folder, said = found
    assert sum(line.startswith("exporting") for line in said) >= 6
    assert "exporting layer 2 of 2 (7, ghost) to ONNX Runtime" in said  # two of the three are of equal shape
    assert any(line.startswith("timing 2 distinct layers") and line.endswith("at least") for line in said)
    assert any(line.startswith("ghosting ") for line in said)  # before each conversion, which can be slow
    again: list[str] = []
    plan(
        network(),
        "onnx",
        input_size=SIZE,
        seconds=0.02,
        folder=folder,
        layers=["2", "4"],
        announce=again.append,
    )
    assert not [line for line in again if "dense" in line and line.startswith("exporting")]


@pytest.mark.parametrize("kind", [".onnx", ".onnx.json"])
def test_kept_files_that_are_damaged_are_made_again(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 64, 3)).eval()
    said: list[str] = []
    for _ in range(2):
        made = plan(model, "onnx", input_size=SIZE, seconds=0.01, folder=tmp_path, announce=said.append)
        assert made.rows[0].dense_ms is not None
        kept = [path for path in tmp_path.iterdir() if path.name.endswith(kind)]
        assert kept
        for path in kept:
            path.write_bytes(path.read_bytes()[:50])
    again = [line for line in said if "is of no use" in line]
    assert again


def test_where_nothing_could_be_measured_the_plan_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")

    def fails(*_args: Any, **_settings: Any) -> None:
        raise RuntimeError("the exporter fails")

    monkeypatch.setattr("ghostnet.deploy.layer_times.export", fails)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 64, 3)).eval()
    made = plan(model, "onnx", input_size=SIZE, seconds=0.01)
    assert made.verdict().startswith(
        "no layer could be measured in ONNX Runtime fp32, 1 thread(s): 1: dense form"
    )


def test_int8_and_a_builder_of_ones_own() -> None:
    pytest.importorskip("onnxruntime")
    built: list[dict[str, int]] = []
    model = nn.Sequential(nn.Conv2d(3, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 96, 3, padding=1)).eval()

    def build(ratios: dict[str, int]) -> nn.Module:
        built.append(ratios)
        return nn.Sequential(model[0], nn.ReLU(), GhostConv2d(96, 96, 3, padding=1)).eval()

    made = plan(model, "onnx", input_size=SIZE, precision="int8", seconds=0.02, build=build)
    row = made.rows[0]
    assert row.dense_ms is not None
    assert built in ([], [{"2": 2}])  # asked for only where the layer gains
    assert bool(built) == (row.time_ratio is not None and row.time_ratio <= 0.98)
    assert made.measured_ratio <= 1.0


def test_a_layer_that_cannot_be_ghosted_stays_out_of_every_network() -> None:
    pytest.importorskip("onnxruntime")
    mask = nn.Sequential(*network()[:5], nn.Conv2d(160, 1, 1)).eval()
    built: list[dict[str, int]] = []

    def build(ratios: dict[str, int]) -> nn.Module:
        built.append(ratios)
        ghost = network()
        for name in ratios:
            replace_module_(ghost, name, GhostConv2d(160, 160, 3, padding=1, bias=False))
        return nn.Sequential(*ghost[:5], nn.Conv2d(160, 1, 1)).eval()

    made = plan(mask, "onnx", input_size=SIZE, seconds=0.05, build=build)
    assert made.rows[-1].reason.startswith("cannot be ghosted: `ratio` (=2) must not be larger")
    assert set(made.layers) <= {"2", "4"}
    gains = [row.name for row in made.rows if row.time_ratio is not None and row.time_ratio <= 0.98]
    assert bool(built) == bool(gains)  # on a busy machine a layer may seem to gain nothing
    assert not any("5" in ratios for ratios in built)
    assert "None" not in str(made)


Options = dict[str, list[GhostOption]]


def equal_layers(count: int = 8) -> Options:
    return {f"layer{number}": [GhostOption(2, 1.0, 1.0)] for number in range(count)}


def searched(
    options: Options, time: Callable[[dict[str, int]], float], budget: float
) -> tuple[dict[str, int], float, list[int]]:
    """Search where the time of each whole network is known; the last is how many layers each that was asked for had."""
    asked: list[int] = []

    def measure(chosen: dict[str, int]) -> float:
        asked.append(len(chosen))
        return time(chosen)

    return *search(options, measure, budget), asked


def by_count(ratios: dict[int, float]) -> Callable[[dict[str, int]], float]:
    return lambda chosen: ratios[len(chosen)]


def test_layers_are_dropped_until_the_whole_network_is_faster() -> None:
    chosen, ratio, asked = searched(equal_layers(), by_count({8: 1.3, 4: 1.01, 2: 0.9, 3: 0.92}), 1.0)
    assert (len(chosen), ratio, asked) == (2, 0.9, [8, 4, 2, 3])


def test_a_better_number_of_layers_between_is_found() -> None:
    chosen, ratio, asked = searched(equal_layers(), by_count({8: 1.16, 4: 0.92, 6: 0.85, 7: 0.86}), 1.0)
    assert (len(chosen), ratio, asked) == (6, 0.85, [8, 4, 6, 7])
    times = by_count(dict.fromkeys(range(1, 41), 1.2) | {20: 0.8})
    _, ratio, asked = searched(equal_layers(40), times, 1.0)
    assert (ratio, asked) == (0.8, [40, 20, 30, 25, 23, 22, 21])


def test_no_layer_is_the_answer_where_none_helps() -> None:
    chosen, ratio, asked = searched(equal_layers(), by_count({8: 1.3, 4: 1.2, 2: 1.1, 1: 0.96}), 1.0)
    assert (chosen, ratio, asked) == ({}, 1.0, [8, 4, 2, 1])


def test_a_budget_takes_the_fewest_layers_that_meet_it() -> None:
    linear = by_count({count: 1 - 0.06 * count for count in range(1, 9)})
    chosen, ratio, asked = searched(equal_layers(), linear, 0.7)
    assert (len(chosen), ratio, asked) == (5, pytest.approx(0.7), [8, 6, 5])
    chosen, ratio, asked = searched(equal_layers(), linear, 0.3)
    assert (len(chosen), asked) == (8, [8])  # cannot be met: as fast as it gets
    chosen, ratio, asked = searched(equal_layers(), linear, 0.75)
    assert (len(chosen), asked) == (5, [8, 5, 4])  # four layers take 0.76


def mixed_layers() -> Options:
    """Return layers that gain alike, each in ratios 2 and 4, the later ones at ever higher cost."""
    return {
        f"layer{number}": [GhostOption(2, 1.0, 0.1 * 3**number), GhostOption(4, 1.5, 0.4 * 3**number)]
        for number in range(6)
    }


def gained(chosen: dict[str, int]) -> float:
    return sum({2: 1.0, 4: 1.5}[ratio] for ratio in chosen.values())


@pytest.mark.parametrize("in_company", [0.3, 1.0, 1.4])
def test_a_budget_is_met_at_the_least_cost_in_mixed_ratios(in_company: float) -> None:
    options, full = mixed_layers(), 30.0
    budget = 1 - in_company * 5.5 / full

    def cost(chosen: dict[str, int]) -> float:
        return sum(form.cost for name in chosen for form in options[name] if form.ratio == chosen[name])

    chosen, ratio, asked = searched(options, lambda one: 1 - in_company * gained(one) / full, budget)
    every = [
        {f"layer{k}": ratio for k, ratio in enumerate(ratios) if ratio}
        for ratios in itertools.product((0, 2, 4), repeat=6)
    ]
    meeting = [one for one in every if 1 - in_company * gained(one) / full <= budget + 1e-9]
    within = [one for one in every if 1 - in_company * gained(one) / full <= budget - 0.03]
    assert ratio <= budget
    assert min(map(cost, meeting)) <= cost(chosen) + 1e-9
    assert cost(chosen) <= min(map(cost, within), default=1e9)
    assert set(chosen.values()) == {2, 4}
    assert len(asked) <= 8


def test_the_choice_of_least_cost_saves_what_is_asked() -> None:
    options = mixed_layers()
    for share in (0.1, 0.4, 0.75, 1.0):
        assert gained(least_cost(options, share)) >= share * 9 - 1e-3
    assert least_cost(options, 1.0) == dict.fromkeys(options, 4)
    assert least_cost(options, 0.1) == {"layer0": 2}


def test_several_ratios_are_timed_and_each_layer_gets_one() -> None:
    pytest.importorskip("onnxruntime")
    said: list[str] = []
    cost = {"2": {2: 0.1, 3: 0.2, 6: 0.3}, "4": {2: 5.0, 3: 6.0}, "7": {2: 1.0}}
    made = plan(
        network(),
        "onnx",
        input_size=SIZE,
        ratio=(6, 2, 3),
        budget=0.97,
        cost=cost,
        seconds=0.05,
        announce=said.append,
    )
    first, _, last = made.rows
    assert set(first.ghost_times) == {2, 3, 6}
    assert first.costs == cost["2"]
    assert made.ratios["2"] in (2, 3, 6)
    assert first.ghost_ms == first.ghost_times[made.ratios["2"]]
    assert first.macs_ratio == pytest.approx(1 / made.ratios["2"], rel=0.1)
    assert f"ghost, s = {made.ratios['2']}" in str(made)
    assert set(last.ghost_times) == {2, 3}  # four channels have no ratio of six
    assert made.to_dict()["ratios"] == made.ratios
    assert made.settings["ratio"] == [2, 3, 6]
    assert any("ghosted in 3 ratios" in line for line in said)


def test_the_verdict_says_what_cannot_be_had() -> None:
    row = PlannedLayer("a", "s", 10, 2, 0.5, 2.0, 3.0, 1.0, False, "slower as a Ghost convolution")
    facts: dict[str, Any] = {"left_out": {}, "attempts": (), "settings": {}, "environment": {}}
    none = Plan("onnx", "fp32", 1, 1.0, (row,), measured_ratio=1.0, **facts)
    assert "no layer is worth ghosting in ONNX Runtime fp32" in str(none)
    empty = Plan("onnx", "fp32", 1, 1.0, (), measured_ratio=1.0, **{**facts, "left_out": {"a": "the first"}})
    assert str(empty) == "no layer is a candidate for ghosting: a: the first"
    many = Plan(
        "onnx", "fp32", 1, 1.0, (), measured_ratio=1.0, **{**facts, "left_out": dict.fromkeys("abcde", "why")}
    )
    assert str(many).endswith("a: why; b: why; c: why; and 2 more")
    taken = PlannedLayer("a", "s", 10, 2, 0.5, 2.0, 1.0, 1.0, True, "gains")
    missed = Plan("onnx", "fp32", 1, 0.4, (taken,), measured_ratio=0.6, **facts)
    assert "the budget of 0.4 cannot be met" in str(missed)
    assert not missed.met


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 0}, r"budget \(=0\) must be above 0 and at most 1"),
        ({"budget": 1.2}, r"budget \(=1.2\) must be above 0 and at most 1"),
        ({"budget": True}, r"budget \(=True\) must be above 0"),
        ({"precision": "bf16"}, r"ONNX Runtime runs in fp32 here, not in bf16"),
        ({"precision": "int9"}, r"unknown precision 'int9'; did you mean 'int8'"),
        ({"layers": ["3"]}, r"unknown layer '3'"),
        ({"cost": {"2": 1.0}}, r"cost has no entry for layer 4"),
        ({"cost": lambda _name: -1.0}, r"the cost of layer 2 \(=-1.0\) must be a finite number >= 0"),
        ({"threads": 0}, r"threads \(=0\) must be an integer >= 1"),
        ({"ratio": 0}, r"ratio \(=0\) must be an integer >= 2"),
        ({"ratio": "2"}, r"ratio \(='2'\) must be an integer >= 2"),
        ({"ratio": (2, 2.5)}, r"ratio \(=2.5\) must be an integer >= 2"),
        ({"ratio": ()}, r"ratio is an empty list"),
        ({"ratio": (2, 4)}, r"several ratios \(2, 4\) need a budget below 1"),
        (
            {"cost": lambda _name: {2: float("nan")}},
            r"the cost of layer 2 \(=nan\) must be a finite number >= 0",
        ),
        ({"cheap_kernel_size": 2}, r"`cheap_kernel_size` \(=2\) must be an odd integer"),
        (
            {"precision": "int8", "calibration": np.zeros((16, 3, 8, 8), np.float32)},
            r"calibration images of shape \(16, 3, 8, 8\) do not fit",
        ),
        ({"seconds": 0}, r"seconds \(=0\) must be above 0"),
        ({"input_size": (4, 16, 16)}, r"the model does not run with input_size \(4, 16, 16\)"),
    ],
)
def test_bad_arguments_are_one_line(arguments: dict[str, Any], message: str) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(InputError, match=message) as error:
        plan(network(), "onnx", **{"input_size": SIZE, **arguments})
    assert "\n" not in str(error.value)


def test_other_bad_input_is_one_line() -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(InputError, match=r"ncnn has no int8 here"):
        plan(network(), "ncnn", input_size=SIZE, precision="int8")
    with pytest.raises(
        InputError, match=r"found no convolution in this Sequential; a plan is about nn.Conv2d"
    ):
        plan(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), "onnx", input_size=SIZE)


def test_layers_of_a_ghost_network_and_shared_ones_are_no_candidates() -> None:
    shared = nn.Conv2d(8, 8, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), GhostConv2d(8, 8, 3, padding=1), shared, shared)
    sites, left_out = find_sites(model, SIZE)
    assert [(site.name, site.usually_kept) for site in sites] == [("0", "the first convolution")]
    with pytest.raises(
        InputError, match=r"layer 1.primary_conv is no candidate: part of a Ghost convolution"
    ):
        plan(model, "onnx", input_size=SIZE, layers=["1.primary_conv"])
    assert left_out["1.primary_conv"] == "part of a Ghost convolution"
    assert "runs more than once" in left_out.values()
