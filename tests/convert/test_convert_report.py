"""The conversion report: its numbers, its table and its JSON form."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from ghostnet.convert import ghostify
from ghostnet.errors import InputError
from ghostnet.measure import profile


def convert(**arguments):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, bias=False))
    return model, *ghostify(model, init="random", **arguments)


def test_totals_and_layers_equal_the_profile():
    model, ghost_model, report = convert(example_input=torch.rand(1, 3, 12, 12))
    assert report.macs_before == profile(model, (3, 12, 12)).macs
    assert report.macs_after == profile(ghost_model, (3, 12, 12)).macs
    kept, ghost = report.layers
    assert (kept.name, kept.action, ghost.name, ghost.action) == ("0", "kept", "3", "ghost")
    assert (kept.params_before, kept.params_after) == (224, 224)
    assert (ghost.params_before, ghost.params_after) == (16 * 8 * 9, 8 * 8 * 9 + 8 * 9)
    assert (ghost.macs_before, ghost.macs_after) == (64 * 16 * 8 * 9, 64 * (8 * 8 * 9 + 8 * 9))
    assert report.params_before - report.params_after == ghost.params_before - ghost.params_after
    assert ghost.reconstruction_error is None
    assert report.input_size == (3, 12, 12)


def test_table_names_layers_reasons_and_totals():
    _, _, report = convert(example_input=torch.rand(1, 3, 12, 12))
    text = str(report)
    assert "the first convolution" in text
    assert "1 of 2 convolutions converted (ratio 2, cheap_kernel_size 3, init random, form linear)" in text
    assert f"MACs x {report.macs_after / report.macs_before:.3f}" in text


def test_a_fit_without_images_is_said_to_cost_accuracy():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)).eval()
    said = "fitted without images, which can cost most of the accuracy: give `calibration`, or fine-tune"
    _, without = ghostify(model, init="dense")
    assert said in str(without)
    _, fitted = ghostify(model, init="dense", calibration=torch.rand(2, 3, 12, 12))
    _, drawn = ghostify(model, init="random")
    assert said not in str(fitted) + str(drawn)


def test_to_dict_is_json():
    _, _, report = convert()
    again = json.loads(json.dumps(report.to_dict()))
    assert again["layers"][1]["action"] == "ghost"
    assert again["settings"]["ratio"] == 2


def test_macs_are_unknown_where_no_size_fits():
    model = nn.Sequential(nn.Conv2d(5, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(9, 2))  # for maps 9 wide
    _, report = ghostify(model, init="random")
    assert report.macs_before is None
    assert report.macs_ratio is None
    assert all(layer.macs_after is None for layer in report.layers)
    assert "MACs unknown" in str(report)


def test_grey_images_are_counted_without_an_example() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3))
    _, report = ghostify(model)
    assert report.input_size == (1, 224, 224)
    assert report.macs_after < report.macs_before


def test_broken_weights_are_not_converted() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    model[1].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"1\.weight holds NaN or infinity"):
        ghostify(model)
