"""One order of channels for each residual stream: exact in the dense network, and no gather in front of a sum."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ghostnet
from ghostnet import InputError, cli, ghostify
from ghostnet.convert import find_units
from ghostnet.convert.streams import find_streams, orderable, put_in_one_order
from ghostnet.convert.surgery import replace_convolutions
from ghostnet.nn import GhostConv2d
from ghostnet.recipes import load_recipe
from ghostnet.recipes.latency_plan import GhostSettings, _draft, _streams
from ghostnet.train.feature_match import FeatureMatch

IMAGES = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(5))


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.relu(maps + self.norm(self.conv2(torch.relu(self.conv1(maps)))))


class Network(nn.Module):
    """A residual network, with something between its stream and its answer."""

    def __init__(self, between: nn.Module, features: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(_Block(8), _Block(8))
        self.between = between
        self.head = nn.Linear(features, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.blocks(torch.relu(self.norm(self.stem(images))))
        return self.head(self.between(maps).flatten(1))


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, maps: Tensor) -> Tensor:
        mean = maps.mean((2, 3), keepdim=True)
        return (maps * torch.sigmoid(self.excite(torch.relu(self.squeeze(mean))))).mean((2, 3), keepdim=True)


class _BesideItself(nn.Module):
    """Reads the stream twice over, beside other maps."""

    def __init__(self) -> None:
        super().__init__()
        self.other, self.last = nn.Conv2d(8, 3, 1), nn.Conv2d(19, 4, 1)

    def forward(self, maps: Tensor) -> Tensor:
        return self.last(torch.cat([maps, self.other(maps), maps], dim=1)).mean((2, 3))


class _Halves(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        one, two = maps.chunk(2, dim=1)
        return (one * two).mean((2, 3))


_BETWEEN: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "pooling": (lambda: nn.AdaptiveAvgPool2d(1), 8),
    "several features of a channel": (lambda: nn.AdaptiveAvgPool2d(2), 32),
    "depthwise": (
        lambda: nn.Sequential(nn.Conv2d(8, 16, 3, groups=8), nn.PReLU(16), nn.AdaptiveAvgPool2d(1)),
        16,
    ),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(8, 4, 2, 2), nn.AdaptiveAvgPool2d(1)), 4),
    "squeeze-excite": (_Attention, 8),
    "concatenation": (_BesideItself, 4),
}


def network(form: str = "pooling") -> Network:
    torch.manual_seed(0)
    make, features = _BETWEEN[form]
    model = Network(make(), features).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model


def ordered(model: nn.Module) -> dict[str, bool]:
    """Say of each Ghost convolution whether it has an order of its own."""
    return {
        name: module.channel_order is not None
        for name, module in model.named_modules()
        if isinstance(module, GhostConv2d)
    }


WRITERS = {"blocks.0.conv2", "blocks.1.conv2"}


@pytest.mark.parametrize("form", _BETWEEN)
@pytest.mark.parametrize("images", [IMAGES, None], ids=["images", "none"])
def test_the_dense_network_computes_the_same_in_the_new_order(form: str, images: Tensor | None) -> None:
    model = network(form)
    before = copy.deepcopy(model.state_dict())
    units = find_units(model, IMAGES)
    chosen = [unit for unit in units if unit.name in WRITERS]
    ghost, _ = replace_convolutions(model, chosen, ratio=dict.fromkeys(WRITERS, 2), cheap_kernel_size=3)
    batches = None if images is None else [images]
    moved, names = put_in_one_order(model, ghost, units, WRITERS, batches, IMAGES)
    assert names == WRITERS
    torch.testing.assert_close(moved(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-5)
    changed = {
        name
        for name, value in moved.state_dict().items()
        if not torch.equal(value, before[name]) and not name.startswith("between")
    }
    assert changed >= {"stem.weight", "norm.running_mean", "blocks.0.conv1.weight", "blocks.1.conv2.weight"}
    assert "blocks.0.conv1.bias" not in changed
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_layers_of_a_stream_have_no_order_of_their_own() -> None:
    model = network()
    plain, own = ghostify(model, calibration=IMAGES, streams=False)
    found, report = ghostify(model, calibration=IMAGES)
    assert {name for name, own in ordered(plain).items() if own} == WRITERS
    assert ordered(found).keys() == ordered(plain).keys()
    assert not any(ordered(found).values())
    assert report.settings["streams"] is True
    assert "streams" not in own.settings
    assert all(
        layer.reconstruction_error is not None for layer in report.layers if layer.name in report.converted
    )


def _with_ghosts_in(model: Network, pairs: list[tuple[int, int]]) -> None:
    """Make one channel of each pair a multiple of the other, in all layers that write the stream."""
    with torch.no_grad():
        for number, block in enumerate(model.blocks):
            for place, (one, two) in enumerate(pairs):
                block.conv2.weight[two] = block.conv2.weight[one] * (0.5 + place + 0.25 * number)


def test_pairs_that_all_layers_of_a_stream_share_are_found() -> None:
    model = network()
    _with_ghosts_in(model, [(6, 1), (0, 3), (7, 4), (2, 5)])
    names = sorted(WRITERS)
    found, report = ghostify(model, layers=names, calibration=IMAGES, streams=True, cheap_kernel_size=1)
    errors = [layer.reconstruction_error for layer in report.layers if layer.name in report.converted]
    assert all(error is not None and error < 1e-3 for error in errors), errors
    torch.testing.assert_close(found(IMAGES), model(IMAGES), rtol=1e-3, atol=1e-3)
    assert not any(ordered(found).values())


def test_layers_of_several_ratios_share_one_order() -> None:
    model = network()
    ratios = {"blocks.0.conv2": 2, "blocks.1.conv2": 4}
    found, _ = ghostify(model, ratio=ratios, calibration=IMAGES, streams=True)
    assert ordered(found) == dict.fromkeys(ratios, False)
    assert torch.isfinite(found(IMAGES)).all()


def test_what_reads_channels_by_their_place_keeps_the_streams_order() -> None:
    model = network()
    model.between, model.head = _Halves(), nn.Linear(4, 5)
    units = find_units(model, IMAGES)
    assert orderable(find_streams(model, units, IMAGES), WRITERS) == []
    found, _ = ghostify(model, calibration=IMAGES, streams=True)
    assert {name for name, own in ordered(found).items() if own} == WRITERS


def test_streams_that_no_converted_layer_writes_stay() -> None:
    model = network()
    assert orderable(find_streams(model, find_units(model, IMAGES), IMAGES), {"blocks.0.conv1"}) == []
    found, _ = ghostify(model, layers=["blocks.0.conv1"], calibration=IMAGES, streams=True)
    assert torch.equal(found.stem.weight, model.stem.weight)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("images", [IMAGES, None], ids=["images", "none"])
def test_a_network_on_another_device_stays_there(images: Tensor | None) -> None:
    found, report = ghostify(network().cuda(), calibration=images, example_input=IMAGES.cuda())
    assert report.settings["streams"] is True
    assert found(IMAGES.cuda()).is_cuda


class _Undecided(nn.Module):
    """Decides by the values of pixels, which no trace follows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(images)
        return self.second(maps) if maps.sum() > 0 else self.second(-maps)


def test_what_cannot_be_done_is_one_line() -> None:
    with pytest.raises(InputError, match="`streams` is for init 'dense'"):
        ghostify(network(), init="random", streams=True)
    with pytest.raises(InputError, match=r"this _Undecided cannot be traced.*leave out `streams`"):
        ghostify(_Undecided(), layers="all", calibration=IMAGES, streams=True)


def test_what_cannot_be_traced_keeps_its_orders_where_nobody_asked() -> None:
    _, report = ghostify(_Undecided(), layers="all", calibration=IMAGES)
    assert report.converted == ["first", "second"]
    assert "streams" not in report.settings


def test_code_that_goes_by_places_of_channels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghostnet.convert.streams._same", lambda *_: False)
    with pytest.raises(InputError, match=r"computes something else .* leave out `streams`"):
        ghostify(network(), calibration=IMAGES, streams=True)
    found, _ = ghostify(network(), calibration=IMAGES)
    assert {name for name, own in ordered(found).items() if own} == WRITERS


_PROJECTIONS = ["features.*.conv.2"]  # of MobileNetV2's blocks, which write its streams


def test_a_file_of_it_is_read_again(tmp_path: Path) -> None:
    model = ghostnet.create_model("mobilenetv2_035", num_classes=4).eval()
    found, _ = ghostify(model, layers=_PROJECTIONS, example_input=torch.zeros(1, 3, 64, 64))
    own, _ = ghostify(model, layers=_PROJECTIONS, streams=False)
    assert sum(ordered(found).values()) < sum(ordered(own).values())
    ghostnet.save(found, tmp_path / "net.safetensors")
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ghostnet.load(tmp_path / "net.safetensors")(images), found(images))


def test_the_verb_passes_it_on_and_says_what_is_lost_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ghostnet.save(ghostnet.create_model("mobilenetv2_035", num_classes=4), tmp_path / "dense.safetensors")
    line = ["convert", str(tmp_path / "dense.safetensors"), "-o", str(tmp_path / "x.safetensors")]
    line += ["--input-size", "3,64,64", "--force", "--json", "--layers", *_PROJECTIONS]
    assert cli.run([*line, "--no-streams"]) == 0
    said = capsys.readouterr()
    assert "streams" not in json.loads(said.out)["settings"]
    assert re.search(r"\d+ of \d+ layers put their channels in order .*; without --no-streams", said.err)
    assert cli.run(line) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["settings"]["streams"] is True
    assert "in order" not in said.err
    assert cli.run([*line, "--streams", "--init", "random"]) == 2
    assert "--streams is for --init dense and pruning methods" in capsys.readouterr().err


def test_a_recipe_converts_so_unless_it_compares_maps() -> None:
    recipe = load_recipe("short_ghost_resnet20_converted", ["streams=true"])
    assert recipe.streams
    assert recipe.converts
    with pytest.raises(InputError, match=r"`streams` .* compares no maps with a teacher's"):
        load_recipe(
            "short_ghost_resnet20_converted", ["streams=true", "teacher=dense", 'feature_layers=["layer1"]']
        )


def test_plans_time_what_comes_out() -> None:
    model = network()
    ratios = dict.fromkeys([*WRITERS, "blocks.0.conv1"], 2)
    assert {
        name for name, own in ordered(_draft(model, GhostSettings(), ratios, IMAGES, [])).items() if own
    } == WRITERS
    how = GhostSettings(streams=True)
    timed = _draft(model, how, ratios, IMAGES, _streams(model, how, IMAGES))
    assert ordered(timed) == dict.fromkeys(ratios, False)
    with pytest.raises(InputError, match="cannot be traced"):
        _streams(_Undecided(), how, IMAGES)
    assert (
        _streams(_Undecided(), GhostSettings(), IMAGES)
        == _streams(model, GhostSettings(streams=False), IMAGES)
        == []
    )


def test_maps_in_another_order_than_the_teachers_are_not_compared(tmp_path: Path) -> None:
    model = network()
    for streams in (None, False):
        found, _ = ghostify(model, calibration=IMAGES, streams=streams)
        ghostnet.save(found, tmp_path / "net.safetensors", force=True)
        found = ghostnet.load(tmp_path / "net.safetensors", model=network())
        refused = pytest.raises(InputError, match=r"one by one.*--no-streams")
        with nullcontext() if streams is False else refused:
            FeatureMatch(found, model, ["blocks.0"]).close()
