"""Pruning where channels meet: concatenations, halves, several readers, streams; cut exactly, or left alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import ghostnet
from ghostnet.convert import PRUNE_METHODS, find_units, prune
from ghostnet.convert.pruning.budget import Budget
from ghostnet.convert.pruning.cut import narrow_
from ghostnet.convert.pruning.gates import fold_gates_, insert_gates_
from ghostnet.convert.pruning.prune import draft
from ghostnet.convert.pruning.sites import PruneSite, find_sites
from ghostnet.errors import InputError
from ghostnet.models import create_outside

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """Three convolutions that a function brings together, and a head behind it."""

    def __init__(self, meet: Callable[[Network, Tensor], Tensor], wide: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.third = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(3, 8, 1)
        self.inner, self.single = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 1, 1)
        self.meet, self.factors = meet, nn.Parameter(torch.rand(8, 1, 1))
        self.last, self.head = nn.Conv2d(wide, 6, 1), nn.Linear(6, 5)
        for norm in (self.norm,):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.last(self.meet(self, images))).mean((2, 3)))


def _ends(net: Network, images: Tensor) -> tuple[Tensor, Tensor]:
    maps = torch.relu(net.norm(net.first(images)))
    return maps, torch.relu(net.second(maps))


def _dense(net: Network, images: Tensor) -> Tensor:
    one, other = _ends(net, images)
    return torch.cat([one, other, net.third(images)], dim=1)


def _chunked(net: Network, images: Tensor) -> Tensor:
    """The way of YOLO's C2f."""
    parts = list(_ends(net, images)[0].chunk(2, 1))
    parts.append(net.inner(parts[-1]))
    return torch.cat(parts, 1)


def _added(net: Network, images: Tensor) -> Tensor:
    one, other = _ends(net, images)
    return one + other


def _reparametrised(net: Network, images: Tensor) -> Tensor:
    """The way of RepVGG: two convolutions of the same maps are added, and a number first."""
    return torch.relu(0.5 + (net.first(images) + net.third(images)))


def _attended(net: Network, images: Tensor) -> Tensor:
    """One factor for all channels of a pixel."""
    maps = torch.relu(net.norm(net.first(images)))
    return net.second(maps * torch.sigmoid(net.single(maps)))


def _ghost(net: Network, images: Tensor) -> Tensor:
    """The way of GhostNet's code: as many of the maps and of what is made of each as there are to be."""
    maps = torch.relu(net.norm(net.first(images)))
    return torch.cat([maps, maps.abs() * 0.5], dim=1)[:, :16, :, :]


def _read_twice(net: Network, images: Tensor) -> Tensor:
    other = _ends(net, images)[1]
    return other * torch.sigmoid(net.third(images)) + other


# what comes together there, the width of it, and the convolutions that lose channels, with streams or without
_FORMS: dict[str, tuple[Callable[[Network, Tensor], Tensor], int, set[str], set[str]]] = {
    "concatenation": (_dense, 24, {"first", "second", "third"}, {"first", "second", "third"}),
    "halves": (_chunked, 12, {"first", "inner"}, {"first", "inner"}),
    "addition": (_added, 8, set(), {"first", "second"}),
    "two branches": (_reparametrised, 8, set(), {"first", "third"}),
    "attention": (_attended, 8, {"first", "second"}, {"first", "second"}),
    "ghosts": (_ghost, 16, {"first"}, {"first"}),
    "product and sum": (_read_twice, 8, {"first", "second", "third"}, {"first", "second", "third"}),
}


def _chosen(sites: list[PruneSite], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for site in sites:
        count = max(1, int(site.channels * (0.3 + 0.5 * float(torch.rand(1, generator=generator)))))
        kept[site.name] = torch.randperm(site.channels, generator=generator)[:count].sort().values
    return kept


def _unread(model: nn.Module, sites: list[PruneSite], kept: dict[str, Tensor]) -> nn.Module:
    """Return the whole network, with zeros where a layer would read what goes."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for site in sites:
            for path, index in site.inputs.items():
                gone = (index >= 0) & ~torch.isin(index, kept[site.name])
                layer = model.get_submodule(path)
                if isinstance(layer, nn.ConvTranspose2d):  # (inputs, outputs, k, k)
                    layer.weight[gone] = 0
                else:
                    layer.weight[:, gone] = 0  # type: ignore[index, operator]
    return model


def _check_exact(model: nn.Module, images: Tensor, *, streams: bool) -> set[str]:
    """Cut at random, compare outputs and counts, and return the convolutions that lost channels."""
    sites, reasons = find_sites(model, find_units(model, images), images, streams=streams)
    kept = _chosen(sites)
    cut = copy.deepcopy(model)
    narrow_(cut, sites, kept)
    with torch.no_grad():
        expected, found = _unread(model, sites, kept)(images), cut(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    size = tuple(images.shape[1:])
    budget = Budget(model, sites, size, 0.99)
    assert budget.macs({name: len(stays) for name, stays in kept.items()}) == ghostnet.profile(cut, size).macs
    writers = {path for site in sites for path in site.writers}
    assert not writers & reasons.keys()
    return {path for site in sites for path in site.outputs}


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("form", _FORMS)
def test_what_meets_is_cut_exactly(form: str, streams: bool) -> None:
    meet, wide, alone, together = _FORMS[form]
    model = Network(meet, wide)
    assert _check_exact(model, IMAGES, streams=streams) == {"last"} | (together if streams else alone)


_LEFT_ALONE: dict[str, tuple[Callable[[Network, Tensor], Tensor], int, str]] = {
    "split at a number": (lambda net, x: torch.cat(net.first(x).split([4, 4], 1), 1), 8, "split"),
    "a slice": (lambda net, x: net.first(x)[:, :4], 4, "getitem"),
    "every second one": (lambda net, x: net.first(x)[:, ::2], 4, "getitem"),
    "the other way round": (lambda net, x: net.first(x)[:, [7, 6, 5, 4, 3, 2, 1, 0]], 8, "getitem"),
    "all but the first rows": (lambda net, x: net.first(x)[:, :, 1:], 8, "getitem"),
    "thirds": (lambda net, x: torch.cat(net.first(x).chunk(3, 1), 1), 8, "chunk"),
    "chunks of pixels": (lambda net, x: net.first(x).chunk(2, 2)[0], 8, "chunk"),
    "a concatenation of images": (lambda net, x: torch.cat([net.first(x), net.first(x)]), 8, "cat"),
    "counted channels": (lambda net, x: net.first(x) * net.first(x).shape[1], 8, "counts its channels"),
    "counted by a method": (lambda net, x: (y := net.first(x)) * y.size(1), 8, "counts its channels"),
    "a parameter": (lambda net, x: net.first(x) * net.factors, 8, "multiplied by what is not known"),
    "bounds for each": (lambda net, x: net.first(x).clamp(min=net.factors), 8, "clamp"),
    "bounds for each, by a function": (lambda net, x: torch.clamp(net.first(x), net.factors), 8, "clamp"),
    "shuffled": (
        lambda net, x: torch.nn.functional.channel_shuffle(net.first(x), 2),
        8,
        "channel_shuffle",
    ),
}


@pytest.mark.parametrize("form", _LEFT_ALONE)
def test_what_is_not_kept_apart_stays(form: str) -> None:
    meet, wide, reason = _LEFT_ALONE[form]
    model = Network(meet, wide)
    sites, reasons = find_sites(model, find_units(model, IMAGES), IMAGES, streams=True)
    assert {path for site in sites for path in site.outputs} == {"last"}
    assert reason in reasons["first"] or "2 times" in reasons["first"]


def test_sizes_of_images_are_no_channels() -> None:
    def meet(net: Network, images: Tensor) -> Tensor:
        maps, other = net.first(images), net.third(images)
        height = other.shape[-2:]
        return torch.cat([nn.functional.interpolate(maps, size=height), other], 1)

    model = Network(meet, 16)
    assert _check_exact(model, IMAGES, streams=False) == {"first", "third", "last"}


def test_halves_lose_the_same() -> None:
    model = Network(_chunked, 12)
    pruned, report = prune(model, "l1", macs=0.5, example_input=IMAGES)
    assert pruned.first.out_channels == 2 * pruned.inner.in_channels
    assert pruned.last.in_channels == pruned.first.out_channels + pruned.inner.out_channels
    notes = {layer.name: layer.reason for layer in report.layers}
    assert notes["first"] == f"8 -> {pruned.first.out_channels} channels"


def test_a_stream_loses_what_is_weakest_in_all_its_layers() -> None:
    model = Network(_added)
    weights = torch.tensor([1.0, 9, 1, 9, 9, 1, 9, 1])
    with torch.no_grad():
        for layer, other in ((model.first, torch.ones(8)), (model.second, weights)):
            layer.weight.fill_(0.01).mul_(other[:, None, None, None])
    pruned, report = prune(model, "l1", macs=0.5, example_input=IMAGES, streams=True)
    stays = pruned.first.out_channels
    assert stays == pruned.second.out_channels == pruned.second.in_channels == pruned.norm.num_features < 8
    norms = pruned.second.weight.abs().amax((1, 2, 3))
    assert norms.sort(descending=True).values[: min(4, stays)].tolist() == pytest.approx(
        [0.09] * min(4, stays)
    )
    assert report.settings["streams"] is True


@pytest.mark.parametrize("method", ["channel", "thinet"])
def test_methods_that_repair_a_layer_leave_streams_and_groups_alone(method: str) -> None:
    model = Network(_chunked, 12)
    pruned, report = prune(model, method, macs=0.96, calibration=IMAGES)
    notes = {layer.name: layer.reason for layer in report.layers}
    assert notes["first"] == f"method {method!r} keeps it: 3 layers read it"
    assert (
        notes["inner"]
        == f"method {method!r} keeps it: last reads them beside others, or several of them as one"
    )
    assert (pruned.first.out_channels, pruned.last.out_channels < 6) == (8, True)
    with pytest.raises(InputError, match="leaves streams alone; use 'l1', 'taylor' or 'sss'"):
        prune(model, method, macs=0.96, calibration=IMAGES, streams=True)


@pytest.mark.parametrize("form", ["addition", "halves"])
def test_gates_of_layers_that_go_together_are_one(form: str) -> None:
    meet, wide, _, _ = _FORMS[form]
    model = Network(meet, wide)
    sites, _ = find_sites(model, find_units(model, IMAGES), IMAGES, streams=True)
    gated = copy.deepcopy(model)
    gates = insert_gates_(gated, sites)
    with torch.no_grad():
        torch.testing.assert_close(gated(IMAGES), model(IMAGES))
        for gate in gates.values():
            gate.scale.uniform_(0.2, 2.0)
        scaled = gated(IMAGES)
        assert not torch.allclose(scaled, model(IMAGES), atol=1e-4)
        torch.testing.assert_close(fold_gates_(gated, sites)(IMAGES), scaled, atol=1e-5, rtol=1e-4)
    assert list(gated.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("method", ["l1", "sss", "taylor"])
@pytest.mark.parametrize("form", ["addition", "halves", "concatenation"])
def test_methods_reach_the_share(form: str, method: str) -> None:
    meet, wide, _, _ = _FORMS[form]
    model = Network(meet, wide)
    labels = torch.arange(4)

    def sparsify(network: nn.Module, after_step: Callable[[float], None]) -> None:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network.train()(IMAGES), labels).backward()
            optimizer.step()
            after_step(0.1)

    pruned, report = prune(
        model,
        method,
        macs=0.7,
        calibration=[(IMAGES, labels)],
        sparsify=sparsify,
        example_input=IMAGES,
        streams=True,
    )
    assert report.macs_ratio == pytest.approx(0.7, abs=0.06)  # eight channels are coarse
    assert report.converted
    assert pruned(IMAGES).shape == (4, 5)


def test_a_file_of_a_network_with_narrower_streams_is_read_again(tmp_path: Path) -> None:
    model = create_outside("torchvision:resnet18")
    pruned, _ = prune(model, "l1", macs=0.3, example_input=torch.zeros(1, 3, 64, 64), streams=True)
    assert pruned.fc.in_features < 512
    ghostnet.save(pruned, tmp_path / "pruned.safetensors")
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(ghostnet.load(tmp_path / "pruned.safetensors").eval()(images), pruned.eval()(images))


_KNOWN: list[tuple[str, Callable[[], nn.Module], int, int, int]] = [
    ("densenet121", lambda: torchvision.models.densenet121(num_classes=10), 120, 120, 120),
    ("squeezenet", lambda: torchvision.models.squeezenet1_1(num_classes=10), 25, 25, 26),
    ("resnet18", lambda: torchvision.models.resnet18(num_classes=10), 8, 20, 20),
    ("efficientnet_b0", lambda: torchvision.models.efficientnet_b0(num_classes=10), 51, 65, 81),
    ("selecsls42", lambda: timm.create_model("selecsls42", num_classes=10), 41, 41, 41),
    ("resnext50", lambda: torchvision.models.resnext50_32x4d(num_classes=10), 17, 37, 53),
    ("regnet_y_400mf", lambda: torchvision.models.regnet_y_400mf(num_classes=10), 49, 69, 85),
    ("dla34", lambda: timm.create_model("dla34", num_classes=10), 19, 37, 38),
]
_SLOW = {"selecsls42", "regnet_y_400mf", "dla34"}


@pytest.mark.parametrize(
    ("build", "alone", "together", "of"),
    [
        pytest.param(*entry[1:], id=entry[0], marks=pytest.mark.slow if entry[0] in _SLOW else ())
        for entry in _KNOWN
    ],
)
def test_known_networks_are_cut_exactly(
    build: Callable[[], nn.Module], alone: int, together: int, of: int
) -> None:
    torch.manual_seed(0)
    model = build().eval()
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.3, 0.5)
    images = torch.rand(1, 3, 64, 64)
    assert len(find_units(model, images)) == of
    assert len(_check_exact(model, images, streams=False)) == alone
    assert len(_check_exact(model, images, streams=True)) == together


def test_layers_with_a_value_for_each_channel_are_cut_with_them() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.PReLU(8),
        nn.InstanceNorm2d(8, affine=True),
        nn.Conv2d(8, 8, 3),
        nn.InstanceNorm2d(8),
        nn.PReLU(),
        nn.Conv2d(8, 4, 1),
    ).eval()
    nn.init.uniform_(model[1].weight, 0.1, 0.9)
    nn.init.uniform_(model[2].weight, 0.5, 1.5)
    assert _check_exact(model, IMAGES, streams=False) == {"0", "3"}
    pruned, _ = prune(model, "l1", macs=0.4, example_input=IMAGES)
    assert pruned[1].num_parameters == pruned[2].num_features == pruned[3].in_channels < 8
    assert pruned[4].num_features == pruned[6].in_channels


def test_groups_go_whole_and_the_file_is_read_again(tmp_path: Path) -> None:
    model = create_outside("torchvision:regnet_x_400mf")
    images = torch.rand(2, 3, 64, 64)
    pruned, report = prune(model, "l1", macs=0.5, example_input=images, multiple=8)
    grouped = [module for module in pruned.modules() if isinstance(module, nn.Conv2d) and module.groups > 1]
    assert {module.in_channels // module.groups for module in grouped} == {16}
    assert {module.in_channels % 16 for module in grouped} == {0}
    assert sum(module.groups for module in grouped) < sum(
        module.groups for module in model.modules() if isinstance(module, nn.Conv2d) and module.groups > 1
    )
    assert report.macs_ratio == pytest.approx(0.5, abs=0.02)
    ghostnet.save(pruned, tmp_path / "pruned.safetensors")
    assert torch.equal(ghostnet.load(tmp_path / "pruned.safetensors").eval()(images), pruned.eval()(images))


class Ladder(nn.Module):
    """A step down, and up again by a transposed convolution, whose maps join those of the shortcut (U-Net)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shortcut, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.up, self.norm = nn.ConvTranspose2d(12, 8, 2, stride=2), nn.BatchNorm2d(8)
        self.last = nn.Conv2d(16, 4, 1)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        skip = torch.relu(self.shortcut(images))
        return self.last(torch.cat([skip, self.norm(self.up(torch.relu(self.down(skip))))], 1))


def test_transposed_convolutions_are_cut_on_both_sides() -> None:
    model = Ladder()
    assert _check_exact(model, IMAGES, streams=False) == {"shortcut", "down", "up"}
    pruned, report = prune(model, "l1", macs=0.5, example_input=IMAGES)
    assert pruned.up.in_channels == pruned.down.out_channels < 12
    assert pruned.up.out_channels == pruned.norm.num_features < 8
    assert report.macs_ratio == pytest.approx(0.5, abs=0.05)
    sites, _ = find_sites(model, find_units(model, IMAGES), IMAGES)
    gated = copy.deepcopy(model)
    gates = insert_gates_(gated, sites)
    with torch.no_grad():
        for gate in gates.values():
            gate.scale.uniform_(0.5, 1.5)
        scaled = gated(IMAGES)
        torch.testing.assert_close(fold_gates_(gated, sites)(IMAGES), scaled, atol=1e-5, rtol=1e-4)
    assert {site.name: site.kept_whole for site in sites}["down"] == "up is a transposed convolution"


@pytest.mark.parametrize("way", ["hook", "weight norm", "own forward"])
def test_transposed_convolutions_that_do_more_stay(way: str) -> None:
    model = Ladder()
    if way == "hook":
        model.up.register_forward_hook(lambda *_: None)
    elif way == "weight norm":
        nn.utils.parametrizations.weight_norm(model.up)
    else:
        model.up.forward = lambda maps: maps[:, :8]
    sites, reasons = find_sites(model, find_units(model, IMAGES), IMAGES)
    assert {path for site in sites for path in site.outputs} == {"shortcut"}
    assert "up" in reasons["down"]


class Counts(nn.Module):
    """Decides by a number of channels where no graph shows it."""

    def __init__(self, *, fails: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.fails = fails

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(images)
        if maps.shape[1] != 8:
            if self.fails:
                raise ValueError("eight maps, please")
            maps = -maps
        return self.second(maps)


@pytest.mark.parametrize(
    ("fails", "message"),
    [(True, r"it does not run \(eight maps, please\)"), (False, "it computes something else")],
)
def test_code_that_decides_by_channels_is_refused(fails: bool, message: str) -> None:
    with pytest.raises(InputError, match=f"this Counts cannot be pruned, since its code .*: .*{message}"):
        prune(Counts(fails=fails), "l1", macs=0.5, example_input=IMAGES)


def test_pruning_leaves_the_generators_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    model = Network(_dense, 24)
    torch.manual_seed(7)
    prune(model, "l1", macs=0.5, example_input=IMAGES)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("method", [name for name, method in PRUNE_METHODS.items() if method.uniform])
def test_a_draft_has_the_sizes_of_what_is_pruned(method: str) -> None:
    model = Network(_chunked, 12)
    pruned, _ = prune(model, method, macs=0.96, calibration=IMAGES, example_input=IMAGES)
    drafted = draft(model, method, macs=0.96, example_input=IMAGES)
    shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (pruned, drafted)]
    assert shapes[0] == shapes[1]


def _by_view(block: Excited, maps: Tensor) -> Tensor:
    """The way of the code that SENet is best known by."""
    batch, channels, _, _ = maps.size()
    factors = block.factors(block.pool(maps).view(batch, channels)).view(batch, channels, 1, 1)
    return maps * factors.expand_as(maps)


_LINEAR_GATES: dict[str, Callable[[Excited, Tensor], Tensor]] = {
    "views": _by_view,
    "an index": lambda block, maps: maps * block.factors(maps.mean((2, 3)))[:, :, None, None],
    "unsqueezed": lambda block, maps: block.factors(maps.mean((2, 3))).unsqueeze(-1).unsqueeze(-1) * maps,
    "flattened": lambda block, maps: (
        maps * block.factors(torch.flatten(block.pool(maps), 1)).view(maps.size(0), maps.shape[1], 1, 1)
    ),
}


class Excited(nn.Module):
    """Squeeze-excite of linear layers, between two convolutions."""

    def __init__(self, scaled: Callable[[Excited, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.pool = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1), nn.AdaptiveAvgPool2d(1)
        self.factors = nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 16), nn.Sigmoid())
        self.scaled = scaled

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.scaled(self, torch.relu(self.first(images))))


@pytest.mark.parametrize("form", _LINEAR_GATES)
def test_linear_layers_that_scale_channels_lose_them_too(form: str) -> None:
    model = Excited(_LINEAR_GATES[form]).eval()
    assert _check_exact(model, IMAGES, streams=False) == {"first", "factors.2"}
    sites, _ = find_sites(model, find_units(model, IMAGES), IMAGES)
    assert [(site.name, site.gates, site.squeezes, site.readers) for site in sites] == [
        ("first", ("factors.2",), ("factors.0",), ("last",))
    ]
    for method in ("l1", "channel"):
        pruned, report = prune(model, method, macs=0.6, calibration=IMAGES, example_input=IMAGES)
        assert (
            pruned.factors[2].out_features == pruned.factors[0].in_features == pruned.first.out_channels < 16
        )
        assert report.macs_ratio == pytest.approx(0.6, abs=0.05)
    gated = copy.deepcopy(model)
    gates = insert_gates_(gated, sites)
    with torch.no_grad():
        gates["first"].scale.uniform_(0.5, 1.5)
        scaled = gated(IMAGES)
        torch.testing.assert_close(fold_gates_(gated, sites)(IMAGES), scaled, atol=1e-5, rtol=1e-4)


def test_views_by_another_number_stay() -> None:
    model = Excited(
        lambda block, maps: maps * block.factors(block.pool(maps).view(-1, 16)).view(-1, 16, 1, 1)
    )
    with pytest.raises(InputError, match="nothing in this Excited can be pruned"):
        find_sites(model, find_units(model, IMAGES), IMAGES)
