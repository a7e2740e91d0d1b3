"""`ghostify` on torchvision's classification zoo: shapes, MACs, gradients, doubled layers, save and load."""

from __future__ import annotations

import itertools
import subprocess
import sys
import warnings

import pytest
import torch
import torchvision.models
from torch import Tensor, nn

from ghostnet.convert import ghostify
from ghostnet.nn import GhostConv2d

# vit and swin are transformers whose only convolution cuts patches
ZOO = [
    name
    for name in torchvision.models.list_models(module=torchvision.models)
    if not name.startswith(("vit_", "swin_"))
]
# tens of seconds or gigabytes, and a smaller network of the family is there; the default run leaves them to `-m slow`
HEAVY = {
    *("convnext_base", "convnext_large", "convnext_small", "densenet161", "densenet169", "densenet201"),
    *("efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7", "efficientnet_v2_l"),
    *(
        "efficientnet_v2_m",
        "maxvit_t",
        "regnet_x_16gf",
        "efficientnet_v2_s",
        "efficientnet_b2",
        "efficientnet_b3",
    ),
    *("regnet_x_8gf", "regnet_y_8gf", "regnet_y_3_2gf", "regnet_x_3_2gf", "resnet101", "vgg19_bn"),
    *("regnet_x_32gf", "regnet_y_128gf", "regnet_y_16gf", "regnet_y_32gf", "resnet152", "resnext101_32x8d"),
    *("resnext101_64x4d", "vgg11", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19"),
    *("wide_resnet50_2", "wide_resnet101_2", "vgg11_bn"),
}
FORMS = ("linear", "ghostnet")
SIZES = {"inception_v3": 299, "alexnet": 80, "maxvit_t": 224}
ARGUMENTS = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = {"num_classes": 10, **ARGUMENTS.get(name, {})}
        model = torchvision.models.get_model(name, weights=None, **arguments)
    size = SIZES.get(name, 64)
    return model, torch.randn(2, 3, size, size)


def total(outputs: object) -> Tensor:
    """Sum whatever a network gives in train mode, auxiliary heads included."""
    tensors = [outputs] if isinstance(outputs, Tensor) else [item for item in outputs if item is not None]  # type: ignore[attr-defined]
    return sum((tensor.square().sum() for tensor in tensors), torch.zeros(()))


def assert_nothing_doubled(model: nn.Module) -> None:
    """A Ghost convolution with its own norm has no norm or dedicated activation left behind it."""
    children = [list(module.children()) for module in model.modules() if isinstance(module, nn.Sequential)]
    for line in children:
        for one, other in itertools.pairwise(line):
            if isinstance(one, GhostConv2d) and one.norm_name:
                assert not isinstance(other, nn.BatchNorm2d)
            if isinstance(one, GhostConv2d) and one.activation_name:
                assert not isinstance(other, (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish))
            assert not (isinstance(one, nn.BatchNorm2d) and isinstance(other, nn.BatchNorm2d))


def norms_on_the_way(model: nn.Module, image: Tensor) -> int:
    """Count batch-normalised maps in one forward pass."""
    counted = [0]
    handles = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):

            def count(_module: nn.Module, _inputs: object, output: Tensor) -> None:
                counted[0] += output.shape[1]

            handles.append(module.register_forward_hook(count))
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    return counted[0]


def check(name: str, form: str, folder) -> None:
    model, images = build(name)
    model.eval()
    shape = model(images[:1]).shape
    channels = norms_on_the_way(model, images[:1])
    ghost_model, report = ghostify(model, init="random", form=form, example_input=images)
    assert report.converted, name
    assert report.macs_after < report.macs_before
    assert ghost_model(images[:1]).shape == shape
    # as many normalised channels as before: none is normalised twice and none is left out
    assert norms_on_the_way(ghost_model, images[:1]) == channels
    assert_nothing_doubled(ghost_model)
    check_gradients(ghost_model, images)
    check_round_trip(ghost_model, name, images, folder)


def check_gradients(ghost_model: nn.Module, images: Tensor) -> None:
    ghost_model.train()
    for module in ghost_model.modules():
        if type(module).__name__ == "StochasticDepth":
            module.p = 0.0  # a dropped branch has no gradient in this one step
    total(ghost_model(images)).backward()
    without = [name for name, parameter in ghost_model.named_parameters() if parameter.grad is None]
    assert without == []
    ghost_model.eval()


def check_round_trip(ghost_model: nn.Module, name: str, images: Tensor, folder) -> None:
    import ghostnet

    arguments = {"num_classes": 10, **ARGUMENTS.get(name, {})}
    ghost_model.ghostnet_origin = {"library": "torchvision", "name": name, "args": arguments}
    ghostnet.save(ghost_model, folder / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = ghostnet.load(folder / "model.safetensors").eval()
    with torch.no_grad():
        assert torch.equal(again(images), ghost_model(images))
    ours, theirs = again.state_dict(), ghost_model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_the_zoo_is_large():
    assert len(ZOO) >= 60
    assert len(set(ZOO) - HEAVY) >= 30
    assert set(ZOO) >= HEAVY


LIGHT = [name for name in ZOO if name not in HEAVY]
# one form of each, in turns; `-m slow` runs the other
ONE_FORM = [(name, FORMS[place % 2]) for place, name in enumerate(LIGHT)]


@pytest.mark.parametrize(("name", "form"), ONE_FORM)
def test_architecture(name, form, tmp_path):
    check(name, form, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), [(name, FORMS[1 - FORMS.index(form)]) for name, form in ONE_FORM])
def test_architecture_in_the_other_form(name, form, tmp_path):
    check(name, form, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", sorted(HEAVY))
def test_heavy_architecture(name, form, tmp_path):
    check(name, form, tmp_path)


@pytest.mark.slow
def test_resnet50_converts_from_its_weights_within_minutes_and_gigabytes():
    """In a process of its own, whose peak memory counts: 6 GB, and 3 minutes of two cores, whoever else works there."""
    program = (
        "import re, time, torch, torchvision, ghostnet; torch.manual_seed(0);"
        "model = torchvision.models.resnet50(weights=None).eval();"
        "_, report = ghostnet.ghostify(model, calibration=torch.randn(256, 3, 64, 64));"
        "peak = int(re.search('VmHWM:.*?([0-9]+)', open('/proc/self/status').read())[1]) / 2**20;"
        "print(time.process_time(), peak, len(report.converted))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    seconds, gigabytes, converted = (float(part) for part in answer.stdout.split())
    assert converted == 52
    assert seconds < 2 * 180  # of the processor
    assert gigabytes < 6
