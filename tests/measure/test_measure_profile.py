"""Counts of `profile` against hand formulas and published numbers; what it must leave alone and report."""

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ghostnet.errors import InputError
from ghostnet.measure import profile


class Functional(nn.Module):
    """A convolution that is a functional call inside a named child."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.conv2d(images, self.weight)


class Warp(nn.Module):
    """grid_sample multiplies in a way the counter does not know; its output is no tensor."""

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        grid = torch.zeros(len(images), 2, 2, 2)
        return {"out": F.grid_sample(images, grid, align_corners=False)}


CASES = [
    (nn.Conv2d(3, 8, 3, padding=1), (3, 4, 4), 16 * 8 * 27),
    (nn.Conv2d(6, 9, (3, 1), stride=2, dilation=2, groups=3), (6, 9, 9), 3 * 5 * 9 * 2 * 3),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 5), 25 * 4 * 3 * 9),
    (nn.Conv1d(2, 3, 5), (2, 9), 5 * 3 * 2 * 5),
    (nn.Linear(7, 5), (7,), 35),
    (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), nn.Upsample(scale_factor=2)), (3, 4, 4), 0),
    (nn.Sequential(Functional()), (3, 6, 6), 16 * 4 * 27),
]


@pytest.mark.parametrize(("model", "input_size", "macs"), CASES)
def test_macs_follow_the_definition(model: nn.Module, input_size: tuple[int, ...], macs: int) -> None:
    found = profile(model, input_size)
    assert found.macs == macs == sum(layer.macs for layer in found.layers)
    assert found.params == sum(parameter.numel() for parameter in model.parameters())
    assert found.uncounted == []


def test_attention_counts_projections_and_both_products() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    found = profile(layer, (5, 8))
    assert found.macs == 5 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 5 * 5 * 8
    assert found.uncounted == []


def test_resnet18_has_its_published_counts() -> None:
    models = pytest.importorskip("torchvision.models")
    found = profile(models.resnet18())
    assert (found.params, found.macs, found.uncounted) == (11_689_512, 1_814_073_344, [])


def test_a_functional_call_belongs_to_the_innermost_module() -> None:
    (layer,) = profile(nn.Sequential(nn.ReLU(), Functional()), (3, 6, 6)).layers
    assert (layer.name, layer.kind, layer.output_shape) == ("1", "Functional", (1, 4, 4, 4))


def test_shared_parameters_count_once_and_calls_twice() -> None:
    shared, tied = nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False)
    tied.weight = shared.weight
    found = profile(nn.Sequential(shared, shared, tied), (2, 3, 3))
    assert found.params == 4
    assert found.macs == 3 * 36


def test_what_cannot_be_counted_is_reported() -> None:
    found = profile(nn.Sequential(nn.Conv2d(2, 2, 1), Warp()), (2, 3, 3))
    assert found.macs == 36
    assert found.uncounted == ["aten::grid_sampler_2d in 1 (1x)"]
    assert "not counted: aten::grid_sampler_2d in 1 (1x)" in str(found)


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("kind", [nn.Hardswish, nn.Mish, nn.SiLU, nn.ReLU6, nn.Hardsigmoid])
def test_activations_are_known_to_be_free(kind: type[nn.Module], inplace: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), kind(inplace=inplace))
    result = profile(model, (3, 5, 5))
    assert (result.macs, result.uncounted) == (300, [])


def test_the_model_and_the_random_state_stay_as_they_were() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Sequential(nn.ReLU()))
    model[3].eval()
    state, flags = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    profile(model, (3, 8, 8))
    assert torch.equal(random_state, torch.get_rng_state())
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_half_precision_models_are_counted_in_their_own_dtype() -> None:
    assert profile(nn.Conv2d(3, 2, 1).to(torch.bfloat16), (3, 2, 2)).macs == 24


def test_table_and_dictionary() -> None:
    found = profile(nn.Sequential(nn.Conv2d(3, 8, 3)), (3, 4, 4))
    header, row, total = str(found).splitlines()
    assert header.split() == ["layer", "kind", "params", "MACs", "output"]
    assert row.split() == ["0", "Conv2d", "224", "864", "1x8x2x2"]
    assert total.split() == ["total", "224", "864"]
    assert json.loads(json.dumps(found.to_dict()))["layers"][0]["macs"] == 864


@pytest.mark.parametrize(
    "size", [(), 224, "abc", (3, 0, 4), (3, -1), (3, 2.0), (3, math.nan), (True, 4), None]
)
def test_a_bad_input_size_is_refused(size: object) -> None:
    with pytest.raises(InputError, match=r"input_size .* must be a tuple of integers >= 1"):
        profile(nn.ReLU(), size)  # type: ignore[arg-type]


def test_a_size_that_the_model_cannot_take_is_one_line_and_leaves_no_hook() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3)).train()
    with pytest.raises(InputError, match=r"does not run with input_size \(4, 8, 8\)") as caught:
        profile(model, (4, 8, 8))
    assert "\n" not in str(caught.value)
    assert model[0].training
    assert not model[0]._forward_hooks


def test_what_is_no_module_or_not_initialised_is_refused() -> None:
    with pytest.raises(InputError, match=r"needs a torch\.nn\.Module, not str"):
        profile("resnet18")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="lazy parameters"):
        profile(nn.LazyConv2d(3, 1))


def test_counts_are_the_same_inside_inference_mode():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5))
    outside = profile(model, (3, 8, 8))
    with torch.inference_mode():
        inside = profile(model, (3, 8, 8))
    assert (inside.macs, inside.uncounted) == (outside.macs, []) == (9216, [])


def test_counts_are_the_same_where_the_code_itself_turns_inference_mode_on() -> None:
    class Decorated(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.inference_mode():
                return super().forward(x)

    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2), nn.Flatten(), nn.Linear(196, 5)]
    expected, found = profile(nn.Sequential(*layers), (3, 8, 8)), profile(Decorated(*layers), (3, 8, 8))
    assert found.layers == expected.layers
    assert found.uncounted == []
