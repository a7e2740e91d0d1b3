"""Networks that round in the forward pass: where, with which gradients, and that their files compute the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghostnet
from ghostnet.deploy import (
    TARGETS,
    FakeQuantized,
    Limits,
    fake_quantized,
    load,
    quantize,
    randomise_statistics_,
)
from ghostnet.deploy.processor import usual_weight_bits
from ghostnet.deploy.quantization.quantiser import TRAINED_TARGETS
from ghostnet.deploy.quantization.rounding import RoundedLayer, RoundedValues
from ghostnet.errors import InputError
from ghostnet.nn import GhostConv2d

SIZE = (3, 12, 12)


class Residual(nn.Module):
    """A Ghost block with a shortcut, poolings and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU())
        self.ghost = nn.Sequential(GhostConv2d(24, 24, 3, padding=1), nn.BatchNorm2d(24))
        self.pool, self.classifier = nn.MaxPool2d(2), nn.Linear(24, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        return self.classifier(F.relu(self.pool(maps + self.ghost(maps))).mean((2, 3)))


def network() -> nn.Module:
    torch.manual_seed(0)
    model = Residual().eval()
    randomise_statistics_(model, SIZE)
    return model


def images(count: int = 48, size: tuple[int, ...] = SIZE) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *size), dtype=np.float32)


def made(weight_bits: int | None = None) -> FakeQuantized:
    return fake_quantized(network(), images(), weight_bits=weight_bits, input_size=SIZE)


def skip_without(name: str) -> None:
    for module in (*TARGETS[name].write_modules, TARGETS[name].open_module):
        pytest.importorskip(module)


def test_gradients_go_straight_through_inside_the_range_and_stop_outside() -> None:
    rounded = RoundedValues().eval()
    rounded.low.fill_(-1.0)
    rounded.high.fill_(1.55)  # 255 steps of 0.01
    values = torch.tensor([-2.0, -0.994, 0.0, 0.123, 1.549, 2.0], requires_grad=True)
    found = rounded(values)
    assert torch.allclose(found, torch.tensor([-1.0, -0.99, 0.0, 0.12, 1.55, 1.55]), atol=1e-6)
    found.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_weights_have_a_symmetric_grid_for_each_channel() -> None:
    layer = RoundedLayer(nn.Conv2d(2, 3, 3), 4)
    with torch.no_grad():
        layer.layer.weight[0] *= 10
        layer.layer.weight[2] = 0
    assert torch.allclose(layer.scales()[:2], layer.layer.weight.abs().amax((1, 2, 3))[:2] / 7)
    assert layer.scales()[2] > 0  # an empty channel divides by no zero
    outputs = layer(torch.eye(18).view(18, 2, 3, 3)).flatten(1) - layer.layer.bias
    steps = outputs / layer.scales()
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert steps[:, :2].abs().amax(0).round().tolist() == [7, 7]
    outputs.sum().backward()
    assert torch.equal(layer.layer.weight.grad, torch.ones_like(layer.layer.weight))


def test_integer_operators_read_rounded_values_and_fused_activations_are_rounded_once() -> None:
    graph = made().graph
    grids = {
        str(node.args[0]): graph.get_submodule(str(node.target))
        for node in graph.graph.nodes
        if str(node.target).endswith("_rounded")
    }
    ghost = ["ghost_0_primary_conv", "ghost_0_cheap_operation_conv", "ghost_1_part0", "cat"]
    assert list(grids) == [
        "images",
        "stem_2",
        *ghost,
        "add",
        "pool",
        "relu",
        "mean",
    ]  # stem_2 is the activation
    assert grids["pool"] is grids["add"]  # a maximum only moves values
    assert grids["relu"] is not grids["add"]


@pytest.mark.parametrize("name", TRAINED_TARGETS)
@pytest.mark.parametrize("bits", [usual_weight_bits(), 4])
def test_files_compute_what_the_network_computes(name: str, bits: int, tmp_path: Path) -> None:
    skip_without(name)
    model, path = made(bits), tmp_path / f"net{TARGETS[name].suffixes[0]}"
    report = quantize(model, name, path, images(), input_size=SIZE, limits=Limits(min_agreement=0))
    fresh = np.random.default_rng(1).standard_normal((64, *SIZE), dtype=np.float32)
    expected = model(torch.from_numpy(fresh)).detach().numpy()
    float_answers = model.reference(torch.from_numpy(fresh)).detach().numpy()
    found = load(path).predict(fresh)
    rounding = np.linalg.norm(float_answers - expected)
    # ONNX Runtime rounds biases too, which moves a value in a thousand by a step
    assert np.linalg.norm(found - expected) < {"onnx": 0.5, "openvino": 0.01}[name] * rounding
    step = float(model.graph.get_submodule("mean_rounded").grid()[0])
    reach = model.reference.classifier.weight.detach().abs().sum(1).numpy()
    assert (
        np.abs(found - expected) <= 2 * step * reach
    ).all()  # what the last layer reads is off by two steps at most
    assert (report.layers, report.float_layers) == (model.layers, [])
    manifest = load(path).manifest
    assert manifest is not None
    assert manifest.quantisation is not None
    assert manifest.quantisation["weight_bits"] == bits
    assert "nncf" not in manifest.versions  # no quantiser had a part in it


LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("ghostnet_050", "shufflenetv2_x0_5")]


@pytest.mark.parametrize("name", ["ghost_resnet20", *LARGE])
def test_networks_of_the_zoo_run_in_integers(name: str, tmp_path: Path) -> None:
    skip_without("onnx")
    import onnx
    import onnxruntime

    torch.manual_seed(0)
    size = (3, 32, 32)
    model = ghostnet.create_model(name, num_classes=10).eval()
    randomise_statistics_(model, size)
    rounded, path = fake_quantized(model, images(16, size), input_size=size), tmp_path / "net.onnx"
    report = quantize(
        rounded, "onnx", path, images(16, size), input_size=size, limits=Limits(min_agreement=0)
    )
    with torch.no_grad():
        wanted, found = (net(torch.from_numpy(images(16, size))) for net in (model, rounded))
    eager = float((found - wanted).norm() / wanted.norm())
    assert report.relative_error == pytest.approx(eager, rel=0.5)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    shortcuts = 2 * (name == "ghost_resnet20")  # that pad channels, see passes/onnx_places.py
    assert kinds["QLinearConv"] + kinds["QGemm"] == rounded.layers + shortcuts
    assert not {"Conv", "FusedConv", "Gemm", "Relu"} & set(kinds)


def test_training_lowers_the_loss_and_moves_the_ranges() -> None:
    model, data = made(weight_bits=3), torch.from_numpy(images())
    with torch.no_grad():
        wanted = model.reference(data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = []
    for _ in range(30):
        loss = F.mse_loss(model.train()(data), wanted)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
    assert losses[2] < losses[0]
    assert losses[-1] < 0.5 * losses[0]
    after = model.state_dict()
    followed = [name for name in after if name.endswith(("weight", "high")) and "images" not in name]
    assert len(followed) == 5 + 8  # layers, and grids but the images' own
    assert all(not torch.equal(after[name], before[name]) for name in followed)
    ranges = {name: value.clone() for name, value in after.items() if name.endswith(("low", "high"))}
    model.eval()(3 * data)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in ranges.items())


def test_the_original_is_untouched_and_no_part_of_the_state() -> None:
    original = network()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    model = fake_quantized(original, images(), input_size=SIZE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in model.reference.state_dict().items())
    assert not any("reference" in name for name in model.state_dict())


def test_unusable_requests_are_one_line(tmp_path: Path) -> None:
    skip_without("onnx")
    with pytest.raises(InputError, match=r"unknown target of int8 fine-tuning 'onx'; did you mean 'onnx'"):
        fake_quantized(network(), images(), target="onx", input_size=SIZE)
    with pytest.raises(InputError, match=r"weight_bits \(=1\) must be an integer from 2 to 8"):
        made(weight_bits=1)
    with pytest.raises(InputError, match=r"15 calibration images are too few"):
        fake_quantized(network(), images(15), input_size=SIZE)
    with pytest.raises(InputError, match=r"no convolution and no linear layer"):
        fake_quantized(nn.Sequential(nn.ReLU(), nn.Flatten()), images(), input_size=SIZE)
    with pytest.raises(InputError, match=r"cannot be followed, which"):
        fake_quantized(Branching(), images(), input_size=SIZE)
    model = made(weight_bits=2)
    with pytest.raises(InputError, match=r"fine-tuned for int8 cannot be written for litert"):
        quantize(model, "litert", tmp_path / "net.tflite", images(), input_size=SIZE)
    with pytest.raises(InputError, match=r"rewrites are chosen when `fake_quantized` makes the network"):
        quantize(model, "onnx", tmp_path / "net.onnx", images(), input_size=SIZE, passes=["head"])
    strict = Limits(min_agreement=0.9)
    with torch.no_grad():
        model.graph.get_submodule("classifier").layer.weight.neg_()
    with pytest.raises(InputError, match=r"costs too much even after fine-tuning .* fine-tune longer"):
        quantize(model, "onnx", tmp_path / "net.onnx", images(), input_size=SIZE, limits=strict)
    assert list(tmp_path.iterdir()) == []


class Branching(nn.Module):
    """Its way depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, maps: Tensor) -> Tensor:
        return self.conv(maps) if maps.sum() > 0 else self.conv(-maps)
