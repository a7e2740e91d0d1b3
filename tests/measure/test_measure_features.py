"""Feature maps and their pairs: the closed form against brute force and SGD, odd maps, scores that conversion takes."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ghostnet
from ghostnet.errors import InputError
from ghostnet.measure import features
from ghostnet.measure.features import pairs
from ghostnet.nn import GhostConv2d


def _maps(channels: int = 6, side: int = 12, images: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    smooth = F.avg_pool2d(torch.rand(images, channels, side + 4, side + 4, generator=generator), 5, 1)
    return smooth + 0.3 * smooth[:, :1]


def _patches(source: torch.Tensor, size: int) -> torch.Tensor:
    return (
        F.unfold(source[:, None].double(), size, padding=size // 2).transpose(1, 2).reshape(-1, size * size)
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_all_pairs_are_least_squares(size: int, bias: bool) -> None:
    maps = _maps()
    found = features.fit_pairs(maps, size, bias=bias)
    for source, target in itertools.permutations(range(maps.shape[1]), 2):
        columns = _patches(maps[:, source], size)
        if bias:
            columns = torch.cat([columns, torch.ones(len(columns), 1, dtype=torch.float64)], 1)
        wanted = maps[:, target].double().reshape(-1, 1)
        rest = wanted - columns @ torch.linalg.lstsq(columns, wanted, driver="gelsd").solution
        assert float(found.mse[source, target]) == pytest.approx(float((rest**2).mean()), rel=1e-6)
        if bias:
            assert float(found.relative[source, target]) <= 1 + 1e-9
    assert found.mse.diagonal().isinf().all()


def test_a_filter_is_found_again_and_applies_as_conv2d() -> None:
    source = _maps(1, 16, 3)[:, 0]
    weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    target = F.conv2d(source[:, None], weight[None, None], padding=1)[:, 0]
    found, error = features.fit_filter(source, target, 3)
    torch.testing.assert_close(found.float(), weight, atol=1e-4, rtol=1e-4)
    assert error < 1e-10


def test_larger_kernels_never_fit_worse() -> None:
    errors = [features.fit_pairs(_maps(), size).mse for size in (1, 3, 5, 7)]
    for smaller, larger in itertools.pairwise(errors):
        assert bool((larger <= smaller + 1e-12).all())


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_never_worse_than_500_steps_of_sgd(size: int) -> None:
    maps = _maps(4, 16, 1, seed=size)
    found = features.fit_pairs(maps, size)
    for source, target in ((0, 1), (2, 3)):
        reached = []
        for learning_rate in (0.003, 0.03, 0.3):
            conv = nn.Conv2d(1, 1, size, padding=size // 2, bias=False)
            nn.init.zeros_(conv.weight)
            optimiser = torch.optim.SGD(conv.parameters(), learning_rate, momentum=0.9)
            for _ in range(500):
                loss = F.mse_loss(conv(maps[:, source : source + 1]), maps[:, target : target + 1])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            reached.append(float(loss.detach()))
        best = min(error for error in reached if error == error)
        assert float(found.mse[source, target]) <= best * (1 + 1e-5)
        assert best <= float(found.variance[target]) * 50, (
            "SGD went somewhere, so the comparison means something"
        )


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = _maps(9)
    whole = features.fit_pairs(maps, 3, bias=True).mse
    monkeypatch.setattr(pairs, "_BLOCK_BYTES", 8 * 10 * 144 * 2)
    torch.testing.assert_close(features.fit_pairs(maps, 3, bias=True).mse, whole, rtol=1e-9, atol=1e-14)


def test_constant_and_doubled_maps_are_no_trouble() -> None:
    maps = _maps(6)
    maps[:, 1], maps[:, 2], maps[:, 3] = 0.0, 5.0, 2 * maps[:, 0]
    found = features.fit_pairs(maps, 3)
    assert not found.mse.isnan().any()
    ranked = found.ranked()
    assert {ranked[0].source, ranked[0].target} == {0, 3}
    assert ranked[0].relative_error < 1e-9
    assert not {1, 2} & {number for pair in ranked for number in (pair.source, pair.target)}
    assert len(ranked) == 4 * 3
    errors = [pair.relative_error for pair in ranked]
    assert errors == sorted(errors)
    assert found.pair(0, 1).relative_error == float("inf")
    assert len(found.ranked(2)) == 2


def test_most_alike_pairs_share_no_map() -> None:
    chosen = features.fit_pairs(_maps(8), 3).most_alike(3)
    numbers = [number for pair in chosen for number in (pair.source, pair.target)]
    assert len(set(numbers)) == 6
    assert len(features.fit_pairs(_maps(3), 3).most_alike(3)) == 1


def test_256_maps_of_56_within_20_s_and_4_gb() -> None:
    code = (
        "import re, time, torch; from ghostnet.measure import features\n"
        "maps = torch.randn(1, 256, 56, 56); start = time.perf_counter()\n"
        "found = features.fit_pairs(maps, 3); assert len(found.ranked()) == 65280\n"
        "seconds, status = time.perf_counter() - start, open('/proc/self/status').read()\n"
        "print(seconds, int(re.search('VmHWM:.*?([0-9]+)', status)[1]) / 2**20)"  # ru_maxrss begins at the parent's
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds, gigabytes = map(float, printed.split())
    assert seconds < 20
    assert gigabytes < 4


def test_table2_falls_to_d3_and_little_after() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = F.avg_pool2d(torch.rand(1, 8, 36, 36, generator=generator), 3, 1)
    for number in range(0, 8, 2):  # each odd map is a 3x3 filter of its neighbour, and some noise
        weight = torch.randn(1, 1, 3, 3, generator=generator)
        made = F.conv2d(maps[:, number : number + 1], weight, padding=1)
        maps[:, number + 1 : number + 2] = made + 0.01 * torch.randn(made.shape, generator=generator)
    study = features.study_pairs(maps)
    assert (study.maps, study.channels, study.images, study.map_size) == (8, 8, 1, (34, 34))
    assert len(study.pairs) == 3
    for pair in study.pairs:
        assert pair["source"] // 2 == pair["target"] // 2
        assert pair["mse"][3] < 0.5 * pair["mse"][1]
        assert 0.9 * pair["mse"][3] < pair["mse"][7] <= pair["mse"][5] <= pair["mse"][3]
    assert set(study.to_dict()["best_partner"]) == {"1", "3", "5", "7"}


def test_maps_are_those_before_an_inplace_activation() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 36, 2))
    network.train()
    images = torch.randn(2, 3, 8, 8)
    assert float(features.feature_maps(network, "0", images).min()) < 0
    torch.testing.assert_close(features.feature_maps(network, "1", images), network[0](images).relu())
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())
    assert features.layers_with_maps(network, images) == ["0", "1"]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("feature.3", r"unknown layer 'feature\.3'; did you mean 'features\.3'"),
        ("", "unknown layer ''"),
        ("classifier", r"'classifier' puts out \(1, 10\), not maps"),
    ],
)
def test_a_layer_that_cannot_be_shown(layer: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        features.feature_maps(ghostnet.create_model("resnet9_050"), layer, torch.zeros(1, 3, 32, 32))


def test_a_layer_that_never_runs_and_images_that_do_not_fit() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    network.spare = nn.Conv2d(4, 4, 1)
    network.forward = lambda x: network[0](x)  # type: ignore[method-assign]
    with pytest.raises(InputError, match="'spare' does not run"):
        features.feature_maps(network, "spare", torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match=r"does not run on images \(1, 1, 8, 8\)"):
        features.feature_maps(network, "0", torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("maps", "size", "message"),
    [
        (torch.zeros(1, 1, 4, 4), 3, "at least two maps"),
        (torch.zeros(3, 4, 4), 3, r"maps \(=\(3, 4, 4\)\)"),
        (torch.full((1, 2, 4, 4), float("nan")), 3, "NaN or infinity"),
        (torch.zeros(1, 2, 4, 4), 2, r"`cheap_kernel_size` \(=2\) must be an odd integer"),
    ],
)
def test_maps_that_cannot_be_fitted(maps: torch.Tensor, size: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        features.fit_pairs(maps, size)


def test_study_needs_d3() -> None:
    with pytest.raises(InputError, match="must hold 3"):
        features.study_pairs(_maps(), kernel_sizes=(1, 5))


def test_score_is_the_best_choice_of_pairs() -> None:
    maps = _maps(4)
    fits = features.fit_pairs(maps, 3, bias=True)
    by_hand = []
    for order in itertools.permutations(range(4)):
        by_hand.append(float(fits.relative[order[0], order[1]] + fits.relative[order[2], order[3]]) / 4)
    found = features.ghost_error(fits, 2)
    assert min(by_hand) - 1e-12 <= found <= 1.3 * min(by_hand)
    assert 0 <= features.ghost_error(fits, 4) <= 0.75
    assert features.ghost_error(fits, 4) >= found


def test_scores_tell_redundant_layers_from_others_and_ghostify_takes_them() -> None:
    torch.manual_seed(0)
    copies, distinct = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
    with torch.no_grad():
        copies.weight[8:] = -3 * copies.weight[:8]
    network = nn.Sequential(nn.Conv2d(3, 8, 1), copies, nn.ReLU(), distinct, nn.Conv2d(16, 2, 1)).train()
    found = features.redundancy(network, torch.randn(4, 3, 16, 16))
    by_name = {layer.name: layer for layer in found.layers}
    assert set(by_name) == {"0", "1", "3"}
    assert found.skipped == {"4": "2 maps are too few for ratio 2"}
    assert by_name["1"].ghost_error == pytest.approx(0, abs=1e-9)
    assert by_name["1"].alike == 1.0
    assert by_name["3"].ghost_error > 0.05
    assert by_name["1"].macs == 16 * 16 * 16 * 8 * 9
    assert found.ranked()[0].name == "1"
    assert found.least_hurt(0.5) == ["1"]
    assert set(found.least_hurt(1.0)) == {"0", "1", "3"}
    assert network.training
    ghost, report = ghostnet.ghostify(
        network, layers=found.least_hurt(0.5), example_input=torch.randn(1, 3, 16, 16)
    )
    assert [name for name, module in ghost.named_modules() if isinstance(module, GhostConv2d)] == ["1"]
    assert report is not None


def test_a_ghost_network_is_scored_outside_its_ghosts_only() -> None:
    network = nn.Sequential(GhostConv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, groups=8))
    found = features.redundancy(network, torch.randn(2, 3, 12, 12))
    assert [layer.name for layer in found.layers] == ["1"]
    assert found.skipped == {"2": "depthwise already"}
    with pytest.raises(InputError, match="no plain convolution to score"):
        features.redundancy(network[0], torch.randn(2, 3, 12, 12))
    with pytest.raises(InputError, match=r"`ratio` \(=1\) must be an integer >= 2"):
        features.redundancy(network, torch.randn(2, 3, 12, 12), ratio=1)
    with pytest.raises(InputError, match=r"`macs_share` \(=0\) must be above 0"):
        found.least_hurt(0)


def test_units_and_intrinsic_maps() -> None:
    ghost = ghostnet.create_model("ghost_vgg16", width_mult=0.25).eval()
    units = features.unit_outputs(ghost, torch.zeros(1, 3, 32, 32))
    assert list(units.items())[:2] == [("features.0", "features.2"), ("features.3", "features.5")]
    assert len(units) == 13
    dense = features.unit_outputs(ghostnet.create_model("resnet9_050"), torch.zeros(1, 3, 32, 32))
    assert list(dense.items())[1] == ("features.3", "features.5")
    module = GhostConv2d(3, 6, 3)
    module.set_channel_order_(torch.tensor([3, 0, 4, 1, 2, 5]))
    intrinsic = features.intrinsic_maps(module)
    assert intrinsic is not None
    assert intrinsic.tolist() == [False, True, False, True, True, False]
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(module(x)[:, intrinsic], module.primary_conv(x)[:, [0, 1, 2]])
