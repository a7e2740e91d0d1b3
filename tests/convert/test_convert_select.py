"""`Layers` and the forms of `layers`; every message for bad input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ghostnet.convert import Layers, ghostify
from ghostnet.convert.graph import find_units
from ghostnet.convert.select import select_layers
from ghostnet.errors import InputError


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 32, 1), nn.Conv2d(32, 32, 3)
    )


def chosen(layers=None, ratio=2, cheap_kernel_size=3, model=None) -> list[str]:
    model = model or network()
    kept = select_layers(model, find_units(model), layers, ratio=ratio, cheap_kernel_size=cheap_kernel_size)
    return [name for name, reason in kept.items() if reason is None]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (None, ["2", "3"]),
        ("all", ["0", "2", "3"]),  # ghosting the 3x3 depthwise one would save nothing
        (["0", "[23]"], ["0", "2", "3"]),
        ("3", ["3"]),
        (lambda _, convolution: convolution.out_channels == 32, ["2", "3"]),
        (Layers(first=True, pointwise=False), ["0", "3"]),
        (Layers(exclude=["2"]), ["3"]),
    ],
)
def test_every_form_of_layers(layers, expected):
    assert chosen(layers) == expected


def test_depthwise_is_converted_only_where_it_saves():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 7, groups=8))
    kept = select_layers(model, find_units(model), "all", ratio=2, cheap_kernel_size=3)
    assert kept["1"] is None
    kept = select_layers(network(), find_units(network()), "all", ratio=2, cheap_kernel_size=3)
    assert "would not save" in str(kept["1"])


def test_layers_with_too_few_channels_are_kept_with_the_reason():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 2, 3), nn.Conv2d(2, 16, 3))
    kept = select_layers(model, find_units(model), None, ratio=4, cheap_kernel_size=1)
    assert "cannot be divided by ratio 4" in str(kept["1"])
    assert kept["2"] is None


def test_ratio_above_every_selected_layer_is_an_error():
    with pytest.raises(InputError, match=r"ratio` \(=33\) is larger than the channels .* at most 32"):
        chosen(ratio=33)


def test_unknown_layer_names_the_near_one():
    model = nn.Sequential()
    model.add_module("layer1", nn.Conv2d(3, 8, 3))
    with pytest.raises(InputError, match=r"unknown layer 'layer2'; did you mean 'layer1'"):
        chosen(["layer2"], model=model)
    with pytest.raises(InputError, match="unknown layer"):
        chosen(Layers(exclude=["nothing.*"]))
    with pytest.raises(InputError, match=r"`layers` .* must be None, 'all', names"):
        chosen(7)


@pytest.mark.parametrize("ratio", [0, -1, 2.5, True, "2", None])
def test_bad_ratio(ratio):
    with pytest.raises(InputError, match=r"`ratio` .* must be an integer >= 1"):
        ghostify(network(), ratio=ratio)


@pytest.mark.parametrize("size", [0, 2, 2.5, True, -3])
def test_bad_cheap_kernel_size(size):
    with pytest.raises(InputError, match=r"`cheap_kernel_size` .* must be an odd integer"):
        ghostify(network(), cheap_kernel_size=size)


def test_bad_arguments_of_ghostify():
    with pytest.raises(InputError, match=r"unknown init 'dens'; did you mean 'dense'"):
        ghostify(network(), init="dens")
    with pytest.raises(InputError, match=r"`form` .* must be 'linear' or 'ghostnet'"):
        ghostify(network(), form="other")
    with pytest.raises(InputError, match="'dense' needs form 'linear'"):
        ghostify(network(), form="ghostnet")
    with pytest.raises(InputError, match=r"needs a torch\.nn\.Module, not str"):
        ghostify("resnet18")
    with pytest.raises(InputError, match="found no convolution in this Linear"):
        ghostify(nn.Linear(3, 4))
    with pytest.raises(InputError, match="`example_input` must be a tensor"):
        ghostify(network(), example_input=torch.rand(3, 8, 8))


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (
            torch.full((2, 3, 12, 12), float("nan")),
            "`calibration` has NaN or infinite values in 2 of 2 images",
        ),
        (
            [torch.rand(2, 3, 12, 12), torch.full((1, 3, 12, 12), float("inf"))],
            "NaN or infinite values in 1 of 1",
        ),
        (torch.rand(2, 1, 12, 12), r"`calibration` has 1 channels, but the first convolution \(0\) takes 3"),
        (
            "photos/",
            r"\(='photos/'\) must be images, not where they are: .*ghostnet convert --calibration FOLDER",
        ),
        (torch.rand(3, 12, 12), r"must be images of shape \(N, C, H, W\)"),
        (torch.zeros(2, 3, 12, 12, dtype=torch.uint8), "must be floating point"),
        (torch.rand(0, 3, 12, 12), "holds no image"),
        ([], "holds no image"),
        (3, r"`calibration` \(a int\) must be a tensor"),
        (torch.rand(2, 3, 2, 2), "the model does not run on `calibration`"),
    ],
)
def test_bad_calibration(calibration, message):
    with pytest.raises(InputError, match=message):
        ghostify(network(), init="random", calibration=calibration)


def test_calibration_may_be_numpy_arrays() -> None:
    import numpy as np

    torch.manual_seed(0)
    dense = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3)).eval()
    images = torch.randn(4, 3, 10, 10)
    expected, _ = ghostify(dense, calibration=images)
    for given in (images.numpy(), [images.numpy()[:2], images.numpy()[2:]]):
        found, _ = ghostify(dense, calibration=given)
        torch.testing.assert_close(found(images), expected(images))
    with pytest.raises(InputError, match=r"must be images of shape \(N, C, H, W\)"):
        ghostify(dense, calibration=np.zeros((3, 10, 10), np.float32))


def test_layers_that_the_ratios_leave_out_are_told_so() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3))
    units = find_units(model, None)
    reasons = select_layers(model, units, None, ratio={"1": 2}, cheap_kernel_size=3)
    assert reasons == {"0": "no ratio is given for it", "1": None, "2": "no ratio is given for it"}
    reasons = select_layers(model, units, ["2"], ratio={"1": 2, "2": 2}, cheap_kernel_size=3)
    assert reasons["0"] == "not among the selected layers"


class _Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 1))
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 16, 1), nn.ReLU(), nn.Conv2d(16, 32, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.body(x)
        return maps * self.gate(maps).sigmoid()


def test_gates_are_kept_unless_they_are_asked_for() -> None:
    model, image = _Gated(), torch.zeros(1, 3, 8, 8)
    kept = {"body.0": "the first convolution", "gate.1": "of one pixel", "gate.3": "of one pixel"}
    report = ghostify(model, init="random", example_input=image)[1]
    assert report.converted == ["body.2"]
    assert all(kept[layer.name] in str(layer.reason) for layer in report.layers if layer.name in kept)
    assert "gate.3" in ghostify(model, init="random", layers=["gate.*"], example_input=image)[1].converted
    assert "gate.1" in ghostify(model, init="random", layers="all", example_input=image)[1].converted
    assert "gate.1" in ghostify(model, init="random")[1].converted, "nobody knows the sizes of maps"
    assert ghostify(model, init="random", example_input=image[..., :3, :3])[1].converted == []


class Scores(nn.Module):
    """A body with norms, and two heads that score each pixel; `how` is what becomes of the scores."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.deeper = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.scores, self.boxes, self.more = nn.Conv2d(16, 12, 1), nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 1)

    def forward(self, images: torch.Tensor) -> object:
        maps = self.deeper(self.body(images))
        scores, boxes = self.scores(maps), self.boxes(maps)
        if self.how == "resized":
            larger = nn.functional.interpolate(scores, scale_factor=2, mode="bilinear")
            return {"out": larger.softmax(1), "aux": boxes.permute(0, 2, 3, 1).flatten(1, 2)}
        if self.how == "read again":
            return boxes, self.more(torch.cat((scores, scores[:, :4]), 1))
        return maps + scores.mean(1, keepdim=True), boxes


@pytest.mark.parametrize(
    ("how", "expected"),
    [("resized", {"scores", "boxes"}), ("read again", {"boxes", "more"}), ("added", {"boxes"})],
)
def test_what_makes_the_answer_is_known_and_can_be_kept(how, expected):
    model = Scores(how).eval()
    units = find_units(model)
    assert {unit.name for unit in units if unit.last} == expected
    kept = select_layers(model, units, Layers(last=False), ratio=2, cheap_kernel_size=1)
    assert {name for name, reason in kept.items() if reason and "answers" in reason} == expected
    _, report = ghostify(model, layers=["boxes"], init="random", cheap_kernel_size=1)
    assert "Layers(last=False) keeps it" in str(report)


def test_a_classifiers_linear_layer_makes_the_answer_and_no_convolution_does():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    assert not any(unit.last for unit in find_units(model))
