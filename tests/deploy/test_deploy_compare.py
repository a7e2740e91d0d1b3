"""What `optimize` compares: every tensor of any output, in the precision that can tell a fault from rounding."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from ghostnet.deploy import compare, fake_quantized, optimize, randomise_statistics_
from ghostnet.deploy.compare import difference, outputs, same_in_double
from ghostnet.errors import InputError

SIZE = (3, 6, 6)
EXAMPLE = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(1))


class Outputs(nn.Module):
    """A convolution whose result is packed in some way."""

    def __init__(self, pack: Callable[[Tensor], Any], scale: float = 1.0) -> None:
        super().__init__()
        self.conv, self.pack, self.scale = nn.Conv2d(3, 4, 1), pack, scale
        nn.init.constant_(self.conv.weight, 0.1)

    def forward(self, images: Tensor) -> Any:
        return self.pack(self.scale * self.conv(images))


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 3)).eval()
    randomise_statistics_(model, SIZE)
    return model


@pytest.mark.parametrize(
    "pack",
    [
        lambda y: (y * 0 + 1, y),
        lambda y: [y],
        lambda y: {"a": {"b": [y]}},
        lambda y: y,
    ],
)
def test_every_tensor_of_an_output_is_compared(pack: Callable[[Tensor], Any]) -> None:
    one, other = Outputs(pack), Outputs(pack, scale=2.0)
    other.load_state_dict(one.state_dict())
    assert difference(outputs(one, EXAMPLE), one, EXAMPLE) == 0
    assert difference(outputs(one, EXAMPLE), other, EXAMPLE) == pytest.approx(1, rel=1e-3)


def test_another_number_of_outputs_is_a_difference() -> None:
    expected = outputs(Outputs(lambda y: (y, y)), EXAMPLE)
    assert difference(expected, Outputs(lambda y: y), EXAMPLE) == float("inf")


def test_rounding_of_float32_alone_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    monkeypatch.setattr(importlib.import_module("ghostnet.deploy.optimize"), "RELATIVE_TOLERANCE", -1.0)
    optimize(model, input_size=SIZE, passes=["fold_batch_norm"])
    monkeypatch.setattr(compare, "RELATIVE_TOLERANCE", -1.0)
    with pytest.raises(
        RuntimeError, match=r"differs by .*go without the rewrites \(`optimized=False`, --plain\)"
    ):
        optimize(model, input_size=SIZE, passes=["fold_batch_norm"])


def test_a_fault_is_one_in_double_precision_too() -> None:
    one, other = Outputs(lambda y: y), Outputs(lambda y: y, scale=1.001)
    other.load_state_dict(one.state_dict())
    assert same_in_double(one, one, EXAMPLE)
    assert not same_in_double(one, other, EXAMPLE)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_is_given_back_in_its_own_type(kind: torch.dtype) -> None:
    result = optimize(network().to(kind), input_size=SIZE)
    assert {tensor.dtype for tensor in result.parameters()} == {kind}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in result.modules())
    images = torch.zeros(1, *SIZE, dtype=kind)
    with torch.no_grad():
        assert torch.allclose(result(images).float(), network()(images.float()), atol=0.05)


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_int8_training_takes_any_floating_type(kind: torch.dtype) -> None:
    images = np.random.default_rng(0).standard_normal((16, *SIZE), dtype=np.float32)
    made = fake_quantized(network().to(kind), images, input_size=SIZE)
    assert made(torch.from_numpy(images)).dtype == torch.float32
    assert next(made.reference.parameters()).dtype == torch.float32


def test_int8_training_refuses_rewrites_that_need_float32() -> None:
    images = np.zeros((16, *SIZE), np.float32)
    with pytest.raises(InputError, match=r"pass 'winograd' needs float32, which int8 files do not have"):
        fake_quantized(network(), images, input_size=SIZE, passes=["winograd"])


def test_the_original_runs_once() -> None:
    runs = []

    class Counted(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            runs.append(type(images))
            return images

    optimize(nn.Sequential(Counted(), network()), input_size=SIZE, passes=["fold_batch_norm"])
    # the second traces; of the result, the module is no part
    assert [issubclass(kind, fx.Proxy) for kind in runs] == [False, True]


@pytest.mark.parametrize("error", [AssertionError("only 32"), IndexError("x"), KeyError("y")])
def test_whatever_a_forward_raises_is_one_line(error: Exception) -> None:
    class Raises(nn.Sequential):
        def forward(self, _images: Tensor) -> Tensor:
            raise error

    with pytest.raises(InputError, match=r"does not run with input_size \(3, 6, 6\)"):
        optimize(Raises(nn.Conv2d(3, 4, 1)), input_size=SIZE)


def test_old_weight_norm_is_copied() -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        conv = nn.utils.weight_norm(nn.Conv2d(3, 4, 1))
    model = nn.Sequential(conv, nn.BatchNorm2d(4))
    model(torch.randn(2, *SIZE))  # its weight now hangs on a graph, which deepcopy refuses
    result = optimize(model, input_size=SIZE)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in result.modules()) == 1
