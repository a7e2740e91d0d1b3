"""Pass "pixel_products": layers of one pixel become products, nothing is fused behind them, and the rest stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import ghostnet
from ghostnet import deploy
from ghostnet.deploy.passes import PASSES, default_passes
from ghostnet.models import create_outside

_BASE = ("squeeze_excite", "fold_batch_norm", "head")


class Gated(nn.Module):
    """Maps times factors that `factors` makes of their means."""

    def __init__(self, factors: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.reduce, self.expand = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.pool, self.silu = nn.AdaptiveAvgPool2d(1), nn.SiLU()
        self.factors = factors

    def forward(self, images: Tensor) -> Tensor:
        maps = self.body(images)
        return maps * self.factors(self, maps)


_GATES: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "hard sigmoid by hand": lambda net, x: (
        F.relu6(net.expand(F.relu(net.reduce(x.mean((2, 3), keepdim=True)))) + 3) / 6
    ),  # type: ignore[operator]
    "SiLU and sigmoid": lambda net, x: torch.sigmoid(net.expand(net.silu(net.reduce(net.pool(x))))),  # type: ignore[operator]
    "clamped": lambda net, x: net.expand(net.reduce(net.pool(x)).relu()).clamp(0.0, 1.0),  # type: ignore[operator]
}


def _modules(model: nn.Module, kind: type[nn.Module]) -> int:
    assert isinstance(model, fx.GraphModule)
    return sum(
        type(model.get_submodule(str(n.target))) is kind for n in model.graph.nodes if n.op == "call_module"
    )


def _calls(model: nn.Module, target: object) -> int:
    assert isinstance(model, fx.GraphModule)
    return sum(node.target is target for node in model.graph.nodes)


@pytest.mark.parametrize("name", _GATES)
def test_a_gate_becomes_two_products_with_their_activations_apart(name: str) -> None:
    model = Gated(_GATES[name]).eval()
    found = deploy.optimize(model, passes=["pixel_products"], input_size=(3, 12, 12))
    assert (_modules(found, nn.Linear), _modules(found, nn.Conv2d)) == (2, 1)
    assert _calls(found, torch.maximum) == 2
    assert isinstance(found, fx.GraphModule)
    products = [node for node in found.graph.nodes if isinstance(_called(found, node), nn.Linear)]
    assert [[user.target for user in node.users] for node in products] == [[torch.maximum]] * 2
    images = torch.randn(3, 3, 12, 12)
    torch.testing.assert_close(found(images), model(images), rtol=1e-6, atol=1e-6)


def _called(model: nn.Module, node: fx.Node) -> nn.Module | None:
    return model.get_submodule(str(node.target)) if node.op == "call_module" else None


def test_ghostnet_has_no_convolution_of_one_pixel_left() -> None:
    model = ghostnet.create_model("ghostnet_050").eval()
    before = deploy.optimize(model, passes=_BASE)
    after = deploy.optimize(model, passes=[*_BASE, "pixel_products"])
    gates = 7
    assert _modules(after, nn.Conv2d) == _modules(before, nn.Conv2d) - 2 * gates
    assert _modules(after, nn.Linear) == _modules(before, nn.Linear) + 2 * gates
    assert _calls(after, torch.maximum) == 2 * gates + 1  # and the head's
    assert len([name for name, _ in after.named_buffers()]) == 2  # zero, and the lowest number


@pytest.mark.parametrize(
    "name", ["torchvision:mobilenet_v3_small", "timm:efficientnet_b0", "torchvision:vgg11"]
)
def test_networks_of_others_compute_the_same(name: str) -> None:
    model = create_outside(name)
    after = deploy.optimize(model, passes=[*_BASE, "pixel_products"], input_size=(3, 64, 64))
    assert _calls(after, torch.maximum) >= 2


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.ReLU()),  # of many pixels
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 3, padding=1)
        ),  # not a product
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Conv2d(4, 4, 1), nn.ReLU()),
        nn.Sequential(nn.Linear(8, 4), nn.ReLU()),  # of many vectors an image
        nn.Sequential(nn.Flatten(), nn.Linear(192, 4)),  # nothing behind it
    ],
)
def test_other_layers_stay(model: nn.Module) -> None:
    found = deploy.optimize(model.eval(), passes=["pixel_products"])
    assert _calls(found, torch.maximum) == 0
    assert _modules(found, nn.Conv2d) == sum(isinstance(module, nn.Conv2d) for module in model.modules())


def test_a_pooled_map_that_is_read_twice_stays() -> None:
    model = Gated(lambda net, x: net.expand(net.reduce(pooled := net.pool(x))) + pooled).eval()  # type: ignore[operator]
    found = deploy.optimize(model, passes=["pixel_products"], input_size=(3, 12, 12))
    assert _modules(found, nn.Linear) == 0


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_networks_of_other_types_are_rewritten_too(kind: torch.dtype) -> None:
    model = Gated(_GATES["SiLU and sigmoid"]).eval().to(kind)
    found = deploy.optimize(model, passes=["pixel_products"])
    assert {value.dtype for value in found.buffers()} == {kind}
    images = torch.randn(2, 3, 12, 12, dtype=kind)
    torch.testing.assert_close(found(images), model(images))


def test_it_is_in_openvino_s_set_and_in_no_other(tmp_path: Path) -> None:
    assert "pixel_products" in PASSES
    targets = ("openvino", "onnx", "litert", "ncnn", "mnn", "c", "coreml", "executorch")
    assert [target for target in targets if "pixel_products" in default_passes(target)] == ["openvino"]
    report = deploy.export(
        ghostnet.create_model("ghostnet_050").eval(), "openvino", tmp_path / "net.xml", input_size=(3, 64, 64)
    )
    assert report.operators["Maximum"] == 15
    assert report.relative_error < 1e-5
