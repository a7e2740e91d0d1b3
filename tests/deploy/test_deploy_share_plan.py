"""The share of a network that meets a budget of time: the search, and networks in a runtime."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ghostnet.deploy import plan_share
from ghostnet.deploy.layer_times import Setting
from ghostnet.deploy.share_plan import search_share
from ghostnet.deploy.whole_times import WholeTimes, form_of
from ghostnet.errors import InputError

SIZE = (3, 24, 24)


def network(width: int = 96) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 96, 3, padding=1))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 4)).eval()


def searched(
    time: Callable[[float], float], budget: float, least: float = 0.05
) -> tuple[float, float, list[float]]:
    asked: list[float] = []

    def measure(share: float) -> float:
        asked.append(share)
        return time(share)

    return *search_share(measure, budget, least), asked


@pytest.mark.parametrize("budget", [0.9, 0.6, 0.3])
@pytest.mark.parametrize("overhead", [0.0, 0.2])
def test_the_largest_share_that_meets_the_budget_is_found(overhead: float, budget: float) -> None:
    share, ratio, asked = searched(lambda share: overhead + (1 - overhead) * share, budget)
    assert budget - 0.02 < ratio <= budget
    assert ratio == pytest.approx(overhead + (1 - overhead) * share)
    assert len(asked) <= 3


def test_blocks_of_channels_make_steps_and_the_best_that_was_seen_counts() -> None:
    share, ratio, asked = searched(
        lambda share: (int(share * 10) + 1) / 10, 0.75
    )  # 0.7 for all from 0.6 to 0.7
    assert ratio == 0.7
    assert 0.68 < share < 0.7
    assert share == max(one for one in asked if one < 0.7) > min(asked)
    assert len(asked) == len(set(asked)) <= 8


def test_a_budget_out_of_reach_gives_the_fastest() -> None:
    share, ratio, asked = searched(lambda share: 0.4 + 0.6 * share, 0.3)
    assert (share, ratio) == (0.05, pytest.approx(0.43))
    assert asked == sorted(asked, reverse=True)
    share, ratio, asked = searched(lambda share: 1.1 - 0.01 * (share > 0.4), 0.5)
    assert (share, ratio) == (0.5, pytest.approx(1.09))
    assert asked[-1] == 0.05


@pytest.mark.parametrize("least", [0.0507, 1 / 3])
def test_no_share_is_asked_for_twice_or_below_the_least(least: float) -> None:
    share, _, asked = searched(lambda share: 0.9 + 0.1 * share, 0.5, least)
    assert share == min(asked) == least
    assert len(asked) == len(set(asked))


def test_a_network_is_narrowed_until_it_takes_the_share_of_the_time(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    built: list[int] = []

    def build(share: float) -> nn.Module:
        built.append(max(1, round(96 * share)))
        return network(built[-1])

    said: list[str] = []
    found = plan_share(
        network(),
        "onnx",
        build=build,
        input_size=SIZE,
        budget=0.6,
        seconds=0.03,
        folder=tmp_path,
        announce=said.append,
    )
    assert found.met
    assert found.measured_ratio <= 0.6
    assert found.share in [attempt["share"] for attempt in found.attempts]
    assert len(built) == len(found.attempts)
    assert any(
        f"share {found.share:.3f}: whole network at {found.measured_ratio:.3f}" in line for line in said
    )
    assert len(list(tmp_path.glob("*.onnx"))) == 1 + len(set(built))
    plain = json.loads(json.dumps(found.to_dict()))
    assert (plain["met"], plain["settings"]) == (True, {"input_size": list(SIZE)})
    lines = str(found).splitlines()
    assert len(lines) == 2 + len(found.attempts)
    assert [line for line in lines[1:-1] if line.endswith("*")] != []
    assert lines[-1].endswith("of the time in ONNX Runtime fp32, 1 thread(s)")


def test_shares_that_give_one_network_are_timed_once() -> None:
    pytest.importorskip("onnxruntime")
    found = plan_share(
        network(),
        "onnx",
        build=lambda _share: network(48),
        input_size=SIZE,
        budget=0.3,
        least=0.1,
        seconds=0.01,
    )
    assert len(found.attempts) > 1
    assert len({attempt["share"] for attempt in found.attempts}) == len(found.attempts)
    assert len({(attempt["dense_ms"], attempt["ms"]) for attempt in found.attempts}) == 1


def test_a_budget_that_cannot_be_met_is_said() -> None:
    pytest.importorskip("onnxruntime")
    found = plan_share(
        network(),
        "onnx",
        build=lambda _share: network(),
        input_size=SIZE,
        budget=0.3,
        least=0.2,
        seconds=0.01,
    )
    assert not found.met
    assert str(found).splitlines()[-1].endswith("; the budget of 0.3 cannot be met")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 1}, r"budget \(=1\) asks for nothing"),
        ({"budget": 0.0}, r"budget \(=0.0\) must be above 0"),
        ({"least": 0.0}, r"least \(=0.0\) must be a share above 0"),
        ({"precision": "bf16"}, "ONNX Runtime runs in fp32 here, not in bf16"),
        ({"threads": 0}, r"threads \(=0\) must be an integer >= 1"),
        ({"seconds": 0.0}, r"seconds \(=0.0\) must be above 0"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    pytest.importorskip("onnxruntime")
    given: dict[str, Any] = {
        "build": lambda _share: network(),
        "input_size": SIZE,
        "budget": 0.5,
        **arguments,
    }
    with pytest.raises(InputError, match=message):
        plan_share(network(), "onnx", **given)


class Repeats(nn.Module):
    """Prints as another one does, whatever its number of passes."""

    def __init__(self, times: int, trick: bool = False) -> None:
        super().__init__()
        self.layer, self.times, self.trick = nn.Conv2d(3, 3, 1), times, trick

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for _ in range(self.times):
            images = self.layer(images)
        return images if not self.trick or images.sum() > 0 else -images


@pytest.mark.parametrize("trick", [False, True], ids=["traced", "not traced"])
def test_networks_that_print_alike_are_told_apart(trick: bool) -> None:
    assert str(Repeats(1, trick)) == str(Repeats(9, trick))
    assert form_of(Repeats(1, trick)) != form_of(Repeats(9, trick))
    assert form_of(Repeats(9, trick)) == form_of(Repeats(9, trick))


def test_files_that_are_kept_are_those_of_networks_that_compute_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    for times, files in ((2, 2), (3, 3), (2, 3)):  # the last one's are there
        setting = Setting("onnx", "fp32", 1, 0.001, tmp_path, None, lambda _line: None)
        WholeTimes(Repeats(times), setting, SIZE).ratio(Repeats(9), "more", {})
        assert len(list(tmp_path.glob("*.onnx"))) == files
