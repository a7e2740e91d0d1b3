"""Every function that looks into a network takes it out of `torch.compile`, and says what it cannot look into."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import ghostnet
from ghostnet import InputError
from ghostnet.convert import prune, sensitivity
from ghostnet.deploy import export, load, optimize
from ghostnet.measure.features import feature_maps, redundancy


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()


IMAGES = torch.rand(4, 3, 12, 12)
FUNCTIONS = {
    "ghostify": lambda model, _path: ghostnet.ghostify(model, init="random", example_input=IMAGES)[0],
    "prune": lambda model, _path: prune(model, "l1", macs=0.8, example_input=IMAGES)[0],
    "sensitivity": lambda model, _path: sensitivity(model, IMAGES),
    "optimize": lambda model, _path: optimize(model),
    "export": lambda model, path: export(model, "onnx", path, input_size=(3, 12, 12)),
    "save": lambda model, path: ghostnet.save(model, path.with_suffix(".safetensors")),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_torchscript_and_what_is_no_module_are_refused(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    for scripted in (torch.jit.script(small()), torch.jit.trace(small(), IMAGES)):
        with pytest.raises(InputError, match=rf"{name} needs the module as it was written, not TorchScript"):
            FUNCTIONS[name](scripted, tmp_path / "net.onnx")
    with pytest.raises(InputError, match=rf"{name} needs a torch.nn.Module, not str; build the model first"):
        FUNCTIONS[name]("resnet18", tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_layers_without_a_shape_are_refused(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyConv2d(4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    told = rf"{name} needs layers with a shape, and 1\.weight is lazy; run the model once on real input"
    with pytest.raises(InputError, match=told):
        FUNCTIONS[name](torch.compile(model), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
    model(IMAGES)
    FUNCTIONS[name](model.eval(), tmp_path / "net.onnx")


def test_a_network_saved_as_compiled_loads_as_it_was_written(tmp_path: Path) -> None:
    model = ghostnet.create_model("resnet20").eval()
    ghostnet.save(torch.compile(model), tmp_path / "net.safetensors")
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(ghostnet.load(tmp_path / "net.safetensors")(images), model(images))
    assert [layer.name for layer in ghostnet.profile(torch.compile(model), (3, 32, 32)).layers] == [
        layer.name for layer in ghostnet.profile(model, (3, 32, 32)).layers
    ]
    ghostnet.save(small(), tmp_path / "own.safetensors")
    with pytest.raises(InputError, match=r"load needs layers with a shape, and 0\.weight is lazy"):
        ghostnet.load(tmp_path / "own.safetensors", model=nn.Sequential(nn.LazyConv2d(8, 3)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_compiled_network_is_taken_as_it_was_written(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    made = FUNCTIONS[name](torch.compile(small()), tmp_path / "net.onnx")
    if isinstance(made, nn.Module):
        assert not any("_orig_mod" in path for path, _ in made.named_modules())
        assert made(IMAGES).shape == (4, 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_is_written_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = small().to(dtype)
    report = export(model, "onnx", tmp_path / "net.onnx", input_size=(3, 12, 12))
    assert report.relative_error < 1e-5
    assert next(model.parameters()).dtype == dtype
    answer = load(tmp_path / "net.onnx").predict(IMAGES.numpy())
    torch.testing.assert_close(torch.from_numpy(answer), model.float()(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ghostify", "prune", "sensitivity"])
def test_what_is_made_in_inference_mode_can_be_trained(name):
    with torch.inference_mode():
        images = torch.rand(4, 3, 12, 12)
        if name == "sensitivity":
            assert sensitivity(small(), images).layers
            return
        made = (
            ghostnet.ghostify(small(), calibration=images)[0]
            if name == "ghostify"
            else prune(small(), "taylor", macs=0.8, calibration=[(images, torch.tensor([0, 1, 2, 3]))])[0]
        )
    made(images.clone()).sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


class Counting(nn.Module):
    """Counts its forward passes, in a way that `torch.fx` does not follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = small()
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return self.layers(x) if x.sum() > -1e9 else x


@pytest.mark.parametrize(
    "look",
    [
        lambda model: ghostnet.ghostify(model, calibration=IMAGES),
        lambda model: ghostnet.profile(model, (3, 12, 12)),
        lambda model: redundancy(model, IMAGES),
    ],
    ids=["ghostify", "profile", "redundancy"],
)
def test_buffers_that_a_network_changes_as_it_runs_are_as_before(look):
    model = Counting()
    look(model)
    assert model.runs == 0


def test_layers_of_compiled_networks_have_their_own_names_in_scores_too():
    compiled = torch.compile(small(), backend="eager")
    assert [layer.name for layer in redundancy(compiled, IMAGES).layers] == ["0", "2"]
    assert feature_maps(compiled, "1", IMAGES).shape[1] == 8
