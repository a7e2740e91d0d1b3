"""Conversion by plan: the layers that gain become Ghost convolutions with fitted weights, the others stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ghostnet.convert import ghostify, sensitivity
from ghostnet.errors import InputError
from ghostnet.nn import GhostConv2d
from ghostnet.recipes.latency_plan import GhostSettings, convert_by_plan


def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for given, made in ((3, 96), (96, 96), (96, 96)):
        layers += [nn.Conv2d(given, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 4)).eval()


def test_planned_layers_are_converted_from_the_dense_weights() -> None:
    pytest.importorskip("onnxruntime")
    dense, example = network(), torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ghost, report, plan = convert_by_plan(dense, "onnx", example_input=example, budget=0.95, seconds=0.03)
    assert [row.name for row in plan.rows] == ["3", "6"]
    assert ghost is not None
    assert report is not None
    assert report.converted == plan.layers != []
    for name in ("0", "3", "6"):
        assert isinstance(ghost.get_submodule(name), GhostConv2d) == (name in plan.layers)
    assert plan.measured_ratio <= 0.95
    assert all(0 < row.cost < 1 for row in plan.rows)  # reconstruction errors
    assert not torch.equal(dense(example), ghost(example))


def test_a_network_without_candidates_says_why_and_has_no_table() -> None:
    pytest.importorskip("onnxruntime")
    patches = nn.Sequential(nn.Conv2d(3, 32, 4, 4), nn.Flatten(), nn.Linear(512, 4)).eval()
    ghost, report, plan = convert_by_plan(
        patches, "onnx", example_input=torch.randn(1, 3, 16, 16), budget=0.8
    )
    assert (ghost, report, plan.rows, plan.attempts) == (None, None, (), ())
    assert str(plan).startswith("no layer is a candidate for ghosting: 0: the first convolution")


def test_the_candidates_are_those_of_ghostify() -> None:
    pytest.importorskip("onnxruntime")
    example: Any = torch.randn(1, 3, 16, 16)
    settings = GhostSettings(layers=["6"], init="random")
    _, _, plan = convert_by_plan(network(), "onnx", example_input=example, ghost=settings, seconds=0.01)
    assert [(row.name, row.cost) for row in plan.rows] == [("6", 1.0)]
    assert plan.left_out["3"] == "not among the selected layers"
    with pytest.raises(InputError, match=r"found no convolution in this Sequential"):
        convert_by_plan(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), "onnx", example_input=example)


def test_a_budget_gives_each_layer_a_ratio_by_what_it_costs_on_images(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    dense, images = network(), torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    settings = GhostSettings(ratio=(2, 4), calibration=[images])
    given: dict[str, Any] = {"example_input": images[:1], "ghost": settings, "costs": tmp_path / "costs.json"}
    ghost, report, plan = convert_by_plan(dense, "onnx", budget=0.9, seconds=0.03, **given)
    assert ghost is not None
    assert report is not None
    assert report.settings["calibrated"] is True
    measured = sensitivity(dense, [images], ratios=(2, 4))
    assert {row.name: row.costs for row in plan.rows} == {
        layer.name: pytest.approx(layer.costs) for layer in measured.layers
    }
    assert {name: m.ratio for name, m in ghost.named_modules() if isinstance(m, GhostConv2d)} == plan.ratios
    assert plan.measured_ratio <= 0.9
    direct, _ = ghostify(dense, ratio=plan.ratios, calibration=[images])
    torch.testing.assert_close(
        ghost(images), direct(images)
    )  # not the network that was timed, but the fitted one
    known = (tmp_path / "costs.json").read_text()
    convert_by_plan(dense, "onnx", budget=0.98, seconds=0.01, **given)
    assert (tmp_path / "costs.json").read_text() == known


@pytest.mark.parametrize(
    ("changes", "budget"),
    [({}, 0.8), ({"calibration": "images"}, 1.0), ({"calibration": "images", "init": "random"}, 0.8)],
)
def test_several_ratios_without_what_chooses_among_them_are_one_line(
    changes: dict[str, Any], budget: float
) -> None:
    images = torch.randn(4, 3, 16, 16)
    given = {key: [images] if value == "images" else value for key, value in changes.items()}
    with pytest.raises(InputError, match=r"several ratios are chosen by what each costs on images"):
        convert_by_plan(
            network(), "onnx", example_input=images, ghost=GhostSettings(ratio=(2, 4), **given), budget=budget
        )
