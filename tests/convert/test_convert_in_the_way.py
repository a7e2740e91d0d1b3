"""Networks whose code asks a convolution for more than its output, and so does not run with another layer there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ghostnet
from ghostnet.convert import Layers, sensitivity
from ghostnet.errors import InputError

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Asking(nn.Module):
    """Reads `type` or `setting` of its second convolution before it runs that."""

    def __init__(self, what: str, *, branch: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.what, self.branch = what, branch
        self.one, self.two, self.three = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.branch and x.sum() > 1e9:  # what fx cannot follow
            return x
        x = self.one(x)
        if self.what == "type":
            x = x.to(self.two.weight.dtype)
        elif self.two.transposed:
            x = -x
        return self.three(self.two(x).relu())


@pytest.mark.parametrize("branch", [False, True])
@pytest.mark.parametrize("images", [{"calibration": IMAGES}, {"example_input": IMAGES}])
def test_a_layer_whose_weight_is_asked_for_stays(branch, images):
    ghost, report = ghostnet.ghostify(Asking("type", branch=branch), **images)
    assert report.converted == ["three"]
    assert ghost(IMAGES).shape == (4, 8, 2, 2)


@pytest.mark.parametrize("branch", [False, True])
@pytest.mark.parametrize("images", [{"calibration": IMAGES}, {"example_input": IMAGES}])
def test_a_layer_that_nothing_else_can_stand_for_is_named(branch, images):
    model = Asking("setting", branch=branch)
    with pytest.raises(InputError, match=r"a Ghost convolution for two, perhaps .*exclude=\['two'\]"):
        ghostnet.ghostify(model, **images)
    assert ghostnet.ghostify(model, layers=Layers(exclude=["two"]), example_input=IMAGES)[1].converted == [
        "three"
    ]


def test_without_an_example_a_guess_at_one_shows_that_the_network_does_not_run():
    with pytest.raises(
        InputError, match=r"with these layers replaced .*no attribute 'weight'.*example_input"
    ):
        ghostnet.ghostify(Asking("type", branch=True), init="random")


def test_sensitivity_names_it_too():
    with pytest.raises(InputError, match=r"a Ghost convolution for two \(.*no attribute 'transposed'"):
        sensitivity(Asking("setting", branch=False), IMAGES, ratios=(2,))
