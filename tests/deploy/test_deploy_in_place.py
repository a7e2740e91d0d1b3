"""In-place operations whose value nobody takes: what reads the tensor afterwards reads what they wrote."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ghostnet.deploy import optimize

WRITES: dict[str, Callable[[Tensor], object]] = {
    "relu_": lambda y: y.relu_(),
    "torch.relu_": lambda y: torch.relu_(y),
    "F.relu": lambda y: F.relu(y, inplace=True),
    "F.relu, by names": lambda y: F.relu(input=y, inplace=True),
    "F.silu": lambda y: F.silu(y, True),
    "F.leaky_relu": lambda y: F.leaky_relu(y, 0.1, True),
    "F.hardtanh": lambda y: F.hardtanh(y, -0.1, 0.2, True),
    "F.threshold": lambda y: F.threshold(y, 0.1, 0.3, True),
    "add_": lambda y: y.add_(1),
    "sub_": lambda y: y.sub_(1.0).div_(2.0),
    "clamp_": lambda y: y.clamp_(0, 1),
    "clamp_min_": lambda y: y.clamp_min_(0.2),
    "torch.clamp_": lambda y: torch.clamp_(y, 0, 1),
    "F.hardtanh_": lambda y: F.hardtanh_(y, 0.0, 1.0),
    "F.elu_": lambda y: F.elu_(y),
    "zero_": lambda y: y.zero_(),
    "out": lambda y: torch.mul(y, 2, out=y),
}
SHARED: dict[str, Callable[[Tensor], Tensor]] = {
    "a slice": lambda y: (y[:, :2].relu_(), y)[1],
    "a view": lambda y: (y.view(-1).mul_(3), y)[1],
    "under a view": lambda y: (v := y.flatten(1), y.relu_(), v)[2],
    "in a list": lambda y: (c := y.chunk(2, 1), c[0].relu_(), torch.cat(c, 1))[2],
}


class Writes(nn.Module):
    """A convolution, something done to its result, and what reads that result."""

    def __init__(self, write: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.conv, self.norm, self.write = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), write

    def forward(self, images: Tensor) -> Tensor:
        y = self.norm(self.conv(images))
        self.write(y)
        return y * 2 + images.mean()


def agree(model: nn.Module, result: nn.Module) -> bool:
    images = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return torch.allclose(model.eval()(images), result(images.clone()), atol=1e-5)


@pytest.mark.parametrize("name", WRITES)
def test_a_write_without_a_reader_of_its_own_is_kept(name: str) -> None:
    torch.manual_seed(0)
    model = Writes(WRITES[name])
    result = optimize(model)
    assert isinstance(result, fx.GraphModule)
    assert agree(model, result)


def test_a_module_in_place_without_a_reader_is_kept() -> None:
    torch.manual_seed(0)
    model = Writes(nn.ReLU(inplace=True))
    result = optimize(model)
    assert any(isinstance(module, nn.ReLU) and not module.inplace for module in result.modules())
    assert agree(model, result)


@pytest.mark.parametrize("name", SHARED)
def test_a_write_into_memory_that_is_read_under_another_name_is_not_followed(name: str) -> None:
    class Shares(Writes):
        def forward(self, images: Tensor) -> Tensor:
            return self.write(self.norm(self.conv(images)))  # type: ignore[return-value]

    torch.manual_seed(0)
    model = Shares(SHARED[name])
    result = optimize(model)
    assert not isinstance(result, fx.GraphModule)
    assert agree(model, result)


def test_chunks_do_not_overlap_so_that_one_may_be_overwritten() -> None:
    class Halves(Writes):
        def forward(self, images: Tensor) -> Tensor:
            one, other = self.norm(self.conv(images)).chunk(2, 1)
            one.relu_()
            return torch.cat([one, other], 1)

    torch.manual_seed(0)
    model = Halves(nn.Identity())
    result = optimize(model)
    assert isinstance(result, fx.GraphModule)
    assert agree(model, result)


def test_what_writes_into_its_input_is_compared_on_the_same_input() -> None:
    class Normalises(Writes):
        def forward(self, images: Tensor) -> Tensor:
            images.sub_(1.0)
            return self.norm(self.conv(images))

    optimize(Normalises(nn.Identity()), input_size=(3, 5, 5))


class Aliased(nn.Module):
    """A tensor under two names, of which one is written to."""

    def __init__(self, write: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.other, self.write = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), write

    def forward(self, images: Tensor) -> Tensor:
        maps = skip = self.conv(images)
        maps = self.write(maps, self.other(maps).exp())
        return maps * skip + images.mean()


@pytest.mark.parametrize(
    "write",
    [operator.iadd, operator.isub, operator.imul, operator.itruediv],
    ids=lambda write: write.__name__,
)
def test_operators_that_write_are_seen_under_other_names(write: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = Aliased(write)
    result = optimize(model)
    assert isinstance(result, fx.GraphModule)
    assert agree(model, result)


class Sizes(nn.Module):
    """Numbers, which `+=` does not write to."""

    def forward(self, images: Tensor) -> Tensor:
        height = kept = images.size(2)
        rows, columns = images.shape[2:]
        height += 1
        rows *= 2
        return images * height + kept + rows * columns


def test_sizes_are_no_memory() -> None:
    result = optimize(Sizes())
    assert isinstance(result, fx.GraphModule)
    assert agree(Sizes(), result)
