"""Layers whose weights the network's code reads as well, batch norms by function, and hooks of the network itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ghostnet.deploy import fake_quantized, optimize

SIZE = (3, 6, 6)


class Tied(nn.Module):
    """A convolution with a norm, whose weight another one takes by function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.norm.running_var.fill_(0.3)
        self.norm.running_mean.fill_(0.2)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images)) + F.conv2d(images, self.conv.weight)


def test_a_weight_that_the_code_reads_stays_as_it_was() -> None:
    torch.manual_seed(0)
    result = optimize(Tied(), passes=["fold_batch_norm"], input_size=SIZE)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in result.modules())


def test_two_norms_behind_such_a_convolution_fold() -> None:
    class Twice(Tied):
        def __init__(self) -> None:
            super().__init__()
            self.second = nn.BatchNorm2d(4)

        def forward(self, images: Tensor) -> Tensor:
            return self.second(self.norm(self.conv(images))) + F.conv2d(images, self.conv.weight)

    result = optimize(Twice(), passes=["fold_batch_norm"], input_size=SIZE)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in result.modules())


def test_int8_training_rounds_such_a_layer() -> None:
    class Flat(Tied):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).mean((2, 3))

    torch.manual_seed(0)
    images = np.random.default_rng(0).standard_normal((16, *SIZE), dtype=np.float32)
    made = fake_quantized(Flat(), images, input_size=SIZE)
    assert made.layers == 1
    with torch.no_grad():
        found, expected = made(torch.from_numpy(images)), made.reference(torch.from_numpy(images))
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("sized", [False, True])
def test_a_functional_norm_of_vectors_stays(sized: bool) -> None:
    class Vectors(Tied):
        def forward(self, images: Tensor) -> Tensor:
            pooled = self.conv(images).mean((2, 3))
            return F.batch_norm(pooled, self.norm.running_mean, self.norm.running_var)

    model = Vectors().eval()
    result = optimize(model, input_size=SIZE if sized else None)
    images = torch.randn(2, *SIZE)
    with torch.no_grad():
        assert torch.allclose(result(images), model(images), atol=1e-5)


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_of_the_network_itself_are_kept(kind: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    if kind == "register_forward_hook":
        model.register_forward_hook(lambda _module, _given, output: output + 1)
    else:
        model.register_forward_pre_hook(lambda _module, given: (given[0] + 1,))
    result = optimize(model, input_size=SIZE)
    assert not isinstance(result, fx.GraphModule)
    with torch.no_grad():
        assert torch.allclose(result(torch.ones(1, *SIZE)), model(torch.ones(1, *SIZE)), atol=1e-5)
