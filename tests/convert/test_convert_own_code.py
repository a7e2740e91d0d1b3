"""Networks as people write them: optional arguments, layers called in place, norms of other libraries, wrappers."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

import ghostnet
from ghostnet.convert import prune, sensitivity
from ghostnet.convert.batch_norm import reestimate_batch_norm_
from ghostnet.convert.graph import find_units, trace_graphs
from ghostnet.convert.layer_fit import FitOptions, LayerFit, ghost_sources
from ghostnet.convert.moments import white_map_windows, white_moments
from ghostnet.convert.observe import _Traced, observe
from ghostnet.errors import InputError
from ghostnet.measure.features import redundancy
from ghostnet.nn.ghost_conv import ghost_like

IMAGES = torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def _ghostable_(convolution: nn.Conv2d) -> None:
    """Give a convolution filters that are pairwise multiples, so that s = 2 loses nothing."""
    half = convolution.out_channels // 2
    with torch.no_grad():
        kept = convolution.weight[:half].clone()
        order = torch.randperm(2 * half, generator=torch.Generator().manual_seed(2))
        convolution.weight[:] = torch.cat([kept, 2 * kept])[order]
        if convolution.bias is not None:
            convolution.bias.zero_()


def _error(ghost: nn.Module, dense: nn.Module, images: Tensor = IMAGES) -> float:
    with torch.no_grad():
        found, wanted = ghost(images).double(), dense(images).double()
    return float((found - wanted).square().sum() / wanted.square().sum())


class _Optional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c1, self.c2, self.fc = (
            nn.Conv2d(3, 16, 3, padding=1),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.Linear(16, 5),
        )
        _ghostable_(self.c2)

    def forward(
        self, x: Tensor, skip: Tensor | None = None, *, scale: float | None = None, flip: bool = False
    ):
        x = self.c1(x).relu()
        x = self.c2(x)
        if skip is None:  # mixes halves: a channel order must not be absorbed past it
            x = torch.cat([x[:, 8:], x[:, :8]], 1)
        if scale is not None:
            x = x * scale
        if flip:
            x = x.flip(3)
        return self.fc(x.mean((2, 3)))


def test_arguments_with_a_default_are_traced_at_it() -> None:
    dense = _Optional().eval()
    graphs = trace_graphs(dense)
    assert len(graphs) == 2
    for graph in graphs:
        assert [node.op for node in graph.nodes].count("placeholder") == 1
        assert not any("assert" in str(node.target) for node in graph.nodes)
    ghost, report = ghostnet.ghostify(dense, calibration=IMAGES)
    assert report.converted == ["c2"]
    assert _error(ghost, dense) < 1e-6
    from ghostnet import deploy

    for target in ("onnx", "openvino"):
        assert _error(deploy.optimize(ghost, target=target, input_size=(3, 12, 12)), dense) < 1e-6


def test_a_forward_that_needs_two_inputs_is_not_traced() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    assert trace_graphs(Two()) == []


class _SameConv(nn.Conv2d):
    """Pads by what its input's size leaves over, as networks that come from TensorFlow do."""

    def forward(self, input: Tensor) -> Tensor:
        missing = [max((-(-side // 2) - 1) * 2 + 3 - side, 0) for side in input.shape[-2:]]
        return super().forward(F.pad(input, (missing[1] // 2, -(-missing[1] // 2), 0, missing[0])))


class _SamePool(nn.Module):
    """Has no layers of its own, and code that no proxy can run."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2) if int(x.shape[-1]) % 2 == 0 else x


def test_layers_that_read_the_size_of_their_input_are_kept_whole() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), _SameConv(16, 16, 3, stride=2, groups=16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 1), nn.ReLU(), _SamePool(), nn.Conv2d(16, 8, 3), nn.Flatten()),
    ).eval()
    for name in ("0", "4", "7"):
        _ghostable_(dense.get_submodule(name))
    assert len(trace_graphs(dense)) == 2
    assert isinstance(observe(dense, dense, [IMAGES]), _Traced)
    ghost, report = ghostnet.ghostify(dense, layers=["0", "4", "7"], calibration=IMAGES)
    assert report.converted == ["0", "4", "7"]
    assert _error(ghost, dense) < 1e-6


class _Shortcut(nn.Module):
    def __init__(self, inplace: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c1, self.c2, self.c3 = (nn.Conv2d(n, 16, 3, padding=1) for n in (3, 16, 16))
        self.b2, self.relu = nn.BatchNorm2d(16), nn.ReLU(inplace=inplace)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c1(x)
        y = self.b2(self.c2(x))
        y = y + self.relu(x)
        return self.c3(y).relu().mean((2, 3))


def test_an_activation_in_place_on_the_shortcut_does_not_change_the_fit() -> None:
    errors = []
    for inplace in (False, True):
        dense = _Shortcut(inplace).eval()
        ghost, _ = ghostnet.ghostify(dense, calibration=IMAGES)
        errors.append(_error(ghost, dense))
    assert errors[1] == pytest.approx(errors[0], rel=1e-3)


@pytest.mark.parametrize("kind", [nn.SyncBatchNorm, BatchNormAct2d])
def test_other_batch_norms_serve_as_well(kind: type) -> None:
    def network(norm: nn.Module, after: nn.Module) -> nn.Module:
        torch.manual_seed(0)
        layers = [
            nn.Conv2d(3, 16, 3),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, bias=False),
            norm,
            after,
            nn.Conv2d(16, 8, 3),
        ]
        model = nn.Sequential(*layers).train()
        for parameter in norm.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        return model.eval()

    plain = network(nn.BatchNorm2d(16), nn.ReLU())
    other = network(kind(16), nn.Identity() if kind is BatchNormAct2d else nn.ReLU())
    other.load_state_dict(plain.state_dict(), strict=False)
    assert find_units(other)[1].norm == "3"
    ghosts = [ghostnet.ghostify(model, calibration=IMAGES, layers=["2"])[0] for model in (plain, other)]
    assert _error(ghosts[1], ghosts[0]) < 1e-9
    assert ghosts[1][2].channel_order is None  # absorbed into the norm and its reader
    _, report = ghostnet.ghostify(other, init="random", form="ghostnet", layers=["2"])
    assert f"linear form: {kind.__name__} after it cannot move" in str(report)


def test_layers_too_large_for_their_patches_are_matched_without_images() -> None:
    dense = nn.Sequential(nn.Conv2d(3, 72, 1), nn.ReLU(), nn.Conv2d(72, 16, 3, padding=1)).eval()
    _ghostable_(dense[2])
    ghost, _ = ghostnet.ghostify(dense)
    assert _error(ghost, dense) < 1e-9


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "size"), [(3, 1, 1, 3), (3, 2, 1, 3), (3, 1, 2, 5), (1, 1, 1, 3)]
)
def test_windows_of_maps_for_white_inputs(kernel: int, stride: int, dilation: int, size: int) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(4, 6, kernel, stride=stride, dilation=dilation)
    whole, maps = white_moments(convolution, size), white_map_windows(convolution, size)
    windows, against = whole.windows(convolution.weight.detach().flatten(1).double())
    torch.testing.assert_close(maps.windows, windows, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(maps.against, against, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(maps.target_power, whole.target_power, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_sources_of_many_maps_in_a_coarse_type() -> None:
    convolution = nn.Conv2d(4, 1200, 1)
    wanted = ghost_sources(ghost_like(convolution, {"ratio": 2}))
    assert torch.equal(wanted, torch.arange(600))
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(ghost_sources(ghost_like(convolution.to(dtype), {"ratio": 2})), wanted)


class _Elsewhere(Tensor):
    """Stands for a tensor on a GPU, of which there is none here: only what `cpu` gives is an ordinary one."""

    def cpu(self) -> Tensor:
        return self.as_subclass(Tensor)


@torch.no_grad()
def test_a_layer_is_fitted_on_the_cpu_wherever_its_maps_lie() -> None:
    convolution = nn.Conv2d(8, 16, 3)
    pairs = [
        (torch.randn(2, 8, 8, 8).as_subclass(_Elsewhere), torch.randn(2, 16, 6, 6).as_subclass(_Elsewhere))
    ]
    fitted = LayerFit(convolution, ghost_like(convolution, {"ratio": 2}), None, pairs, FitOptions())
    assert {type(tensor) for pair in fitted.pairs or () for tensor in pair} == {Tensor}


def test_a_ghost_network_inside_another_module_is_saved(tmp_path: Path) -> None:
    class Classifier(nn.Module):
        def __init__(self, backbone: nn.Module) -> None:
            super().__init__()
            self.backbone, self.neck, self.fc = backbone, nn.Conv2d(16, 8, 3), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.neck(self.backbone(x)).mean((2, 3)))

    def dense() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))

    ghost, _ = ghostnet.ghostify(dense(), calibration=IMAGES)
    once = Classifier(ghost).eval()
    twice, report = ghostnet.ghostify(once, calibration=IMAGES, layers=["neck"])
    assert report.converted == ["neck"]
    for number, model in enumerate((once, twice)):
        ghostnet.save(model, tmp_path / f"{number}.safetensors")
        loaded = ghostnet.load(tmp_path / f"{number}.safetensors", model=Classifier(dense()))
        assert torch.equal(loaded(IMAGES), model(IMAGES))


def test_a_library_network_with_a_ghosted_stage_is_rebuilt(tmp_path: Path) -> None:
    model = torchvision.models.resnet18(weights=None).eval()
    model.layer1, _ = ghostnet.ghostify(model.layer1, init="random", layers="all")
    ghostnet.save(model, tmp_path / "net.safetensors")
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(ghostnet.load(tmp_path / "net.safetensors")(images), model(images))


def test_half_precision_leaves_out_what_it_cannot_hold(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    model[1].running_var.fill_(1e6)
    ghostnet.save(model, tmp_path / "net.safetensors", half=True)
    fresh = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    loaded = ghostnet.load(tmp_path / "net.safetensors", model=fresh)
    assert torch.equal(loaded[1].running_var, model[1].running_var)
    torch.testing.assert_close(loaded(IMAGES), model(IMAGES), rtol=1e-2, atol=1e-4)


class _Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] < 4:
            raise ValueError("too small")
        return self.c2(input=self.c1(x).relu())


def test_convolutions_may_be_called_by_keyword() -> None:
    dense = _Untraceable().eval()
    ghost, report = ghostnet.ghostify(dense, calibration=IMAGES)
    assert report.converted == ["c2"]
    assert _error(ghost, dense) < 0.9


def test_whatever_a_forward_raises_is_one_line() -> None:
    for function in (
        lambda: ghostnet.ghostify(_Untraceable(), calibration=IMAGES[..., :3]),
        lambda: sensitivity(_Untraceable(), IMAGES[..., :3]),
    ):
        with pytest.raises(InputError, match=r"does not run on `calibration` .*: too small"):
            function()
    with pytest.raises(
        InputError, match=r"`calibration` has 1 channels, but the first convolution \(c1\) takes 3"
    ):
        ghostnet.ghostify(_Untraceable(), calibration=[IMAGES, IMAGES[:, :1]])
    with torch.device("meta"):
        empty = _Untraceable()
    for function in (ghostnet.ghostify, lambda model: ghostnet.save(model, "x.safetensors")):
        with pytest.raises(InputError, match=r"needs weights, and c1\.weight has none \(device meta\)"):
            function(empty)


class _Extra(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"a": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


def test_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0\._extra_state is a dict, not a tensor"):
        ghostnet.save(nn.Sequential(_Extra(2, 2)), tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_sensitivity_needs_answers_and_takes_any_iterable(tmp_path: Path) -> None:
    class Answer:
        logits: Tensor

    class Odd(nn.Sequential):
        def forward(self, input: Tensor) -> Answer:
            answer = Answer()
            answer.logits = super().forward(input)
            return answer

    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match="the network gives none that is a tensor of floats"):
        sensitivity(Odd(*layers), IMAGES)
    found = sensitivity(nn.Sequential(*layers), IMAGES, ratios=(2, 4), layers=(name for name in ["2"]))
    assert sorted(found.layers[0].costs) == [2, 4]
    with pytest.raises(InputError, match="is a folder; name a file for the costs"):
        sensitivity(nn.Sequential(*layers), IMAGES, file=tmp_path)


def test_pruning_takes_numpy_and_says_what_labels_do_not_fit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    labels = np.arange(16) % 5
    for method, given in (("channel", IMAGES.numpy()), ("taylor", [(IMAGES.numpy(), labels)])):
        with torch.no_grad():
            pruned, _ = prune(model, method, macs=0.7, calibration=given)
        assert pruned(IMAGES).shape == (16, 5)
    with pytest.raises(InputError, match="labels from 0 to 7; the network has 5 classes"):
        prune(model, "taylor", macs=0.7, calibration=[(IMAGES, torch.arange(16) % 8)])
    with pytest.raises(InputError, match=r"needs a network that answers logits \(N, classes\), not shape"):
        prune(model[:4], "taylor", macs=0.7, calibration=[(IMAGES, torch.arange(16) % 5)])


def test_functional_in_place_calls_ahead_of_their_turn() -> None:
    class Net(_Shortcut):
        def forward(self, x: Tensor) -> Tensor:
            x = self.c1(x)
            y = self.b2(self.c2(x))
            y = y + F.relu(x, inplace=True)
            return self.c3(y).relu().mean((2, 3))

    errors = [
        _error(ghostnet.ghostify(dense, calibration=IMAGES)[0], dense)
        for dense in (_Shortcut(False).eval(), Net(False).eval())
    ]
    assert errors[1] == pytest.approx(errors[0], rel=1e-3)


class ShiftsItsImages(nn.Module):
    def __init__(self, *, traceable: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        )
        self.head = nn.Linear(8, 4)
        self.traceable = traceable

    def forward(self, images: Tensor) -> Tensor:
        if not self.traceable and images.sum() > 1e9:
            return images
        images.sub_(0.5).mul_(2.0)
        return self.head(self.body(images).mean((2, 3)))


@pytest.mark.parametrize("traceable", [True, False])
def test_images_are_left_as_they_are(traceable: bool) -> None:
    torch.manual_seed(0)
    model = ShiftsItsImages(traceable=traceable).eval()
    images = torch.rand(8, 3, 12, 12)
    given = images.clone()
    labelled = [(images, torch.arange(8) % 4)]
    _, report = ghostnet.ghostify(model, layers=["body.2"], calibration=images, example_input=images)
    reestimate_batch_norm_(copy.deepcopy(model), [images])
    sensitivity(model, images)
    if traceable:
        prune(model, "taylor", macs=0.8, calibration=labelled)
        prune(model, "channel", macs=0.8, calibration=images)
    redundancy(model, images)
    assert torch.equal(images, given)
    plain = nn.Sequential(copy.deepcopy(model.body), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.head).eval()
    _, wanted = ghostnet.ghostify(plain, layers=["0.2"], calibration=(given - 0.5) * 2)
    found, expected = (one.layers[1].reconstruction_error for one in (report, wanted))
    assert found == pytest.approx(expected, rel=1e-4)


class _AsksForAttributes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))

    def forward(self, images: Any) -> Tensor:
        return self.body(images.tensors)


def test_a_forward_that_takes_no_plain_tensor_is_converted_without_a_count() -> None:
    ghost, report = ghostnet.ghostify(_AsksForAttributes())
    assert report.converted == ["body.1"]
    assert report.macs_before is None
    assert ghost(SimpleNamespace(tensors=torch.zeros(1, 3, 9, 9))).shape == (1, 8, 5, 5)
    with pytest.raises(InputError, match=r"the model does not run with input_size .*: .*tensors"):
        ghostnet.profile(_AsksForAttributes())
    with pytest.raises(InputError, match=r"the network does not run on images .*: .*tensors"):
        redundancy(_AsksForAttributes(), torch.zeros(1, 3, 9, 9))
