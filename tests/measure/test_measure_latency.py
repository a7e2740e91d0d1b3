"""Interleaved timing and the description of the machine."""

import json
import time

import pytest

from ghostnet.errors import InputError
from ghostnet.measure import environment, time_interleaved


def test_calls_alternate_after_the_warm_up() -> None:
    calls: list[str] = []
    work = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    timings = time_interleaved(work, min_seconds=0, min_rounds=3, warmup=2)
    assert calls == ["a", "a", "b", "b", *("a", "b") * 3]
    assert {name: timing.rounds for name, timing in timings.items()} == {"a": 3, "b": 3}


def test_slower_work_takes_longer_and_percentiles_are_ordered() -> None:
    work = {"short": lambda: None, "long": lambda: time.sleep(0.003)}
    timings = time_interleaved(work, min_seconds=0.0, min_rounds=5, warmup=0)
    assert timings["long"].median_ms >= 3.0 > timings["short"].median_ms
    assert timings["long"].p10_ms <= timings["long"].median_ms <= timings["long"].p90_ms


def test_the_least_time_is_spent() -> None:
    timing = time_interleaved({"sleep": lambda: time.sleep(0.002)}, min_seconds=0.02, min_rounds=1)["sleep"]
    assert timing.rounds * timing.p90_ms >= 15


@pytest.mark.parametrize(
    "limits", [{"min_seconds": float("nan")}, {"min_seconds": -1.0}, {"min_rounds": 0}, {"warmup": -1}]
)
def test_limits_out_of_range_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"min_seconds .* must be finite"):
        time_interleaved({"a": lambda: None}, **limits)  # type: ignore[arg-type]


def test_nothing_to_time_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to time"):
        time_interleaved({})


def test_environment_is_complete_and_json() -> None:
    found = json.loads(json.dumps(environment()))
    assert {"python", "torch", "platform", "cpu", "cores", "vectors", "threads", "gpu"} <= found.keys()
    assert found["cores"] >= 1
