"""Pruning: MACs met, files that rebuild it, planted channels found, reconstruction that pays."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghostnet
from ghostnet.convert import METHODS, PRUNE_METHODS, check_method, find_units, prune
from ghostnet.convert.batch_norm import rematch_batch_norm_
from ghostnet.convert.pruning.budget import Budget
from ghostnet.convert.pruning.contributions import (
    Moments,
    by_channel,
    draw_samples,
    moments_of,
    relative_error,
)
from ghostnet.convert.pruning.gates import fold_gates_, insert_gates_
from ghostnet.convert.pruning.prune import least_share
from ghostnet.convert.pruning.reconstruct import (
    greedy_channels,
    lasso_channels,
    least_squares,
    scaled_channels,
)
from ghostnet.convert.pruning.sites import find_sites
from ghostnet.errors import InputError

PLANTED = [1, 4, 5, 10]  # channels of the planted network that do nothing for its output


def _random_norms_(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low in ((module.weight, 0.5), (module.bias, -0.2), (module.running_mean, -0.2)):
                values.data.copy_(low + torch.rand(values.shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return model


def _labelled(channels: int = 3, size: int = 16, batches: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(16, channels, size, size, generator=generator),
            torch.randint(0, 10, (16,), generator=generator),
        )
        for _ in range(batches)
    ]


def _sparsify(model: nn.Module, after_step) -> None:
    """A real, short training: plain SGD on the labelled images."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model.train()
    for images, labels in _labelled() * 4:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        after_step(0.5)


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    torch.manual_seed(0)
    return _random_norms_(ghostnet.create_model("resnet20")).eval()


@pytest.mark.parametrize("method", list(PRUNE_METHODS))
@pytest.mark.parametrize("name", ["resnet20", "vgg16"])
def test_macs_are_met_and_a_file_rebuilds_it(method, name, dense, tmp_path):
    model, images = dense, _labelled()
    if name == "vgg16":
        model = _random_norms_(ghostnet.create_model("vgg16", width_mult=0.25)).eval()
        images = _labelled(size=32, batches=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sparsify = _sparsify if name == "resnet20" else _sparsify_vgg
    pruned, report = prune(model, method, macs=0.5, calibration=images, sparsify=sparsify)
    size = (3, *images[0][0].shape[2:])
    counted = ghostnet.profile(pruned, size).macs / ghostnet.profile(model, size).macs
    assert abs(counted / 0.5 - 1) <= 0.01
    assert report.macs_ratio == pytest.approx(counted)
    assert report.params_after == sum(p.numel() for p in pruned.parameters()) < report.params_before
    assert "remark" not in report.settings
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    path = tmp_path / "pruned.safetensors"
    ghostnet.save(pruned, path)
    again, example = ghostnet.load(path), images[0][0]
    assert torch.equal(again(example), pruned(example))
    assert not pruned.training


def _sparsify_vgg(model: nn.Module, after_step) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    images, labels = _labelled(size=32, batches=1)[0]
    for _ in range(2):
        F.cross_entropy(model.train()(images), labels).backward()
        optimizer.step()
        after_step(0.05)


def test_every_method_has_a_reference_and_the_cases_are_counted():
    assert list(PRUNE_METHODS) == ["l1", "channel", "thinet", "sss", "taylor"]
    assert METHODS == ("ghost", "l1", "channel", "thinet", "sss", "taylor")
    assert {method.needs for method in PRUNE_METHODS.values()} == {"nothing", "images", "labels", "training"}


class _Planted(nn.Module):
    """Twelve inner channels, four of them useless: dead for L1, unread for the methods that look at outputs."""

    def __init__(self, method: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv1 = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 8, 3, padding=1)
        self.shortcut = nn.Conv2d(3, 8, 1)  # the sum with it keeps the other layers as wide as they are
        self.linear = nn.Linear(8, 10)
        with torch.no_grad():
            if method == "l1":
                self.conv1.weight[PLANTED] *= 0.01
            else:
                self.conv1.weight[PLANTED] *= 5.0  # what L1 would keep
                # each of the others feeds an output of its own, so that none can stand in for another
                self.conv2.weight.zero_()
                self.conv2.weight[range(8), [c for c in range(12) if c not in PLANTED], 1, 1] = 1.0

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv2(F.relu(self.norm(self.conv1(images)))) + self.shortcut(images)
        return self.linear(F.relu(maps).mean((2, 3)))


def _keep_the_answers(model: nn.Module, after_step) -> None:
    """Train the gates alone to give the answers that the network gives now: only useless ones can shrink to zero."""
    gates = [parameter for name, parameter in model.named_parameters() if name.endswith("scale")]
    images = _labelled(size=8)[0][0]
    answers = model(images).detach()
    for _ in range(520):
        loss = 500 * F.mse_loss(model(images), answers)  # its curvature is about 1 in each gate
        with torch.no_grad():
            for gate, gradient in zip(gates, torch.autograd.grad(loss, gates), strict=True):
                gate -= 0.5 * gradient
        after_step(0.1)


@pytest.mark.parametrize("method", list(PRUNE_METHODS))
def test_planted_channels_go(method):
    model = _Planted(method).eval()
    whole = ghostnet.profile(model, (3, 8, 8))
    inner = sum(layer.macs for layer in whole.layers if layer.name in ("conv1", "conv2"))
    pruned, report = prune(
        model,
        method,
        macs=1 - inner * len(PLANTED) / 12 / whole.macs,
        calibration=_labelled(size=8),
        sparsify=_keep_the_answers,
        example_input=torch.zeros(1, 3, 8, 8),
    )
    assert report.converted == ["conv1"]
    # which filters stayed is told by their direction, since gates and training scale them
    old, new = (F.normalize(net.conv1.weight.detach().flatten(1), dim=1) for net in (model, pruned))
    assert (new @ old.T).argmax(1).tolist() == [channel for channel in range(12) if channel not in PLANTED]


def _layer_and_samples():
    torch.manual_seed(2)
    layer = nn.Conv2d(6, 7, 3, padding=1).requires_grad_(False)
    layer.weight[:, 3] = 0.8 * layer.weight[:, 0]
    images = torch.randn(32, 6, 8, 8)
    images[:, 3] = images[:, 0] + 0.1 * torch.randn(32, 8, 8)  # a duplicate: dropping it can be made up for
    return layer, draw_samples([(images, layer(images))], layer, 6, torch.Generator().manual_seed(0))


def test_samples_reproduce_the_layer():
    layer, samples = _layer_and_samples()
    assert relative_error(samples, by_channel(layer.weight, 6)) < 1e-10


@pytest.mark.parametrize("repair", [least_squares, scaled_channels])
def test_reconstruction_lowers_the_error(repair):
    layer, samples = _layer_and_samples()
    weight = by_channel(layer.weight, 6)
    moments, chosen = moments_of(samples, weight), [0, 1, 2, 4, 5]
    plain, repaired = torch.zeros_like(weight), torch.zeros_like(weight)
    plain[chosen] = weight[chosen]
    repaired[chosen] = repair(samples, moments, weight, chosen)
    without, with_repair = relative_error(samples, plain), relative_error(samples, repaired)
    assert 0 < with_repair < 0.1 * without


def test_lasso_drops_one_of_two_duplicates_and_greedy_the_weakest():
    layer, samples = _layer_and_samples()
    left = lasso_channels(moments_of(samples, by_channel(layer.weight, 6)), 5)
    assert len({0, 3} & set(left)) == 1
    contributions = torch.diag(torch.tensor([4.0, 0.1, 3.0, 2.0])).double()
    contributions[2, 3] = contributions[3, 2] = -2.4  # these two cancel: removing both costs little
    moments = Moments(contributions, contributions.sum(1), 1.0)
    assert greedy_channels(moments, 3) == [0, 2, 3]
    assert greedy_channels(moments, 1) == [0]
    assert lasso_channels(Moments(torch.eye(3).double(), torch.tensor([1.0, 0.2, 2.0]).double(), 1.0), 2) == [
        2,
        0,
    ]


@pytest.mark.parametrize("method", ["channel", "thinet"])
def test_errors_of_the_layers_are_reported(method, dense):
    _, report = prune(dense, method, macs=0.8, calibration=_labelled()[0][0])
    known = [layer.reconstruction_error for layer in report.layers if layer.reconstruction_error is not None]
    assert len(known) == 9
    assert all(0 < error < 1 for error in known)


def test_residual_streams_keep_their_width(dense):
    sites, reasons = find_sites(dense, find_units(dense))
    assert [site.name.rpartition(".")[2] for site in sites] == ["conv1"] * 9
    assert all("addition" in reasons[name] for name in reasons)
    assert len(reasons) == 10


def test_depthwise_layers_are_pruned_with_the_channels_that_they_carry():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1),
        nn.BatchNorm2d(16),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 4, 1),
    ).eval()
    pruned, report = prune(model, "l1", macs=0.5, example_input=torch.zeros(1, 3, 8, 8))
    assert (pruned[0].out_channels, pruned[2].groups, pruned[3].in_channels) == (8, 8, 8)
    assert report.macs_ratio == 0.5
    assert pruned(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 8, 8)


def test_gates_change_nothing_and_fold_exactly(dense):
    model = ghostnet.create_model("resnet20").eval()
    model.load_state_dict(dense.state_dict())
    example = _labelled()[0][0]
    sites, _ = find_sites(model, find_units(model))
    gates = insert_gates_(model, sites)
    torch.testing.assert_close(model(example), dense(example))
    for gate in gates.values():
        nn.init.uniform_(gate.scale, 0.0, 2.0)
    gated = model(example)
    assert not torch.allclose(gated, dense(example), atol=1e-2)
    fold_gates_(model, sites)
    torch.testing.assert_close(model(example), gated, atol=1e-4, rtol=1e-4)
    assert list(model.state_dict()) == list(dense.state_dict())


def test_timms_norms_with_an_activation_inside_are_followed_gated_and_saved(tmp_path):
    model = _random_norms_(timm.create_model("efficientnet_lite0", num_classes=10)).eval()
    sites, _ = find_sites(model, find_units(model, torch.zeros(1, 3, 64, 64)))
    assert {site.channels for site in sites} >= {96, 144, 240, 480, 672, 1152}  # what the blocks expand to
    images = _labelled(size=64)[0][0][:2]
    expected = model(images)
    gated = copy.deepcopy(model)
    gates = insert_gates_(gated, sites)
    with torch.no_grad():
        for gate in gates.values():
            gate.scale.uniform_(-1, 2)  # behind ReLU6 such a factor could not be folded into the norm
        scaled = gated(images)
        torch.testing.assert_close(fold_gates_(gated, sites)(images), scaled, atol=1e-3, rtol=1e-4)
    assert not torch.allclose(scaled, expected)
    pruned, report = prune(model, "taylor", macs=0.7, calibration=_labelled(size=64), example_input=images)
    assert report.macs_ratio == pytest.approx(0.7, abs=0.01)
    ghostnet.save(pruned, tmp_path / "pruned.safetensors")
    torch.testing.assert_close(ghostnet.load(tmp_path / "pruned.safetensors")(images), pruned(images))


def test_budget_counts_what_profile_counts(dense):
    sites, _ = find_sites(dense, find_units(dense))
    budget = Budget(dense, sites, (3, 32, 32), 0.6)
    pruned, _ = prune(dense, "l1", macs=0.6, example_input=torch.zeros(1, 3, 32, 32))
    counts = {site.name: pruned.get_submodule(site.name).out_channels for site in sites}
    assert budget.macs(counts) == ghostnet.profile(pruned, (3, 32, 32)).macs


@pytest.mark.parametrize("multiple", [3, 8])
@pytest.mark.parametrize("method", ["l1", "taylor"])
def test_layers_keep_multiples_of_channels(method, multiple, dense):
    calibration = _labelled()[:1] if method == "taylor" else None
    pruned, report = prune(dense, method, macs=0.6, multiple=multiple, calibration=calibration)
    assert report.settings["multiple"] == multiple
    assert abs(report.macs_ratio - 0.6) < 0.03
    narrower = [layer.name for layer in report.layers if layer.action == "pruned"]
    kept = [pruned.get_submodule(name).out_channels for name in narrower if "conv1" in name]
    assert kept
    assert all(count % multiple == 0 for count in kept)


def test_of_blocks_the_weakest_go():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 10, 1, bias=False), nn.Conv2d(10, 4, 1, bias=False)).eval()
    with torch.no_grad():
        model[0].weight[:, 0, 0, 0] = torch.tensor([9.0, 1, 8, 2, 7, 3, 10, 4, 6, 5])
    macs, kept = 10 + 40, {}
    for left in (8, 4):  # 10 channels: the odd two go first
        pruned, _ = prune(
            model, "l1", macs=5 * left / macs, multiple=4, example_input=torch.zeros(1, 1, 4, 4)
        )
        kept[left] = pruned[0].weight.flatten().tolist()
    assert kept == {8: [9, 8, 7, 3, 10, 4, 6, 5], 4: [9, 8, 7, 10]}


def test_the_least_share_can_be_asked_for_and_less_cannot(dense):
    example = torch.zeros(1, 3, 32, 32)
    for multiple in (1, 8):
        least = least_share(dense, example, multiple=multiple)
        pruned, _ = prune(dense, "l1", macs=least, multiple=multiple, example_input=example)
        assert {pruned.get_submodule(f"layer{one}.1.conv1").out_channels for one in (1, 2, 3)} == {multiple}
        with pytest.raises(InputError, match=f"with {'one channel' if multiple == 1 else '8 channels'} left"):
            prune(dense, "l1", macs=least - 0.002, multiple=multiple, example_input=example)


def test_there_is_no_least_share_where_no_channel_can_go(dense):
    example = torch.zeros(1, 3, 32, 32)
    with pytest.raises(
        InputError, match="no layer has more than 64 channels to lose; take a smaller `multiple`"
    ):
        least_share(dense, example, multiple=64)
    with pytest.raises(InputError, match=r"`multiple` \(=0\) must be an integer >= 1"):
        least_share(dense, example, multiple=0)


def _error(network, dense, images):
    with torch.no_grad():
        return float((network(images) - dense(images)).norm() / dense(images).norm())


@pytest.mark.parametrize("method", ["l1", "thinet", "taylor", "channel"])
def test_norms_make_up_for_the_cut_where_there_are_images(method, dense):
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(64, 3, 16, 16, generator=generator)
    given = [(images[:32], torch.randint(0, 10, (32,), generator=generator))]
    found, settings = {}, {}
    for matched in (True, False):
        found[matched], report = prune(dense, method, macs=0.6, calibration=given, match_norms=matched)
        settings[matched] = report.settings.get("norms")
    assert settings == {True: None if method == "channel" else "matched", False: None}
    errors = {matched: _error(network, dense, images[32:]) for matched, network in found.items()}
    if method == "channel":  # its least squares have seen to it
        assert errors[True] == errors[False]
    else:
        assert errors[True] < 0.9 * errors[False]


def test_norms_are_matched_beside_the_network_before():
    torch.manual_seed(0)
    before = _random_norms_(ghostnet.create_model("resnet20", width_mult=0.5)).eval()
    images = [torch.rand(8, 3, 16, 16), torch.rand(3, 3, 16, 16)]
    same = rematch_batch_norm_(copy.deepcopy(before), before, images)
    for (name, value), other in zip(before.state_dict().items(), same.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, msg=name)
    scaled = copy.deepcopy(before)
    with torch.no_grad():
        scaled.layer1[0].conv1.weight.mul_(3)  # the norm behind it takes this back
        expected = before(images[0])
    torch.testing.assert_close(
        rematch_batch_norm_(scaled, before, images)(images[0]), expected, atol=1e-3, rtol=1e-3
    )
    assert not any(module._forward_pre_hooks for net in (before, scaled) for module in net.modules())


def test_a_pruned_network_can_become_a_ghost_network(dense, tmp_path):
    pruned, _ = prune(dense, "l1", macs=0.6)
    ghost, _ = ghostnet.ghostify(pruned, init="random")
    ghostnet.save(ghost, tmp_path / "both.safetensors")
    example = _labelled()[0][0]
    assert torch.equal(ghostnet.load(tmp_path / "both.safetensors")(example), ghost(example))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "L1"}, "unknown pruning method 'L1'"),
        ({"method": "thinnet"}, "did you mean 'thinet'"),
        ({"macs": 1.5}, r"`macs` \(=1.5\) must be a share"),
        ({"macs": 0.01}, r"`macs` \(=0.01\) cannot be reached: .* ask for more"),
        ({"multiple": 0}, r"`multiple` \(=0\) must be an integer >= 1; 8 suits CPUs"),
        ({"multiple": 16}, "with 16 channels left in each prunable layer the network still has 0.600 of"),
        ({"method": "channel"}, "method 'channel' looks at images: give `calibration`"),
        ({"method": "taylor"}, "method 'taylor' looks at labels: give `calibration`"),
        ({"method": "taylor", "calibration": torch.zeros(2, 3, 32, 32)}, r"must give \(images, labels\)"),
        (
            {"method": "taylor", "calibration": [(torch.zeros(2, 3, 32, 32), torch.zeros(2))]},
            "needs labels: .* an integer an image",
        ),
        ({"method": "sss"}, "method 'sss' chooses channels by training: give `sparsify`"),
        ({"method": "sss", "sparsify": lambda _model, _after: None}, "`sparsify` never called"),
    ],
)
def test_bad_arguments(arguments, message, dense):
    with pytest.raises(InputError, match=message):
        prune(dense, **arguments)


def test_networks_without_a_place_to_prune():
    with pytest.raises(
        InputError, match=r"nothing in this Sequential can be pruned \(0: its channels leave the network"
    ):
        prune(nn.Sequential(nn.Conv2d(3, 8, 3)), example_input=torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match=r"needs a torch\.nn\.Module, not str"):
        prune("resnet20")
    assert check_method("ghost") == "ghost"
    with pytest.raises(InputError, match="unknown method 'gost'; did you mean 'ghost'"):
        check_method("gost")


def test_labels_of_any_integer_type_are_taken():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    images = torch.rand(4, 3, 8, 8)
    masks = []
    for kind in (torch.int64, torch.int16, torch.uint8):
        pairs = [(images, torch.tensor([0, 1, 2, 3], dtype=kind))]
        masks.append(prune(model, "taylor", macs=0.7, calibration=pairs, example_input=images)[0][0].weight)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])
