"""Functions that exporters refuse or write wrongly are exported all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet import deploy
from ghostnet.deploy.passes.exporter_gaps import KnownForms

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp(0, 1.5)": lambda x: torch.clamp(x, 0, 1.5),
    "x.clamp(min=0, max=0.5)": lambda x: x.clamp(min=0, max=0.5),
    "x.clip(-0.25, 1)": lambda x: x.clip(-0.25, 1),
    "clamp(max=1)": lambda x: torch.clamp(x, max=1),
    "x.clamp_(0, 0.5)": lambda x: (2 * x).clamp_(0, 0.5),
    "bounds that are tensors": lambda x: torch.clamp(x, torch.tensor(-0.5), torch.tensor(0.5)),
    "logsigmoid": lambda x: F.logsigmoid(300 * x),
    "softplus": lambda x: F.softplus(300 * x),
    "softplus, steeper": lambda x: F.softplus(x, beta=3) + F.softplus(x, 0.5, 10),
}


class _Applied(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.function = nn.Conv2d(3, 8, 1), function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(self.convolution(images)).mean((2, 3))


@pytest.mark.parametrize("name", _FUNCTIONS)
@pytest.mark.parametrize(("target", "suffix"), [("onnx", "onnx"), ("openvino", "xml")])
def test_the_file_computes_it(target: str, suffix: str, name: str, tmp_path: Path) -> None:
    model = _Applied(_FUNCTIONS[name]).eval()
    deploy.export(model, target, tmp_path / f"net.{suffix}", input_size=(3, 8, 8))
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    given = deploy.load(tmp_path / f"net.{suffix}").predict(images)
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)


class _Layers(nn.Sequential):
    """Convolution and logarithm as layers: pnnx knows layers by their class."""

    def __init__(self, layer: nn.Module) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(3, 8, 1), layer)


@pytest.mark.parametrize(
    "network",
    [
        *map(_Layers, (nn.LogSigmoid(), nn.Softplus(), nn.Softplus(2.5))),
        *(_Applied(_FUNCTIONS[name]) for name in ("logsigmoid", "softplus", "softplus, steeper")),
    ],
)
def test_ncnn_computes_logarithms_of_what_overflows(network: nn.Module, tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")
    deploy.export(network.eval(), "ncnn", tmp_path / "net.param", input_size=(3, 8, 8))
    images = torch.randint(-255, 256, (1, 3, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        expected = network(images).numpy()
    np.testing.assert_allclose(
        deploy.load(tmp_path / "net.param").predict(images.numpy()), expected, rtol=1e-4, atol=1e-5
    )


def test_they_are_finite_and_exact_everywhere() -> None:
    values = torch.tensor([-1e30, -1e4, -104.0, -20.0, -1.0, 0.0, 1.0, 20.0, 1e4, 1e30])
    with KnownForms():
        given, soft = F.logsigmoid(values), F.softplus(values)
        integers = torch.clamp(torch.tensor([-3, 5]), 0, 2)
    torch.testing.assert_close(given, F.logsigmoid(values), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(soft, F.softplus(values), rtol=1e-6, atol=1e-7)
    assert integers.dtype == torch.int64  # bounds of whole numbers stay whole
