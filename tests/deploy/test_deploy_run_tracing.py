"""Rewrites of networks whose code `torch.fx` cannot follow: sizes that decide, kinds that are asked for, counts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ghostnet.convert import ghostify
from ghostnet.deploy import export, optimize
from ghostnet.deploy.optimize import traced
from ghostnet.deploy.passes import PASSES
from ghostnet.nn import GhostConv2d

SIZE = (3, 16, 16)


class Block(nn.Module):
    """A convolution as detectors' code writes it."""

    def __init__(self, given: int, made: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(given, made, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(made)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Detector(nn.Module):
    """Keeps the centres of its cells for the last size that it saw, and answers boxes around them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.left, self.right = Block(3, 16, 2), Block(8, 8), Block(16, 8)
        self.head = nn.Conv2d(16, 4, 1)
        self.shape: torch.Size | None = None
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.normal_(module.running_mean)
        self.eval()

    def forward(self, x: Tensor) -> Any:
        if x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError("sides must be even")
        y = self.stem(x)
        parts = list(y.chunk(2, 1))
        maps = torch.cat([self.left(parts[-1]), self.right(y)], 1)
        found = self.head(maps)
        if self.shape != found.shape:
            self.shape = found.shape
            rows = torch.arange(found.shape[2], device=x.device, dtype=x.dtype) + 0.5
            columns = torch.arange(found.shape[3], device=x.device, dtype=x.dtype) + 0.5
            self.centres = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))
        lengths = found.view(found.shape[0], 4, -1).sigmoid()
        centres = self.centres.view(1, 2, -1)
        return torch.cat((centres - lengths[:, :2], centres + lengths[:, 2:]), 1), maps


def test_norms_are_folded_and_any_number_of_images_runs() -> None:
    model = Detector()
    assert traced(model) is None
    result = optimize(model, input_size=SIZE)
    assert isinstance(result, fx.GraphModule)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in result.modules())
    assert model.shape is None
    for shape in ((1, 3, 16, 16), (5, 3, 16, 16), (2, 3, 24, 32)):
        images = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(result(images), model(images), atol=1e-5, rtol=1e-5)


def test_ghost_convolutions_are_seen_through() -> None:
    model, _ = ghostify(Detector(), example_input=torch.zeros(1, *SIZE))
    assert any(isinstance(module, GhostConv2d) for module in model.modules())
    result = optimize(model, input_size=SIZE)
    kinds = {type(module) for module in result.modules()}
    assert not kinds & {GhostConv2d, nn.BatchNorm2d}


def test_an_onnx_file_takes_any_number_of_images(tmp_path: Path) -> None:
    model = Detector()
    export(model, "onnx", tmp_path / "net.onnx", input_size=SIZE)
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    images = torch.randn(3, *SIZE)
    with torch.no_grad():
        expected = model(images)
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(one), other, atol=1e-4, rtol=1e-4)


@dataclasses.dataclass
class Answer:
    """As libraries answer."""

    scores: Tensor
    maps: Tensor | None = None


class Decides(nn.Module):
    """Decides by the kind of its input and by pixels, or writes into a part of a tensor."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.how = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)), how
        self.eval()

    def forward(self, x: Tensor) -> Any:
        y = self.body(x) if x.size(1) == 3 and x.size(2) > 1 else x
        if self.how == "pixels" and bool(y.abs().sum() > 0):
            return y
        if self.how == "a part":
            y = y.clone()
            y[:, 0] = y[:, 1] * 2
        return Answer(y.mean((2, 3)), y) if self.how == "a class" else y


@pytest.mark.parametrize("how", ["pixels", "a part"])
def test_what_cannot_be_followed_is_folded_in_its_order(how: str) -> None:
    model = Decides(how)
    result = optimize(model, input_size=SIZE)
    assert not isinstance(result, fx.GraphModule)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in result.modules())


def test_an_answer_of_a_class_stays_one() -> None:
    model = Decides("a class")
    images = torch.randn(2, *SIZE)
    result = optimize(model, input_size=SIZE)
    assert isinstance(result, fx.GraphModule)
    assert isinstance(result(images), Answer)
    torch.testing.assert_close(result(images).maps, model(images).maps, atol=1e-5, rtol=1e-5)


class Stays(nn.Conv2d):
    """Pads by numbers of its own, in a way that `torch.fx` follows."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, (0, 1, 0, 1)))


def test_convolutions_of_a_class_of_their_own_are_folded_where_fx_follows_them_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Stays(8, 8, 3, stride=2), nn.BatchNorm2d(8)).eval()
    assert traced(model) is not None
    assert any(isinstance(module, nn.BatchNorm2d) for module in optimize(model).modules())
    assert not any(
        isinstance(module, nn.BatchNorm2d) for module in optimize(model, input_size=SIZE).modules()
    )


class HiddenFromRewrites(Detector):
    """Writes into a view, where no pass looks."""

    def forward(self, x: Tensor) -> Any:
        boxes, maps = super().forward(x)
        return torch.ops.aten.silu_(boxes[:, :2]) + boxes[:, :2], maps


@pytest.mark.parametrize("how", ["raises", "answers something else"])
def test_where_a_pass_goes_wrong_norms_are_folded_in_their_order(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(graph: fx.GraphModule) -> fx.GraphModule:
        if how == "raises":
            raise KeyError("a node that nobody expects")
        for module in graph.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias = nn.Parameter(module.bias + 1)
        return graph

    monkeypatch.setitem(PASSES, "head", wrong)
    model = Detector()
    model.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.SiLU()).eval()
    result = optimize(model, input_size=SIZE)
    assert not isinstance(result, fx.GraphModule)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in result.stem.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in result.left.modules())
    images = torch.randn(2, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(result(images), model(images), atol=1e-5, rtol=1e-5)


def test_half_precision_keeps_its_type() -> None:
    model = Detector().bfloat16()
    images = torch.randn(2, *SIZE).bfloat16()
    result = optimize(model, input_size=SIZE)
    with torch.no_grad():
        assert [part.dtype for part in result(images)] == [part.dtype for part in model(images)]


def test_writing_into_a_view_in_an_operator_changes_nothing_unseen() -> None:
    model = HiddenFromRewrites()
    result = optimize(model, input_size=SIZE)
    images = torch.randn(2, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(result(images), model(images), atol=1e-5, rtol=1e-5)
