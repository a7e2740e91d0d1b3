"""Pruning through squeeze-excite: found in whatever way it is written, cut exactly, counted; or left alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import ghostnet
from ghostnet.convert import PRUNE_METHODS, find_units, prune
from ghostnet.convert.pruning.budget import Budget
from ghostnet.convert.pruning.cut import narrow_
from ghostnet.convert.pruning.job import PruneJob
from ghostnet.convert.pruning.reconstruct import prune_channel, prune_thinet
from ghostnet.convert.pruning.sites import PruneSite, find_sites
from ghostnet.models import create_outside


class Block(nn.Module):
    """Expansion, depthwise convolution, squeeze-excite as `scaled` writes it, projection."""

    def __init__(self, scaled: Callable[[nn.Module, Tensor], Tensor], *, effective: bool = False) -> None:
        super().__init__()
        self.expand, self.norm = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.squeeze = nn.Identity() if effective else nn.Conv2d(16, 4, 1)
        self.excite = nn.Conv2d(16 if effective else 4, 16, 1)
        self.project = nn.Conv2d(16, 5, 1)
        self.pool, self.single = nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 1, 1)
        self.scaled = scaled

    def factors(self, maps: Tensor) -> Tensor:
        return self.excite(F.relu(self.squeeze(maps.mean((2, 3), keepdim=True))))

    def forward(self, images: Tensor) -> Tensor:
        maps = F.hardswish(self.depthwise(F.relu(self.norm(self.expand(images)))))
        return self.project(self.scaled(self, maps))


def _hand_written(block: nn.Module, maps: Tensor) -> Tensor:
    return maps * (F.relu6(block.factors(maps) + 3.0) / 6.0)  # type: ignore[operator]


_FORMS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "by hand": _hand_written,
    "factors first": lambda block, maps: torch.sigmoid(block.factors(maps)) * maps,  # type: ignore[operator]
    "pooled by a module": lambda block, maps: maps.mul(
        F.hardsigmoid(block.excite(F.relu(block.squeeze(block.pool(maps)))))  # type: ignore[operator]
    ),
    "clipped": lambda block, maps: torch.mul(maps, block.factors(maps).clamp(0.0, 1.0)),  # type: ignore[operator]
}
_REFUSED: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "a sum of maps and of something else": lambda block, maps: maps * maps + 0 * block.factors(maps),  # type: ignore[operator]
    "factors of another order": lambda block, maps: maps * torch.sigmoid(block.factors(maps)).flip(1),  # type: ignore[operator]
    "a softmax over channels": lambda block, maps: maps * torch.softmax(block.factors(maps), 1),  # type: ignore[operator]
}


_REASONS = {
    "a sum of maps and of something else": "meet others in an addition",
    "factors of another order": "multiplied by what is not known",
    "a softmax over channels": "multiplied by what is not known",
}


def _random_(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.5)
            module.running_mean.uniform_(-0.3, 0.3)  # type: ignore[union-attr, operator]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr, operator]
    return model.eval()


def _without(model: nn.Module, site: PruneSite, gone: Tensor) -> nn.Module:
    """Return a network that reads none of a site's channels `gone`, all of its layers as they were."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for path, index in site.inputs.items():
            model.get_submodule(path).weight[:, torch.isin(index, gone)] = 0  # type: ignore[index, operator]
    return model


@pytest.mark.parametrize("form", _FORMS)
def test_channels_are_cut_from_the_gate_that_scales_them(form: str) -> None:
    model, images = _random_(Block(_FORMS[form])), torch.randn(2, 3, 8, 8)
    sites, reasons = find_sites(model, find_units(model))
    assert reasons["excite"] == "it scales the channels of expand, and loses them with it"
    found = {site.name: site for site in sites}
    site = found["expand"]
    assert (site.readers, site.gates, site.squeezes) == (("project",), ("excite",), ("squeeze",))
    assert site.followers.keys() == {"depthwise", "norm"}
    assert found["squeeze"].readers == ("excite",)
    kept = torch.tensor([0, 3, 4, 9, 15])
    gone = torch.tensor([index for index in range(16) if index not in kept])
    expected = _without(model, site, gone)(images)
    edits = narrow_(model, sites, {"expand": kept})
    assert {edit["path"] for edit in edits} == {"expand", "norm", "depthwise", "squeeze", "excite", "project"}
    torch.testing.assert_close(model(images), expected)


def test_factors_that_something_else_reads_are_cut_for_it_too() -> None:
    class Read(Block):
        def forward(self, images: Tensor) -> Tensor:
            maps = self.expand(images)
            factors = torch.sigmoid(self.factors(maps))
            return self.project(maps * factors) + self.single(factors)

    model, images = _random_(Read(_hand_written)), torch.randn(2, 3, 8, 8)
    sites, _ = find_sites(model, find_units(model))
    found = {site.name: site for site in sites}
    assert found["expand"].writers == ("expand", "excite")  # no gate alone: its own channels count, too
    assert found["expand"].readers == ("squeeze", "project", "single")
    kept = torch.tensor([1, 2, 3, 8])
    gone = torch.tensor([index for index in range(16) if index not in kept])
    expected = _without(model, found["expand"], gone)(images)
    narrow_(model, sites, {"expand": kept})
    torch.testing.assert_close(model(images), expected)


_BOTH_SIDES: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "of the means": lambda block, maps: maps * F.hardsigmoid(block.excite(maps.mean((2, 3), keepdim=True))),  # type: ignore[operator]
    "for each pixel": lambda block, maps: maps * torch.sigmoid(block.excite(maps)),  # type: ignore[operator]
}


@pytest.mark.parametrize("form", _BOTH_SIDES)
def test_a_gate_of_one_layer_is_cut_on_both_sides(form: str) -> None:
    model, images = _random_(Block(_BOTH_SIDES[form], effective=True)), torch.randn(2, 3, 8, 8)
    pruned, report = prune(model, "l1", macs=0.5, example_input=images)
    assert report.macs_after == ghostnet.profile(pruned, (3, 8, 8)).macs
    sites, _ = find_sites(model, find_units(model))
    assert (sites[0].gates, sites[0].squeezes) == (("excite",), ("excite",))
    kept = torch.arange(0, 16, 2)
    expected = _without(model, sites[0], kept + 1)(images)
    narrow_(model, sites, {"expand": kept})
    assert (model.excite.in_channels, model.excite.out_channels) == (8, 8)
    torch.testing.assert_close(model(images), expected)


def test_of_two_convolutions_that_scale_each_other_one_chooses() -> None:
    class Product(Block):
        def forward(self, images: Tensor) -> Tensor:
            return self.project(self.norm(self.expand(images) * torch.sigmoid(self.other(images))))

    model = Product(_hand_written)
    model.other = nn.Conv2d(3, 16, 1)
    images = torch.randn(2, 3, 8, 8)
    sites, reasons = find_sites(_random_(model), find_units(model))
    assert [(site.name, site.gates) for site in sites] == [("expand", ("other",))]
    assert reasons["other"] == "it scales the channels of expand, and loses them with it"
    pruned, report = prune(model, "l1", macs=0.5, example_input=images)
    assert pruned(images).shape == model(images).shape
    assert report.macs_after == ghostnet.profile(pruned, (3, 8, 8)).macs


@pytest.mark.parametrize("form", _REFUSED)
def test_what_is_no_factor_for_each_channel_is_left_alone(form: str) -> None:
    model = _random_(nn.Sequential(Block(_REFUSED[form]), nn.Conv2d(5, 6, 1), nn.Conv2d(6, 2, 1)))
    sites, reasons = find_sites(model, find_units(model))
    assert "0.expand" not in {site.name for site in sites}
    assert _REASONS[form] in reasons["0.expand"]


def test_a_gate_that_must_stay_keeps_the_maps() -> None:
    model = _random_(Block(_FORMS["by hand"]))
    nn.utils.parametrizations.weight_norm(model.excite)
    with pytest.raises(ghostnet.InputError, match="nothing in this Block can be pruned"):
        find_sites(model, find_units(model))


@pytest.mark.parametrize(
    ("name", "gates"),
    [
        ("timm:mobilenetv3_small_050", 9),
        ("torchvision:mobilenet_v3_small", 9),
        ("timm:efficientnet_b0", 16),
        ("timm:ese_vovnet19b_dw", 4),
    ],
)
def test_the_blocks_of_known_networks_are_places(name: str, gates: int) -> None:
    model = create_outside(name)
    sites, _ = find_sites(model, find_units(model, torch.zeros(1, 3, 64, 64)))
    gated = [site for site in sites if site.gates]
    assert len(gated) == gates
    for site in gated:
        assert model.get_submodule(site.gates[0]).out_channels == site.channels


def test_the_budget_counts_what_profile_counts() -> None:
    model = _random_(torchvision.models.mobilenet_v3_small(num_classes=10))
    example = torch.zeros(1, 3, 64, 64)
    sites, _ = find_sites(model, find_units(model, example))
    assert any(site.gates for site in sites)
    pruned, _ = prune(model, "l1", macs=0.5, example_input=example)
    counts = {site.name: pruned.get_submodule(site.name).out_channels for site in sites}
    counted = ghostnet.profile(pruned, (3, 64, 64)).macs
    # the two convolutions of a gate lose channels at two places each, rounded down one after the other
    assert Budget(model, sites, (3, 64, 64), 0.5).macs(counts) == pytest.approx(counted, abs=len(sites))


@pytest.mark.parametrize("method", list(PRUNE_METHODS))
def test_every_method_prunes_through_it_and_the_file_is_read_again(method: str, tmp_path: Path) -> None:
    model = _random_(timm.create_model("mobilenetv3_small_050", num_classes=10))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 48, 48, generator=generator)
    labels = torch.randint(0, 10, (8,), generator=generator)
    calibration = None if method == "l1" else [(images, labels)]

    def sparsify(network: nn.Module, after_step: Callable[[float], None]) -> None:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(network.train()(images), labels).backward()
            optimizer.step()
            after_step(0.1)

    pruned, report = prune(
        model, method, macs=0.7, calibration=calibration, example_input=images[:1], sparsify=sparsify
    )
    assert report.macs_ratio == pytest.approx(0.7, abs=0.01)
    excites = [
        m for name, m in pruned.named_modules() if name.endswith("conv_expand") and isinstance(m, nn.Conv2d)
    ]
    assert sum(m.out_channels for m in excites) < 0.9 * sum(
        m.out_channels for name, m in model.named_modules() if name.endswith("conv_expand")
    )
    ghostnet.save(pruned, tmp_path / "pruned.safetensors")
    torch.testing.assert_close(ghostnet.load(tmp_path / "pruned.safetensors")(images[:2]), pruned(images[:2]))


@pytest.mark.parametrize("choose", [prune_channel, prune_thinet])
def test_reconstruction_sees_the_gates_as_they_will_be(
    choose: Callable[[PruneJob], dict[str, Tensor]],
) -> None:
    """Layers behind are repaired on what the cut network gives them, with gates that read fewer maps."""
    block = Block(_FORMS["by hand"])
    model = _random_(nn.Sequential(block, nn.ReLU(), nn.Conv2d(5, 12, 1), nn.ReLU(), nn.Conv2d(12, 4, 1)))
    images = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    sites, _ = find_sites(model, find_units(model))
    budget = Budget(model, sites, (3, 8, 8), 0.5)
    job = PruneJob(model, copy.deepcopy(model), sites, budget, batches=[images])
    kept = choose(job)
    assert len(kept["0.expand"]) < 16
    with torch.no_grad():
        seen = job.pruned(images)
        narrow_(job.pruned, sites, kept)
        torch.testing.assert_close(job.pruned(images), seen)
