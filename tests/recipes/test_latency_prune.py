"""Pruning to a share of the time in a runtime."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ghostnet.convert import prune
from ghostnet.errors import InputError
from ghostnet.recipes.latency_prune import prune_by_plan

EXAMPLE = torch.zeros(1, 3, 16, 16)


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for given, made in ((3, 96), (96, 96), (96, 96), (96, 96)):
        layers += [nn.Conv2d(given, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 4)).eval()


@pytest.mark.parametrize("method", ["l1", pytest.param("channel", marks=pytest.mark.slow)])
def test_what_was_timed_has_the_channels_of_what_comes_out(method: str, dense: nn.Module) -> None:
    pytest.importorskip("onnxruntime")
    images: Any = (
        None if method == "l1" else torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    )
    pruned, report, found = prune_by_plan(
        dense, "onnx", method=method, budget=0.85, example_input=EXAMPLE, calibration=images, seconds=0.05
    )
    assert found.measured_ratio <= 0.85
    settings = {
        key: value for key, value in report.settings.items() if key != "remark"
    }  # blocks of 8 are coarse
    assert settings == {"method": method, "macs": found.share, "multiple": 8}
    timed, _ = prune(dense, "l1", macs=found.share, multiple=8, example_input=EXAMPLE)
    shapes = {name: value.shape for name, value in pruned.state_dict().items()}
    assert shapes == {name: value.shape for name, value in timed.state_dict().items()}
    assert pruned.get_submodule("6").out_channels % 8 == 0
    same = all(torch.equal(value, timed.state_dict()[name]) for name, value in pruned.state_dict().items())
    assert same == (method == "l1")


def test_what_cannot_be_planned_is_refused(dense: nn.Module) -> None:
    given: dict[str, Any] = {"budget": 0.5, "example_input": EXAMPLE, "seconds": 0.01}
    with pytest.raises(InputError, match=r"method 'sss' trains before it chooses.*give it as `macs`"):
        prune_by_plan(dense, "onnx", method="sss", **given)
    with pytest.raises(InputError, match="unknown pruning method 'ghost'"):
        prune_by_plan(dense, "onnx", method="ghost", **given)
    said: list[str] = []
    with pytest.raises(InputError, match="method 'channel' looks at images: give `calibration`"):
        prune_by_plan(dense, "onnx", method="channel", announce=said.append, **given)
    assert said == []  # nothing was timed
    pytest.importorskip("onnxruntime")
    with pytest.raises(
        InputError, match=r"budget \(=0.02\) cannot be met by pruning: with 0\.\d+ of its MACs"
    ):
        prune_by_plan(dense, "onnx", **(given | {"budget": 0.02}))
