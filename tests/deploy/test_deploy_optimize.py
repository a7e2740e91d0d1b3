"""Every rewrite is exact: folded against original on random input with random batch-norm statistics."""

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from ghostnet.deploy import optimize
from ghostnet.errors import InputError
from ghostnet.models import create_model
from ghostnet.nn import GhostConv2d, ReparamConv2d
from ghostnet.nn.ghost_module import GhostModule


def randomise_(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            size = module.num_features
            module.running_mean.copy_(torch.randn(size, generator=generator))
            module.running_var.copy_(torch.rand(size, generator=generator) + 0.3)
            if module.affine:
                module.weight.data = torch.randn(size, generator=generator)
                module.bias.data = torch.randn(size, generator=generator)
    return model


def error_of(model: nn.Module, other: nn.Module) -> float:
    images = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()(images)
        return ((expected - other(images)).abs().max() / expected.abs().max()).item()


def norms_in(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def ghost(*, order: bool = False, **arguments: object) -> GhostConv2d:
    layer = GhostConv2d(3, 10, 3, padding=1, **arguments)  # type: ignore[arg-type]
    if order:
        layer.set_channel_order_(torch.randperm(10))
    return layer


class Residual(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.norm, self.drop = layer, nn.BatchNorm2d(10), nn.Dropout(0.5)
        self.mix, self.mix_norm = (
            nn.Conv2d(10, 10, 3, padding=1, bias=False),
            nn.BatchNorm2d(10, affine=False),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = F.relu(self.norm(self.layer(images)))
        return maps + self.mix_norm(self.mix(self.drop(maps)))


class Untraceable(Residual):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        self.stem = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.sum() > 1e9:
            return images
        return super().forward(self.stem(images))


LAYERS = [
    *(
        {"order": order, "ratio": ratio, "bias": bias}
        for order in (False, True)
        for ratio in (2, 3)
        for bias in (False, True)
    ),
    {"ratio": 1},
    {"ratio": 1, "order": True},
    {"cheap_kernel_size": 1},
    {"cheap_operation": "wavelet"},
    {"cheap_operation": "affine"},
]


@pytest.mark.parametrize("arguments", LAYERS)
def test_a_norm_behind_a_linear_ghost_convolution_folds_exactly(arguments: dict[str, object]) -> None:
    model = randomise_(Residual(ghost(**arguments)))
    result = optimize(model, input_size=(3, 12, 12))
    assert error_of(model, result) < 1e-5
    assert norms_in(result) == 0
    assert not any(isinstance(module, (nn.Dropout, GhostConv2d)) for module in result.modules())


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("how", [{"stride": 2, "output_padding": 1}, {"padding": 1, "dilation": 2}])
def test_a_norm_behind_a_transposed_convolution_folds_exactly(
    groups: int, bias: bool, how: dict[str, int]
) -> None:
    up = nn.ConvTranspose2d(4, 8, 3, groups=groups, bias=bias, **how)
    model = randomise_(nn.Sequential(nn.Conv2d(3, 4, 1), up, nn.BatchNorm2d(8), nn.ReLU()))
    result = optimize(model, input_size=(3, 12, 12))
    assert error_of(model, result) < 1e-5
    assert norms_in(result) == 0


@pytest.mark.parametrize(("kind", "size"), [(1, (4, 9)), (3, (4, 5, 5, 5))])
def test_norms_behind_transposed_convolutions_of_other_dimensions_fold_too(
    kind: int, size: tuple[int, ...]
) -> None:
    up = getattr(nn, f"ConvTranspose{kind}d")(4, 6, 3, groups=2, stride=2)
    model = nn.Sequential(up, getattr(nn, f"BatchNorm{kind}d")(6)).eval()
    nn.init.uniform_(model[1].running_var, 0.5, 2)
    nn.init.normal_(model[1].weight)
    result = optimize(model, input_size=size)
    images = torch.randn(2, *size)
    torch.testing.assert_close(result(images), model(images), atol=1e-5, rtol=1e-5)
    assert not any("BatchNorm" in type(module).__name__ for module in result.modules())


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("ratio", [2, 3])
def test_the_norm_form_folds_exactly(order: bool, ratio: int) -> None:
    layer = ghost(order=order, ratio=ratio, norm="batch", activation="relu")
    model = randomise_(nn.Sequential(layer, nn.ReLU(), nn.Conv2d(10, 4, 1), nn.BatchNorm2d(4)))
    result = optimize(model, input_size=(3, 12, 12))
    assert error_of(model, result) < 1e-5
    assert norms_in(result) == 0


def test_a_ghost_module_folds_exactly() -> None:
    model = randomise_(nn.Sequential(GhostModule(3, 10), GhostModule(10, 6)))
    result = optimize(model, input_size=(3, 12, 12))
    assert error_of(model, result) < 1e-5
    assert norms_in(model) == 4
    assert norms_in(result) == 0


def test_a_norm_behind_the_norm_form_becomes_a_depthwise_convolution_of_each_part() -> None:
    model = randomise_(nn.Sequential(ghost(norm="batch", activation="relu"), nn.BatchNorm2d(10)))
    result = optimize(model, target="openvino")
    affine = [module for module in result.modules() if getattr(module, "kernel_size", 0) == (1, 1)]
    assert (norms_in(result), len(affine), error_of(model, result) < 1e-5) == (0, 2, True)


def test_the_activation_moves_before_the_concatenation() -> None:
    model = randomise_(nn.Sequential(ghost(), nn.BatchNorm2d(10), nn.ReLU(inplace=True)))
    result = optimize(model, passes=["fold_batch_norm", "join_late"])
    assert isinstance(result, fx.GraphModule)
    called = [node.target for node in result.graph.nodes]
    assert called.index(torch.cat) == len(called) - 2  # only the output follows
    assert not any(getattr(module, "inplace", False) for module in result.modules())
    assert error_of(model, result) < 1e-5


def test_what_does_not_trace_folds_inside_sequential() -> None:
    model = randomise_(Untraceable(ghost()))
    result = optimize(model, input_size=(3, 12, 12))
    assert norms_in(model) - norms_in(result) == 1
    assert error_of(model, result) < 1e-5


def test_a_convolution_that_is_called_twice_or_read_twice_is_left_alone() -> None:
    shared = nn.Conv2d(3, 3, 1)
    model = randomise_(nn.Sequential(shared, nn.BatchNorm2d(3), shared, nn.BatchNorm2d(3)))
    result = optimize(model, input_size=(3, 12, 12))
    assert norms_in(result) == 2
    assert error_of(model, result) < 1e-5


def test_norms_without_statistics_stay_and_weight_norm_is_computed() -> None:
    parts = OrderedDict(
        free=nn.Conv2d(3, 4, 1),
        batch=nn.BatchNorm2d(4, track_running_stats=False),
        bound=nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
        norm=nn.BatchNorm2d(4),
    )
    model = nn.Sequential(parts)
    result = optimize(model, input_size=(3, 12, 12))
    assert norms_in(result) == 1  # weight norm's convolution has one weight in evaluation mode


def test_the_original_is_untouched() -> None:
    model = randomise_(Residual(ghost())).train()
    state = copy.deepcopy(model.state_dict())
    result = optimize(model, input_size=(3, 12, 12))
    assert model.training
    assert not result.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(InputError, match=r"optimize needs a torch\.nn\.Module, not str"):
        optimize("model")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["ghostnet_050", "ghostnetv2_100", "ghostnetv3_050", "repghostnet_050"])
def test_the_zoos_ghostnets_lose_their_norms_and_branches(name):
    model = create_model(name, num_classes=5)
    model.train()(torch.randn(8, 3, 64, 64))  # statistics of some images, so that 40 layers do not blow up
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.clamp_(min=0.3)
    optimized = optimize(model, input_size=(3, 64, 64))
    assert norms_in(optimized) == 0
    assert not any(isinstance(module, ReparamConv2d) for module in optimized.modules())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(optimized(images), model.eval()(images), rtol=1e-4, atol=1e-5)
    if name == "ghostnetv3_050":
        assert 2.8e6 < sum(p.numel() for p in optimized.parameters()) - 5 * 1281 + 1000 * 1281 < 2.86e6


class ByKeyword(nn.Module):
    """Every layer and function of it is given its input by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.cheap = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1, groups=5)
        self.norm, self.last = nn.BatchNorm2d(10), nn.Conv2d(10, 4, 1)
        self.activation, self.pool, self.classifier = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.activation(input=self.first(input=images))
        joined = torch.cat([maps, self.activation(input=self.cheap(input=maps))], 1)
        maps = torch.clamp(input=self.norm(input=joined), max=6)
        pooled = torch.flatten(input=self.last(input=self.pool(input=maps)), start_dim=1)
        return F.linear(input=pooled, weight=self.classifier.weight, bias=self.classifier.bias)


@pytest.mark.parametrize("target", [None, "onnx", "openvino", "ncnn"])
def test_inputs_given_by_name_are_followed_like_those_given_by_place(target):
    model = randomise_(ByKeyword())
    optimised = optimize(model, target=target)
    assert isinstance(optimised, fx.GraphModule)
    assert norms_in(optimised) == 0
    assert error_of(model, optimised) < 1e-5


class FlattensTheBatch(nn.Module):
    """`flatten(end_dim=1)` merges images and channels; it is not what makes vectors of maps."""

    def __init__(self, *, function: bool) -> None:
        super().__init__()
        self.pool, self.last, self.function = nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), function

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.last(self.pool(images))
        return torch.flatten(maps, end_dim=1) if self.function else maps.flatten(end_dim=1)


@pytest.mark.parametrize("function", [True, False])
def test_a_flattening_of_other_axes_is_left_as_it_is(function):
    model = FlattensTheBatch(function=function).eval()
    images = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        assert optimize(model)(images).shape == model(images).shape == (8, 1, 1)


class ClampsByChannel(nn.Module):
    """Each channel of a concatenation has bounds of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 7, 1), nn.Conv2d(12, 4, 1)
        self.least = nn.Parameter(torch.randn(1, 12, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(torch.clamp(torch.cat([self.one(images), self.two(images)], 1), self.least))


@pytest.mark.parametrize("target", [None, "onnx"])
def test_bounds_of_each_channel_need_the_concatenation_whole(target):
    model = ClampsByChannel()
    assert error_of(model, optimize(model, target=target)) < 1e-5


class InPieces(nn.Module):
    """Calls the layers of an `nn.Sequential` one by one, in code that does not trace."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.whole = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.layers[0](images)
        if maps.sum() > 1e9:
            return maps
        return self.whole(self.layers[1](maps) + maps)


def test_what_other_code_calls_one_by_one_is_not_folded() -> None:
    model = randomise_(InPieces())
    result = optimize(model, input_size=(3, 6, 6))
    assert isinstance(result.layers[1], nn.BatchNorm2d)
    assert isinstance(result.whole[1], nn.Identity)
