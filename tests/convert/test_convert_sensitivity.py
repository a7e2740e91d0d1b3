"""Ratios by name, the sensitivity of layers, the choice within a budget; every message for bad input."""

from __future__ import annotations

import itertools
import json
import re

import pytest
import torch
from torch import nn

import ghostnet
from ghostnet.convert import ghostify, sensitivity
from ghostnet.errors import InputError
from ghostnet.knapsack import allocate
from ghostnet.nn import GhostConv2d


def network() -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    for _ in range(3):
        body += [nn.Conv2d(body[-3].out_channels, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)).eval()


IMAGES = torch.randn(16, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def test_ratios_by_name_and_pattern():
    ghost, report = ghostify(network(), ratio={"*": 2, "9": 4, "6": 1, "0": 2}, init="random")
    assert {name: m.ratio for name, m in ghost.named_modules() if isinstance(m, GhostConv2d)} == {
        "0": 2,
        "3": 2,
        "9": 4,
    }
    assert report.converted == ["0", "3", "9"]
    assert report.settings["ratio"] == {"0": 2, "3": 2, "9": 4}
    assert "ratio mixed" in str(report)
    assert {layer.name: layer.reason for layer in report.layers}["9"] == "s = 4"


def test_one_ratio_by_name_is_that_ratio():
    by_name, _ = ghostify(network(), ratio={"3": 3, "6": 3}, calibration=IMAGES)
    by_list, _ = ghostify(network(), ratio=3, layers=["3", "6"], calibration=IMAGES)
    for one, other in zip(by_name.state_dict().values(), by_list.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_converted_network_with_mixed_ratios_is_saved_and_loaded(tmp_path):
    model = ghostnet.create_model("resnet20").eval()
    ghost, _ = ghostify(model, ratio={"layer1.*": 4, "layer3.2.conv2": 2}, init="random")
    ghostnet.save(ghost, tmp_path / "mixed.safetensors")
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ghostnet.load(tmp_path / "mixed.safetensors").eval()(images), ghost(images))


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        ({}, "`ratio` is an empty mapping; give an integer"),
        ({"3": 2.5}, r"`ratio` \(=2.5\) must be an integer >= 1"),
        ({"33": 2}, "unknown layer '33'"),
    ],
)
def test_ratios_that_cannot_be_used(ratio, message):
    with pytest.raises(InputError, match=message):
        ghostify(network(), ratio=ratio, init="random")


def test_costs_are_what_the_conversion_of_one_layer_does():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = sensitivity(model, IMAGES, ratios=(2, 3))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [layer.name for layer in found.layers] == ["3", "6", "9"]
    assert found.unit == "KL divergence"
    for layer, ratio in itertools.product(found.layers, (2, 3)):
        ghost, report = ghostify(model, ratio={layer.name: ratio}, calibration=IMAGES, refit_plain=False)
        with torch.no_grad():
            wanted, got = model(IMAGES).log_softmax(1), ghost(IMAGES).log_softmax(1)
        cost = float((wanted.exp() * (wanted - got)).sum(1).mean())
        assert layer.costs[ratio] == pytest.approx(cost, rel=1e-3, abs=1e-7)
        assert layer.macs_at[ratio] == next(row for row in report.layers if row.name == layer.name).macs_after
    assert "KL divergence" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["macs"] == found.macs


def test_a_layer_too_large_for_its_patch_moments_costs_the_same_in_any_company():
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(3, 72, 1), nn.Conv2d(72, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    together = sensitivity(model, IMAGES, ratios=(2, 4)).layers[0].costs
    assert together == {
        ratio: sensitivity(model, IMAGES, ratios=(ratio,)).layers[0].costs[ratio] for ratio in (2, 4)
    }
    ghost, _ = ghostify(model, ratio={"1": 4}, calibration=IMAGES)
    with torch.no_grad():
        wanted, got = model(IMAGES).log_softmax(1), ghost(IMAGES).log_softmax(1)
    cost = float((wanted.exp() * (wanted - got)).sum(1).mean())
    assert together[4] == pytest.approx(cost, rel=1e-3, abs=1e-7)


def test_the_choice_meets_the_budget_at_the_least_summed_cost():
    found = sensitivity(network(), IMAGES, ratios=(2, 4))
    for share in (0.9, 0.6, 0.45):
        chosen = found.ratios(share)
        _, report = ghostify(network(), ratio=chosen, calibration=IMAGES)
        assert report.macs_ratio <= share
        best = min(
            sum(layer.costs.get(s, 0.0) for layer, s in zip(found.layers, each, strict=True))
            for each in itertools.product((1, 2, 4), repeat=3)
            if found.macs
            - sum(
                layer.macs - layer.macs_at.get(s, layer.macs)
                for layer, s in zip(found.layers, each, strict=True)
            )
            <= share * found.macs
        )
        assert found.cost(chosen) == pytest.approx(best)


def test_the_knapsack_agrees_with_trying_everything():
    random = torch.Generator().manual_seed(3)
    for _ in range(20):
        saved = torch.randint(1, 50, (5, 2), generator=random).tolist()
        costs = torch.rand(5, 2, generator=random).tolist()
        options = [[(0, 0.0), *zip(*each, strict=True)] for each in zip(saved, costs, strict=True)]
        target = int(torch.randint(1, 120, (), generator=random))
        tried = [
            sum(options[i][k][1] for i, k in enumerate(each))
            for each in itertools.product(range(3), repeat=5)
            if sum(options[i][k][0] for i, k in enumerate(each)) >= target
        ]
        chosen = allocate(options, target)
        if not tried:
            assert chosen is None
        else:
            assert sum(options[i][k][0] for i, k in enumerate(chosen)) >= target
            assert sum(options[i][k][1] for i, k in enumerate(chosen)) == pytest.approx(min(tried))


def test_an_interrupted_measurement_goes_on(tmp_path, monkeypatch):
    module = __import__("importlib").import_module("ghostnet.convert.layer_cost")
    real, calls = module._cost, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    file = tmp_path / "costs.json"
    monkeypatch.setattr(module, "_cost", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sensitivity(network(), IMAGES, ratios=(2, 3), file=file)
    assert len(json.loads(file.read_text())["costs"]) == 3
    resumed = sensitivity(network(), IMAGES, ratios=(2, 3), file=file)
    assert len(calls) == 4 + 3
    monkeypatch.setattr(module, "_cost", real)
    assert resumed == sensitivity(network(), IMAGES, ratios=(2, 3))


def test_a_share_that_no_choice_reaches_is_refused_before_measuring(monkeypatch):
    found = sensitivity(network(), IMAGES, ratios=(2, 4))
    with pytest.raises(InputError, match="cannot be reached") as caught:
        found.ratios(0.01)
    least = float(re.search(r"leave (0\.\d{3}) of the MACs", str(caught.value))[1])
    assert found.ratios(least)
    module = __import__("importlib").import_module("ghostnet.convert.sensitivity")
    state = torch.random.get_rng_state()
    with monkeypatch.context() as patched:
        patched.setattr(module, "Measurement", None)  # measuring would fail
        for share in (0.01, least - 0.001):
            with pytest.raises(InputError, match=f"leave {least:.3f} of the MACs; ask for that or more"):
                sensitivity(network(), IMAGES, ratios=(2, 4), macs=share)
        with pytest.raises(InputError, match=r"`macs` \(=2\) must be a share"):
            sensitivity(network(), IMAGES, macs=2)
    torch.random.set_rng_state(state)
    assert sensitivity(network(), IMAGES, ratios=(2, 4), macs=least) == found


def test_outputs_that_are_no_logits():
    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

        def forward(self, images):
            return {"map": self.second(self.first(images).relu())}

    found = sensitivity(Maps(), IMAGES)
    assert found.unit == "relative squared error"
    assert 0 < found.layers[0].costs[2] < found.layers[0].costs[4]


def test_bad_input(tmp_path):
    model = network()
    with pytest.raises(InputError, match=r"`ratios` \(=\[1, 2\]\) must be integers of at least 2"):
        sensitivity(model, IMAGES, ratios=(1, 2))
    with pytest.raises(InputError, match="sensitivity looks at images: give `calibration`"):
        sensitivity(model, None)
    with pytest.raises(InputError, match="no layer can be ghosted with these ratios"):
        sensitivity(model, IMAGES, layers=lambda *_: False)
    with pytest.raises(InputError, match=r"`ratios` \(=2\) must be several values of s, such as \(2, 3, 4\)"):
        sensitivity(model, IMAGES, ratios=2)
    with pytest.raises(InputError, match=r"sensitivity needs a torch.nn.Module, not str; build the model"):
        sensitivity("resnet20", IMAGES)
    with pytest.raises(InputError, match="`calibration` has NaN or infinite values in 1 of 16 images"):
        sensitivity(model, torch.where(torch.arange(16)[:, None, None, None] == 3, torch.nan, IMAGES))
    with pytest.raises(InputError, match=r"does not run on `calibration` of shape \(16, 2, 10, 10\)"):
        sensitivity(model, IMAGES[:, :2])
    damaged = network()
    damaged[-1].bias.data[0] = torch.nan
    with pytest.raises(InputError, match="the network answers `calibration` with NaN or infinity"):
        sensitivity(damaged, IMAGES, file=tmp_path / "damaged.json")
    assert not list(tmp_path.iterdir())
    found = sensitivity(model, IMAGES, ratios=(2,), file=tmp_path / "costs.json")
    with pytest.raises(InputError, match="unknown layer '33'"):
        found.cost({"33": 2})
    with pytest.raises(InputError, match="ratio 5 was not measured for layer 3; 1, 2 are known"):
        found.cost({"3": 5})
    with pytest.raises(InputError, match=r"`macs` \(=1.5\) must be a share"):
        found.ratios(1.5)
    with pytest.raises(
        InputError,
        match=r"`macs` \(=0.1\) cannot be reached: ratios up to 2 in these layers leave 0.574 of the MACs",
    ):
        found.ratios(0.1)
    with pytest.raises(InputError, match="belongs to another network, other images or settings"):
        sensitivity(model, IMAGES, ratios=(3,), file=tmp_path / "costs.json")
    (tmp_path / "other.json").write_text((tmp_path / "costs.json").read_text()[:40])
    with pytest.raises(InputError, match="holds no measured costs of layers; name another file"):
        sensitivity(model, IMAGES, file=tmp_path / "other.json")
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(InputError, match="holds no measured costs of layers; name another file"):
        sensitivity(model, IMAGES, file=tmp_path / "other.json")


def test_measuring_leaves_the_random_state_alone():
    model = network()
    state = torch.random.get_rng_state()
    sensitivity(model, IMAGES, ratios=(2,))
    assert torch.equal(state, torch.random.get_rng_state())
