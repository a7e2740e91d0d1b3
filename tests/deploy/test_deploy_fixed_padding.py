"""Networks that pad by the size of their input are followed for one size."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import ghostnet
from ghostnet.deploy import optimize
from ghostnet.deploy.fixed_padding import with_fixed_padding
from ghostnet.deploy.optimize import traced


class Same(nn.Conv2d):
    """The convolution of TensorFlow's "SAME"."""

    factor = 1.0

    def forward(self, input: Tensor) -> Tensor:
        stride, kernel, dilation = self.stride[0], self.kernel_size[0], self.dilation[0]
        pad = [
            max((-(-int(side) // stride) - 1) * stride + (kernel - 1) * dilation + 1 - int(side), 0)
            for side in reversed(input.shape[-2:])
        ]
        return self.factor * super().forward(
            F.pad(input, [part for each in pad for part in (each // 2, -(-each // 2))])
        )


class AsItSays(nn.Conv2d):
    """Computes what its settings say, as transformers' depthwise convolutions do."""


@pytest.mark.parametrize(
    "how", [{}, {"padding": 2}, {"padding": "same", "stride": 1}, {"padding_mode": "reflect", "padding": 1}]
)
def test_a_class_of_its_own_that_adds_nothing_is_plain_at_any_size(how: dict[str, Any]) -> None:
    model = network()
    model[3] = AsItSays(8, 16, 3, **{"stride": 2, **how}).eval()
    fixed = with_fixed_padding(model, torch.randn(2, 3, 12, 12))
    assert type(fixed[3]) is nn.Conv2d
    for side in (12, 13, 19):
        images = torch.randn(2, 3, side, side)
        torch.testing.assert_close(fixed(images), model(images))


class Scaled(Same):
    """Is no plain convolution of its own weights."""

    factor = 2.0


def network(kind: type[nn.Conv2d] = Same, **how: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        *(kind(8, 16, 3, **{"stride": 2, **how}), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1)),
    ).eval()


@pytest.mark.parametrize("side", [12, 13])
@pytest.mark.parametrize("how", [{}, {"stride": 1, "dilation": 2}, {"groups": 4}, {"kernel_size": 5}])
def test_the_padding_of_one_size_becomes_a_number(side: int, how: dict[str, int]) -> None:
    how = dict(how)
    model = network()
    kernel = how.pop("kernel_size", 3)
    model[3] = Same(8, 16, kernel, **{"stride": 2, **how}).eval()
    example = torch.randn(2, 3, side, side)
    assert traced(model) is None
    fixed = with_fixed_padding(model, example)
    assert traced(fixed) is not None
    torch.testing.assert_close(fixed(example), model(example))
    assert type(model[3]) is Same


def test_optimize_folds_such_a_network() -> None:
    rewritten = optimize(network(), input_size=(3, 12, 12))
    assert isinstance(rewritten, fx.GraphModule)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in rewritten.modules())


def test_what_computes_something_else_stays() -> None:
    model = network(Scaled)
    assert type(with_fixed_padding(model, torch.randn(1, 3, 12, 12))[3]) is Scaled
    hooked = network()
    hooked[3].register_forward_hook(lambda *_: None)
    assert type(with_fixed_padding(hooked, torch.randn(1, 3, 12, 12))[3]) is Same


class Twice(nn.Module):
    """Has one convolution under two names, and asks for the values of its maps if it is to."""

    def __init__(self, conv: nn.Module, *, asks: bool = False) -> None:
        super().__init__()
        self.first = self.second = conv
        self.asks = asks

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images)) if not self.asks or images.sum() < 1e9 else images


def test_a_convolution_under_two_names_is_replaced_under_both() -> None:
    assert isinstance(optimize(Twice(Same(3, 3, 3)), input_size=(3, 12, 12)), fx.GraphModule)


def test_a_network_that_no_graph_follows_may_compute_its_weights() -> None:
    model = Twice(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3, padding=1)), asks=True).eval()
    images = torch.randn(1, 3, 12, 12)
    torch.testing.assert_close(optimize(model, input_size=(3, 12, 12))(images), model(images))


def test_timms_networks_from_tensorflow_are_rewritten_like_the_others() -> None:
    torch.manual_seed(0)
    dense = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=10).eval()
    ghost, _ = ghostnet.ghostify(dense, layers=["blocks.[56].*"], init="random")
    rewritten = optimize(ghost, target="onnx", input_size=(3, 64, 64))
    assert isinstance(rewritten, fx.GraphModule)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(rewritten(images), ghost(images), rtol=1e-4, atol=1e-5)
