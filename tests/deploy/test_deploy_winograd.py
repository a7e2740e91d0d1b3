"""Winograd's form of 3x3 convolutions: the same function, in which layers it is chosen, and where it must not be."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ghostnet.convert import ghostify
from ghostnet.deploy import export, fake_quantized, load, optimize, quantize
from ghostnet.deploy.optimize import passes_of
from ghostnet.deploy.passes import default_passes
from ghostnet.deploy.passes.winograd import WinogradConv2d, predicted_ratio, transforms
from ghostnet.errors import InputError

SIZE = (128, 16, 16)


def network() -> nn.Module:
    """Return a small network with one layer that gains."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(128, 128, 3, padding=1),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 5),
    ).eval()


def forms(model: nn.Module) -> int:
    """Count the layers in Winograd's form."""
    return sum(isinstance(part, WinogradConv2d) for part in model.modules())


def test_the_transforms_are_a_correlation() -> None:
    tile, kernel, inputs = transforms()
    generator = torch.Generator().manual_seed(0)
    signal, taps = (torch.randn(count, generator=generator, dtype=torch.float64) for count in (6, 3))
    expected = F.conv1d(signal[None, None], taps[None, None])[0, 0]
    torch.testing.assert_close(tile @ ((kernel @ taps) * (inputs @ signal)), expected)


@settings(deadline=None, max_examples=40)
@given(
    channels=st.integers(1, 5),
    filters=st.integers(1, 5),
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    padding=st.sampled_from([0, 1, 2, (0, 1), (2, 0), "same", "valid"]),
    bias=st.booleans(),
)
def test_it_is_the_convolution_at_any_size(
    channels: int,
    filters: int,
    batch: int,
    size: tuple[int, int],
    padding: int | tuple[int, int] | str,
    bias: bool,
) -> None:
    conv = nn.Conv2d(channels, filters, 3, padding=padding, bias=bias).double()
    images = torch.randn(batch, channels, *size, dtype=torch.float64)
    try:
        expected = conv(images)
    except RuntimeError:  # the kernel is larger than the map
        return
    torch.testing.assert_close(WinogradConv2d(conv, (9, 9))(images), expected)


def test_rounding_is_near_the_convolution_s_own() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 256, 28, 28, generator=generator).relu()
    conv = nn.Conv2d(256, 64, 3, padding=1)
    exact = nn.functional.conv2d(images.double(), conv.weight.double(), conv.bias.double(), padding=1)  # type: ignore[union-attr]
    error = (WinogradConv2d(conv, (28, 28))(images).double() - exact).abs().max() / exact.abs().max()
    assert error < 3e-6  # the textbook's points give 6e-6 and more


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(128, 128, 3, stride=2, padding=1),
        nn.Conv2d(128, 128, 3, dilation=2, padding=2),
        nn.Conv2d(128, 128, 3, groups=2, padding=1),
        nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(128, 128, (3, 1), padding=(1, 0)),
        nn.Conv2d(128, 128, 1),
        nn.Conv2d(128, 16, 3, padding=1),
    ],
)
def test_other_layers_stay(conv: nn.Conv2d) -> None:
    assert forms(optimize(nn.Sequential(conv), passes=["winograd"], input_size=SIZE)) == 0


def test_a_shared_layer_stays() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.own = nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(128, 128, 3, padding=1)

        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            return self.own(self.shared(self.shared(maps)))

    assert forms(optimize(Twice(), passes=["winograd"], input_size=SIZE)) == 1


def test_small_maps_stay() -> None:
    conv = nn.Conv2d(512, 512, 3, padding=1)
    assert predicted_ratio(conv, (7, 7)) == predicted_ratio(conv, (1, 0)) == float("inf")
    assert predicted_ratio(conv, (28, 28)) < predicted_ratio(conv, (14, 14)) < 0.8


def test_a_network_keeps_its_function() -> None:
    found = optimize(network(), passes=["fold_batch_norm", "winograd"], input_size=SIZE)
    assert forms(found) == 1
    other = torch.randn(2, 128, 21, 18)  # a size that it was not made for
    torch.testing.assert_close(found(other), network()(other), rtol=1e-5, atol=1e-5)


def test_where_rounding_adds_up_the_usual_set_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = nn.Sequential(
        *(nn.Conv2d(128, 128, 3, padding=1) for _ in range(3))
    )  # 0 without winograd, 1e-6 with it
    optimiser = sys.modules[optimize.__module__]
    assert forms(optimize(deep, target="onnx", input_size=SIZE)) == 3
    monkeypatch.setattr(optimiser, "RELATIVE_TOLERANCE", 1e-8)
    found = optimize(deep, target="onnx", input_size=SIZE)
    assert forms(found) == 0
    assert passes_of(found) == [name for name in default_passes("onnx") if name != "winograd"]
    with pytest.raises(RuntimeError, match=r"the optimised network differs by"):
        optimize(deep, passes=["winograd"], input_size=SIZE)


def test_ghost_maps_are_read_whole() -> None:
    """A concatenation carried in parts would be transformed part by part and added."""
    layers = [nn.Conv2d(16, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1)]
    ghost, _report = ghostify(nn.Sequential(*layers), layers="all", init="random")
    found = optimize(ghost.eval(), target="onnx", input_size=(16, 16, 16))
    whole = [part for part in found.modules() if isinstance(part, WinogradConv2d)]
    assert [part.in_channels for part in whole] == [256]


@pytest.mark.parametrize(("target", "ending"), [("onnx", "onnx"), ("openvino", "xml")])
def test_files_compute_the_same(target: str, ending: str, tmp_path: Path) -> None:
    passes = ["fold_batch_norm", "winograd"]
    report = export(network(), target, tmp_path / f"net.{ending}", input_size=SIZE, passes=passes)
    assert report.relative_error is not None
    assert report.relative_error < 1e-5
    assert report.batches == [1, 3]
    assert report.operators["MatMul"] >= 1


def test_an_onnx_file_does_not_grow(tmp_path: Path) -> None:
    """The runtime transforms the weights when it loads them."""
    plain = export(network(), "onnx", tmp_path / "plain.onnx", input_size=SIZE, optimized=False)
    found = export(network(), "onnx", tmp_path / "net.onnx", input_size=SIZE)
    assert "winograd" in (load(tmp_path / "net.onnx").manifest.passes or [])  # type: ignore[union-attr]
    assert found.operators["DepthToSpace"] == 1
    assert found.bytes < 1.1 * plain.bytes


def test_without_a_size_it_is_left_out_or_refused() -> None:
    assert "winograd" in default_passes("onnx")
    assert forms(optimize(network(), target="onnx")) == 0
    with pytest.raises(InputError, match=r"pass 'winograd' reads the sizes of maps; give input_size"):
        optimize(network(), passes=["winograd"])


def test_int8_goes_without(tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((16, *SIZE), dtype=np.float32)
    quantize(network(), "onnx", tmp_path / "net.onnx", images, input_size=SIZE)
    manifest = load(tmp_path / "net.onnx").manifest
    assert manifest is not None
    assert manifest.passes == [name for name in default_passes("onnx") if name != "winograd"]
    with pytest.raises(InputError, match=r"pass 'winograd' needs float32, which int8 files do not have"):
        quantize(network(), "onnx", tmp_path / "a.onnx", images, input_size=SIZE, passes=["winograd"])
    rewritten = optimize(network(), passes=["winograd"], input_size=SIZE)
    with pytest.raises(InputError, match=r"pass 'winograd' needs float32"):
        quantize(rewritten, "onnx", tmp_path / "a.onnx", images, input_size=SIZE, optimized=False)
    with pytest.raises(InputError, match=r"pass 'winograd'"):
        fake_quantized(network(), images, input_size=SIZE, passes=["winograd"])
    assert not (tmp_path / "a.onnx").exists()


def test_bfloat16_refuses_such_files(tmp_path: Path) -> None:
    export(network(), "openvino", tmp_path / "net.xml", input_size=SIZE, passes=["winograd"])
    with pytest.raises(InputError, match=r"net.xml was exported with pass 'winograd', which precision bf16"):
        load(tmp_path / "net.xml", precision="bf16")
