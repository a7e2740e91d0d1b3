"""`find_units`: order, followers and the reasons to leave a convolution alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ghostnet.convert.graph import ConvUnit, find_units
from ghostnet.nn import GhostConv2d


class Block(nn.Module):
    """Modules registered in another order than they run; one activation used twice."""

    def __init__(self, *, branch: bool) -> None:
        super().__init__()
        self.branch = branch
        self.second = nn.Conv2d(8, 8, 1)
        self.first = nn.Conv2d(3, 8, 3)
        self.relu = nn.ReLU()
        self.norm1, self.norm2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        if self.branch and x.sum() > 1e9:  # what fx cannot follow
            return x
        y = self.relu(self.norm1(self.first(x)))
        return self.relu(self.norm2(self.second(y)) + y)


def by_name(model: nn.Module, example: Tensor | None = None) -> dict[str, ConvUnit]:
    return {unit.name: unit for unit in find_units(model, example)}


@pytest.mark.parametrize("branch", [False, True], ids=["traced", "hooked"])
def test_units_come_in_execution_order_with_their_followers(branch):
    units = find_units(Block(branch=branch), torch.rand(2, 3, 8, 8))
    assert [unit.name for unit in units] == ["first", "second"]
    assert [unit.first for unit in units] == [True, False]
    assert [unit.norm for unit in units] == ["norm1", "norm2"]
    assert [unit.pointwise for unit in units] == [False, True]
    assert not any(unit.activation_dedicated for unit in units)
    assert units[1].activation is None  # the addition reads the norm, not the ReLU


def test_traced_activation_of_first_unit_is_found():
    assert by_name(Block(branch=False))["first"].activation == "relu"


def test_without_trace_or_example_the_order_of_other_modules_says_nothing():
    class Crossed(nn.Module):
        """Registers the second convolution in front of the first one's norm."""

        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
            self.norm1, self.norm2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 1e9:
                return x
            return self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))

    assert {unit.norm for unit in find_units(Crossed())} == {None}
    assert [unit.norm for unit in find_units(Crossed(), torch.rand(1, 3, 8, 8))] == ["norm1", "norm2"]


def test_without_trace_or_example_module_order_answers():
    model = nn.Sequential(Block(branch=True), nn.Sequential(nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    units = by_name(model)
    assert units["1.0"].norm == "1.1"
    assert units["1.0"].activation == "1.2"
    assert not units["1.0"].activation_dedicated
    assert units["0.second"].norm is None


READERS = {
    "norm alone": lambda y, norm, _add: norm(y),
    "shape": lambda y, norm, _add: norm(y)[:, : y.shape[1]],
    "addition": lambda y, norm, _add: norm(y) + y,
    "in place": lambda y, norm, _add: norm(y.add_(1)),
    "layer with two inputs": lambda y, norm, add: add(norm(y), y),
    "layer with a list": lambda y, norm, add: add([norm(y), y], 0),
    "answer": lambda y, norm, _add: (norm(y), {"maps": [y]}),
}


@pytest.mark.parametrize("branch", [False, True], ids=["traced", "hooked"])
@pytest.mark.parametrize("kind", READERS)
def test_norm_that_is_not_the_only_reader_does_not_count(kind, branch):
    class Add(nn.Module):
        def forward(self, x: Tensor | list[Tensor], y: Tensor | int) -> Tensor:
            return sum(x) if isinstance(x, list) else x + y

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.add = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), Add()

        def forward(self, x: Tensor) -> Tensor:
            if branch and x.sum() > 1e9:
                return x
            return READERS[kind](self.conv(x), self.norm, self.add)

    alone = kind == "norm alone" or (branch and kind == "shape")
    assert by_name(Shared(), torch.rand(1, 3, 4, 4))["conv"].norm == ("norm" if alone else None)


def test_dedicated_and_functional_activations():
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU6())
            self.two = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.two(self.one(x)))

    units = by_name(Functional())
    assert units["one.0"].activation == "one.2"
    assert units["one.0"].activation_dedicated
    assert units["two"].activation == "relu"
    assert not units["two"].activation_dedicated


class Odd(nn.Module):
    """One convolution of every kind that must be left alone."""

    def __init__(self) -> None:
        super().__init__()

        class Own(nn.Conv2d):
            pass

        self.plain = nn.Conv2d(4, 4, 1)
        self.twice, self.never = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.tied1, self.tied2 = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.tied2.weight = self.tied1.weight
        self.parametrized = parametrizations.weight_norm(nn.Conv2d(4, 4, 1))
        self.own, self.up = Own(4, 4, 1), nn.ConvTranspose2d(4, 4, 1)
        self.ghost = GhostConv2d(4, 4, 1)
        self.path1 = nn.Conv2d(4, 4, 1)
        self.path2 = self.path1
        self.read = nn.Conv2d(4, 4, 1)
        self.hooked = nn.Conv2d(4, 4, 1)
        self.hooked.register_forward_hook(lambda *_: None)
        self.kernel = nn.Parameter(torch.rand(4, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.plain(x)))
        x = self.up(self.own(self.parametrized(self.tied2(self.tied1(x)))))
        x = self.hooked(self.read(self.path1(self.ghost(x)))) * self.read.weight.sum()
        return F.conv2d(x, self.kernel)


def test_every_reason_to_leave_a_convolution_alone():
    units = by_name(Odd())
    expected = {
        "twice": "calls it 2 times",
        "never": "never runs",
        "tied1": "shared with another",
        "tied2": "shared with another",
        "parametrized": "parametrized",
        "own": "a Own, not a plain",
        "up": "transposed",
        "ghost": "Ghost convolution already",
        "path1": "two paths",
        "read": "read as an attribute",
        "hooked": "has hooks",
        "conv2d()": "functional",
    }
    assert units["plain"].reason is None
    assert set(units) == {"plain", *expected}
    for name, text in expected.items():
        assert text in str(units[name].reason), name


def test_weights_that_are_read_where_fx_does_not_trace():
    class Reads(nn.Module):
        def __init__(self, what: str) -> None:
            super().__init__()
            self.what = what
            self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 1e9 or next(self.parameters()).dtype is torch.half:
                return x
            x = self.one(x)
            if self.what == "type":
                x = x.to(self.two.weight.dtype)
            elif self.what == "bias" and self.two.bias is not None:
                x = x + self.two.bias[:, None, None]
            return self.two(x)

    example = torch.rand(1, 3, 4, 4)
    assert [unit.reason for unit in find_units(Reads("nothing"), example)] == [None, None]
    for what in ("type", "bias"):
        one, two = find_units(Reads(what), example)
        assert one.reason is None
        assert two.reason == "its weight is read as an attribute elsewhere"


def test_old_style_weight_norm_is_left_alone():
    with pytest.warns(FutureWarning):
        convolution = nn.utils.weight_norm(nn.Conv2d(3, 4, 1))
    units = find_units(nn.Sequential(nn.Conv2d(3, 3, 1), convolution))
    assert "computed by a hook" in str(units[1].reason)


def test_quantised_convolution_is_left_alone():
    quantised = torch.ao.nn.qat.Conv2d(3, 4, 1, qconfig=torch.ao.quantization.default_qat_qconfig)
    reason = str(find_units(nn.Sequential(nn.Conv2d(3, 3, 1), quantised))[1].reason)
    assert "quantised" in reason or "a Conv2d, not a plain" in reason


def test_a_bare_convolution_is_told_to_be_wrapped():
    assert "nn.Sequential" in str(find_units(nn.Conv2d(3, 4, 1))[0].reason)


def test_finding_changes_nothing():
    class Counting(nn.Sequential):
        runs = 0

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            return super().forward(x)

    model = Counting(nn.Conv2d(3, 4, 1)).eval()
    find_units(model)
    assert model.runs == 0
    assert not model.training
