"""Winograd's form of 3x3 convolutions: the same function, in which layers it is chosen, and where it must not be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ghostnet import openvino_core
from ghostnet.convert import ghostify
from ghostnet.deploy import export, fake_quantized, load, optimize, quantize
from ghostnet.deploy.optimize import passes_of
from ghostnet.deploy.passes import checked_passes, default_passes
from ghostnet.deploy.passes.winograd import WinogradConv2d, predicted_ratio, transforms
from ghostnet.deploy.passes.winograd_products import WinogradProducts
from ghostnet.deploy.passes.winograd_products import predicted_ratio as products_ratio
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


@settings(deadline=None, max_examples=80)
@given(
    form=st.sampled_from([WinogradConv2d, WinogradProducts]),
    channels=st.integers(1, 5),
    filters=st.integers(1, 5),
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    padding=st.sampled_from([0, 1, 2, (0, 1), (2, 0), "same", "valid"]),
    bias=st.booleans(),
)
def test_it_is_the_convolution_at_any_size(
    form: type[WinogradConv2d],
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
    torch.testing.assert_close(form(conv, (9, 9))(images), expected)
    if min(size) > 2:
        torch.testing.assert_close(form(conv, size)(images), expected)


@pytest.mark.parametrize("form", [WinogradConv2d, WinogradProducts])
def test_rounding_is_near_the_convolution_s_own(form: type[WinogradConv2d]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 256, 28, 28, generator=generator).relu()
    torch.manual_seed(0)
    conv = nn.Conv2d(256, 64, 3, padding=1)
    exact = nn.functional.conv2d(images.double(), conv.weight.double(), conv.bias.double(), padding=1)  # type: ignore[union-attr]
    error = (form(conv, (28, 28))(images).double() - exact).abs().max() / exact.abs().max()
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
    assert passes_of(found) == [name for name in default_passes("onnx") if "winograd" not in name]
    with pytest.raises(RuntimeError, match=r"the optimised network differs by"):
        optimize(deep, passes=["winograd"], input_size=SIZE)


def test_ghost_maps_are_read_whole() -> None:
    """A concatenation carried in parts would be transformed part by part and added."""
    layers = [nn.Conv2d(16, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1)]
    ghost, _report = ghostify(nn.Sequential(*layers), layers="all", init="random")
    found = optimize(ghost.eval(), target="onnx", input_size=(16, 16, 16))
    whole = [part for part in found.modules() if isinstance(part, WinogradConv2d)]
    assert [part.in_channels for part in whole] == [256]


@pytest.mark.parametrize("name", ["winograd", "winograd_products"])
@pytest.mark.parametrize(("target", "ending"), [("onnx", "onnx"), ("openvino", "xml")])
def test_files_compute_the_same(target: str, ending: str, name: str, tmp_path: Path) -> None:
    passes = ["fold_batch_norm", name]
    size = (128, 31, 36)  # the last tiles have a row too many
    report = export(network(), target, tmp_path / f"net.{ending}", input_size=size, passes=passes)
    assert report.relative_error is not None
    assert report.relative_error < 1e-5
    assert report.batches == [1, 3]
    assert report.operators["MatMul"] >= (1 if name == "winograd" else 3)


def in_float32(node: Any) -> bool:
    """Tell whether a node of a file is marked; OpenVINO reads the mark back under another name."""
    return bool({"precise_0", "DisablePrecisionConversion_0"} & {*node.get_rt_info()})


@pytest.mark.parametrize("name", ["winograd", "winograd_products"])
def test_openvino_computes_it_in_float32_and_its_file_does_not_grow(name: str, tmp_path: Path) -> None:
    """On a processor with bfloat16, OpenVINO by itself takes that for what is not marked."""
    net, size = network(), (128, 32, 32)
    plain = export(net, "openvino", tmp_path / "plain.xml", input_size=size, passes=["fold_batch_norm"])
    found = export(net, "openvino", tmp_path / "net.xml", input_size=size, passes=["fold_batch_norm", name])
    assert found.bytes < 1.2 * plain.bytes  # four times as many weights would be 3
    core = openvino_core.core()
    file = core.read_model(str(tmp_path / "net.xml"))
    layer = [node for node in file.get_ordered_ops() if "_winograd/" in node.get_friendly_name()]
    assert {"MatMul", "Transpose"} <= {node.get_type_name() for node in layer}
    assert all(in_float32(node) for node in layer if node.get_type_name() != "Constant")
    others = [node for node in file.get_ordered_ops() if node.get_type_name() in ("ReduceMean", "Relu")]
    assert others
    assert not any(in_float32(node) for node in others)
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return
    images = torch.randn(1, *size, generator=torch.Generator().manual_seed(1))
    maps = net[:3](images)
    expected = maps.detach().numpy()
    errors = []
    for passes in (["fold_batch_norm"], ["fold_batch_norm", name]):
        path = tmp_path / "maps.xml"
        export(net[:3], "openvino", path, input_size=size, passes=passes, force=True)
        network_ = core.compile_model(core.read_model(str(path)), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
        answer = network_([images.numpy()])[0]
        errors.append(np.abs(answer - expected).max() / np.abs(expected).max())
    assert errors[1] < 1.2 * errors[0]


def be_processor(monkeypatch: pytest.MonkeyPatch, *features: str, bfloat16: bool) -> None:
    monkeypatch.setattr("ghostnet.deploy.passes.has_bfloat16", {"cpu": bfloat16}.get)
    monkeypatch.setattr("ghostnet.deploy.passes.processor_features", lambda: features)


@pytest.mark.parametrize(
    ("bfloat16", "features", "added"),
    [
        (True, ("avx512_bf16", "amx_bf16"), False),
        (True, ("avx512_bf16",), True),
        (True, (), False),  # nothing more is known of it
        (False, ("avx2",), True),
        (False, (), True),
    ],
)
def test_processors_that_openvinos_own_set_has_it_on(
    bfloat16: bool, features: tuple[str, ...], added: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_processor(monkeypatch, *features, bfloat16=bfloat16)
    assert ("winograd_products" in default_passes("openvino")) == added


def test_networks_have_it_without_amx_and_int8_goes_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    size = (128, 32, 32)
    sets, networks = [], []
    for extension in ("amx_bf16", "avx512f"):
        be_processor(monkeypatch, "avx512_bf16", extension, bfloat16=True)
        sets.append(default_passes("openvino"))
        networks.append(optimize(network(), target="openvino", input_size=size))
    assert set(sets[1]) - set(sets[0]) == {"winograd_products"}
    assert sets[1] == checked_passes(sets[1])
    assert [forms(found) for found in networks] == [0, 1]
    quantize(
        network(),
        "openvino",
        tmp_path / "net.xml",
        np.random.default_rng(0).standard_normal((16, *size), dtype=np.float32),
        input_size=size,
    )
    manifest = load(tmp_path / "net.xml").manifest
    assert manifest is not None
    assert manifest.passes == list(sets[0])


def test_what_gains_as_products() -> None:
    """The layers were timed in OpenVINO; see `predicted_ratio`."""

    def ratio(channels: int, filters: int, size: int) -> float:
        return products_ratio(nn.Conv2d(channels, filters, 3, padding=1), (size, size))

    assert ratio(512, 512, 28) < ratio(256, 256, 28) < ratio(128, 128, 28) < 0.85  # 0.50, 0.69, 0.72
    assert ratio(128, 64, 56) > 0.9  # 1.08
    assert 1.8 < ratio(512, 512, 7) < 2.1  # 1.97: four tiles share each weight
    assert products_ratio(nn.Conv2d(512, 512, 3), (1, 2)) == float("inf")
    wide, narrow = (nn.Conv2d(256, count, 3, padding=1) for count in (256, 32))
    both = optimize(
        nn.Sequential(wide, narrow), passes=["winograd", "winograd_products"], input_size=(256, 28, 28)
    )
    kinds = [type(part) for part in both.modules() if isinstance(part, WinogradConv2d)]
    assert kinds == [WinogradProducts]


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


@pytest.mark.parametrize("name", ["winograd", "winograd_products"])
@pytest.mark.parametrize(
    ("target", "runtime", "ending"), [("ncnn", "ncnn", "param"), ("mnn", "MNN", "mnn"), ("c", "C", "c")]
)
def test_runtimes_that_do_it_themselves_refuse_it(
    target: str, runtime: str, ending: str, name: str, tmp_path: Path
) -> None:
    message = rf'^{runtime} chooses Winograd\'s algorithm by itself; leave out the passes "winograd…"$'
    with pytest.raises(InputError, match=message):
        export(network(), target, tmp_path / f"net.{ending}", input_size=(128, 32, 32), passes=[name])
    assert not list(tmp_path.iterdir())


def test_int8_goes_without(tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((16, *SIZE), dtype=np.float32)
    quantize(network(), "onnx", tmp_path / "net.onnx", images, input_size=SIZE)
    manifest = load(tmp_path / "net.onnx").manifest
    assert manifest is not None
    assert manifest.passes == [name for name in default_passes("onnx") if "winograd" not in name]
    with pytest.raises(InputError, match=r"pass 'winograd' needs float32, which int8 files do not have"):
        quantize(network(), "onnx", tmp_path / "a.onnx", images, input_size=SIZE, passes=["winograd"])
    rewritten = optimize(network(), passes=["winograd"], input_size=SIZE)
    with pytest.raises(InputError, match=r"pass 'winograd' needs float32"):
        quantize(rewritten, "onnx", tmp_path / "a.onnx", images, input_size=SIZE, optimized=False)
    with pytest.raises(InputError, match=r"pass 'winograd'"):
        fake_quantized(network(), images, input_size=SIZE, passes=["winograd"])
    assert not (tmp_path / "a.onnx").exists()


def test_bfloat16_takes_such_files(tmp_path: Path) -> None:
    """Their layers stay in float32 there; elsewhere bfloat16 rounds to 8 bits."""
    if "BF16" not in openvino_core.core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    images = np.random.default_rng(0).standard_normal((1, *SIZE), dtype=np.float32)
    for name in ("winograd", "winograd_products"):
        net = network()
        export(net, "openvino", tmp_path / "net.xml", input_size=SIZE, passes=[name], force=True)
        narrow, exact = (
            load(tmp_path / "net.xml", precision=precision).predict(images) for precision in ("bf16", "fp32")
        )
        assert 0 < np.abs(narrow - exact).max() < 0.03 * np.abs(exact).max()
