"""Every pass and every set of passes computes the same, on networks made at random; and does what it says, counted."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import fx, nn

from ghostnet.deploy import optimize
from ghostnet.deploy.passes import PASSES, default_passes
from ghostnet.errors import InputError
from ghostnet.models import create_model
from ghostnet.nn import GhostConv2d, SqueezeExcite
from ghostnet.nn.ghost_module import GhostModule

TARGETS = ("onnx", "openvino", "litert", "ncnn", "mnn", "c", "coreml", "executorch")


def randomise_(model: nn.Module, seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            size = module.num_features
            module.running_mean.copy_(0.3 * torch.randn(size, generator=generator))
            module.running_var.copy_(torch.rand(size, generator=generator) + 0.5)
            module.weight.data = torch.rand(size, generator=generator) + 0.5
            module.bias.data = 0.3 * torch.randn(size, generator=generator)
    return model.eval()


def count(model: nn.Module) -> Counter[str]:
    assert isinstance(model, fx.GraphModule)
    names: Counter[str] = Counter()
    for node in model.graph.nodes:
        if node.op == "call_module":
            names[type(model.get_submodule(str(node.target))).__name__] += 1
        elif node.op.startswith("call"):
            names[getattr(node.target, "__name__", str(node.target))] += 1
    return names


class Block(nn.Module):
    """Expand, stride or not, gate, project, add: a bottleneck of Ghost convolutions of any shape."""

    def __init__(self, channels: int, hidden: int, *, gate: bool, depthwise: bool, **ghost: object) -> None:
        super().__init__()
        self.expand = GhostConv2d(channels, hidden, 1, **ghost)  # type: ignore[arg-type]
        self.norm = nn.BatchNorm2d(hidden)
        self.middle = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden) if depthwise else nn.Identity()
        self.gate = SqueezeExcite(hidden) if gate else nn.Identity()
        self.project = GhostConv2d(hidden, channels, 3, padding=1, **ghost)  # type: ignore[arg-type]
        self.project_norm = nn.BatchNorm2d(channels)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        hidden = self.gate(self.middle(F.relu(self.norm(self.expand(maps)))))
        return maps + self.project_norm(self.project(hidden))


class Random(nn.Module):
    def __init__(self, blocks: list[nn.Module], channels: int, end: str) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 3, 2, 1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        self.blocks = nn.Sequential(*blocks)
        self.end = end
        self.mix = nn.Conv2d(channels, 6, 3, padding=2, dilation=2)
        self.pool, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.blocks(self.stem(images))
        if self.end == "pool":
            maps = F.max_pool2d(maps, 2)
        if self.end == "grid":
            return maps
        return self.classifier(self.pool(F.relu6(self.mix(maps))).flatten(1))


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    torch.manual_seed(draw(st.integers(0, 99)))
    channels = draw(st.sampled_from([6, 7, 9, 12, 16, 20]))
    blocks: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 2))):
        block = Block(
            channels,
            draw(st.sampled_from([8, 11, 13, 24, 36])),
            gate=draw(st.booleans()),
            depthwise=draw(st.booleans()),
            ratio=draw(st.integers(2, 4)),
            cheap_kernel_size=draw(st.sampled_from([1, 3, 5, 7])),
            cheap_operation=draw(
                st.sampled_from(["depthwise", "depthwise", "depthwise", "wavelet", "affine"])
            ),
        )
        for layer in (block.expand, block.project):
            if draw(st.booleans()):
                layer.set_channel_order_(torch.randperm(layer.out_channels))
        blocks.append(block)
    return randomise_(Random(blocks, channels, draw(st.sampled_from(["plain", "pool", "grid"]))))


def assert_equal(model: nn.Module, result: nn.Module, images: torch.Tensor) -> None:
    with torch.no_grad():
        expected, found = model(images), result(images)
    assert (expected - found).abs().max() <= 1e-5 * expected.abs().max()


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(model=networks(), chosen=st.sets(st.sampled_from(list(PASSES)), min_size=1))
def test_any_set_of_passes_computes_the_same(model: nn.Module, chosen: set[str]) -> None:
    state = copy.deepcopy(model.state_dict())
    result = optimize(model, passes=sorted(chosen), input_size=(3, 13, 15))  # compares to 1e-5
    assert_equal(model, result, torch.randn(3, 3, 14, 18))  # and at another size
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


SHAPES = [
    {"groups": 2},
    {"dilation": 2, "padding": 2},
    {"stride": 2, "padding": 1},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": "same"},
]


@pytest.mark.parametrize("name", list(PASSES))
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(shape))
def test_each_pass_computes_the_same_on_chained_ghost_convolutions(
    name: str, shape: dict[str, object]
) -> None:
    first = GhostConv2d(4, 14, 3, ratio=3, **shape)  # type: ignore[arg-type]
    second = GhostConv2d(14, 10, 3, **shape)  # type: ignore[arg-type]
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), first, nn.BatchNorm2d(14), nn.SiLU(), second, nn.Conv2d(10, 3, 1)
    )
    optimize(randomise_(model), passes=["fold_batch_norm", name], input_size=(3, 12, 12))


@pytest.mark.slow
def test_all_pairs_of_passes_hold() -> None:
    block = Block(7, 11, gate=True, depthwise=True, ratio=3)
    model = randomise_(Random([block, Block(7, 12, gate=False, depthwise=False)], 7, "plain"))
    pairs = list(combinations(PASSES, 2))
    for pair in pairs:
        optimize(model, passes=pair, input_size=(3, 32, 32))
    assert len(pairs) == len(PASSES) * (len(PASSES) - 1) // 2


def test_split_leaves_no_concatenation_between_the_modules_of_a_bottleneck() -> None:
    model = randomise_(create_model("ghostnet_100"))
    plain = count(optimize(model, passes=["fold_batch_norm"]))
    split = count(optimize(model, passes=["fold_batch_norm", "split"]))
    streams = count(optimize(model, passes=["fold_batch_norm", "split_residuals"]))
    assert (plain["cat"], split["cat"], streams["cat"]) == (
        32,
        23,
        7,
    )  # 16 bottlenecks, 7 of them with a gate
    assert plain["getitem"] == split["getitem"] == streams["getitem"] == 0


class _Residual(nn.Module):
    """A residual network of two Ghost convolutions, and what reads it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = GhostConv2d(3, channels, 3)
        self.inner, self.outer = nn.Conv2d(channels, 4, 1), GhostConv2d(4, channels, 1)
        self.last = nn.Conv2d(channels, 3, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.stem(images)
        return self.last(torch.relu(maps + self.outer(self.inner(maps))))


@pytest.mark.parametrize("passes", [["split"], ["pad_halves"], ["twin", "split"]])
def test_wide_residual_streams_stay_in_parts_and_narrow_ones_do_not(passes: list[str]) -> None:
    for channels, concatenations in ((256, 0), (192, 2)):
        model = randomise_(_Residual(channels))
        result = optimize(model, passes=passes, input_size=(3, 8, 8))
        assert count(result)["cat"] == concatenations, channels


def test_split_leaves_one_concatenation_in_a_ghost_vgg() -> None:
    model = randomise_(create_model("ghost_vgg16"))
    result = count(optimize(model, passes=["fold_batch_norm", "split"]))
    assert (result["cat"], result["Conv2d"]) == (
        1,
        13 + 13 + 12,
    )  # the classifier reads it; each layer but the first


def test_odd_counts_and_channel_orders_go_into_the_next_weights() -> None:
    first = GhostConv2d(3, 13, 3)
    first.set_channel_order_(torch.randperm(13))
    model = randomise_(nn.Sequential(first, nn.BatchNorm2d(13), nn.ReLU(), nn.Conv2d(13, 5, 3)))
    before = count(optimize(model, passes=["fold_batch_norm"], input_size=(3, 9, 9)))
    after = count(optimize(model, passes=["fold_batch_norm", "split"], input_size=(3, 9, 9)))
    assert before["index_select"] == 1
    assert not {"index_select", "getitem", "cat"} & set(after)


@pytest.mark.parametrize("activation", [None, "relu", "relu6", "silu"])
@pytest.mark.parametrize("ratio", [2, 3, 4])
def test_a_narrow_ghost_convolution_has_a_twin_without_concatenation(
    activation: str | None, ratio: int
) -> None:
    layer = GhostConv2d(5, 12, 1, ratio=ratio, norm="batch", activation=activation)
    model = randomise_(nn.Sequential(layer, nn.Conv2d(12, 4, 1)))
    result = count(optimize(model, passes=["fold_batch_norm", "twin"], input_size=(5, 9, 9)))
    assert result["cat"] == (activation == "silu")  # silu(silu(y)) is not silu(y)


def test_the_twin_takes_the_norm_of_the_intrinsic_maps_in() -> None:
    model = randomise_(nn.Sequential(GhostConv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.SiLU()))
    result = count(optimize(model, passes=["fold_batch_norm", "twin"], input_size=(3, 9, 9)))
    assert (result["cat"], result["Conv2d"]) == (0, 2)


def test_channels_last_maps_can_still_be_viewed() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps = self.conv(images)
            return maps.view(maps.size(0), -1)

    optimize(Viewing(), passes=["channels_last"], input_size=(3, 6, 6))


def test_a_wide_ghost_convolution_has_no_twin() -> None:
    model = randomise_(nn.Sequential(GhostConv2d(3, 18, 3), nn.Conv2d(18, 4, 1)))
    assert count(optimize(model, passes=["twin"], input_size=(3, 9, 9)))["cat"] == 1


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize(("maps", "ratio", "read"), [(40, 2, 48), (72, 2, 80), (54, 3, 64), (112, 2, 112)])
def test_maps_that_do_not_fill_a_block_share_one(
    maps: int, ratio: int, read: int, activation: str | None
) -> None:
    layer = GhostConv2d(5, maps, 1, ratio=ratio, norm="batch", activation=activation)
    model = randomise_(nn.Sequential(layer, nn.Conv2d(maps, 4, 1)))
    passes = ["fold_batch_norm", "twin_rest", "pad_halves"]
    result = optimize(model, passes=passes, input_size=(5, 9, 9))
    convolutions = [conv for conv in result.modules() if type(conv) is nn.Conv2d]
    last = [conv for conv in convolutions if conv.in_channels > 5 and conv.groups == 1]
    assert sum(conv.in_channels for conv in last) == read
    assert not {"cat", "index_select", "getitem"} & set(count(result))


class ActivatedApart(nn.Module):
    """Intrinsic maps are activated behind the place where the cheap operation reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.primary, self.cheap = nn.Conv2d(3, 20, 1), nn.Conv2d(20, 20, 3, padding=1, groups=20)
        self.read, self.activation = nn.Conv2d(40, 4, 1), nn.SiLU()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.primary(images)
        return self.read(torch.cat([self.activation(maps), self.activation(self.cheap(maps))], 1))


def test_a_shared_block_keeps_activations_in_their_places() -> None:
    result = count(optimize(ActivatedApart(), passes=["twin_rest", "split"], input_size=(3, 9, 9)))
    assert (result["cat"], result["SiLU"], result["Conv2d"]) == (0, 3, 4 + 3)


def test_silu_of_silu_keeps_maps_from_sharing_a_block() -> None:
    layer = GhostConv2d(5, 40, 1, activation="silu")
    result = count(optimize(nn.Sequential(layer), passes=["twin_rest"], input_size=(5, 9, 9)))
    assert (result["cat"], result["Conv2d"]) == (1, 2)


@pytest.mark.parametrize(
    "maps", [24, 64, 56]
)  # 12, 32 and 28 intrinsic: no full block, nothing left, too many left
def test_other_counts_of_maps_have_no_shared_block(maps: int) -> None:
    model = randomise_(nn.Sequential(GhostConv2d(5, maps, 1), nn.Conv2d(maps, 4, 1)))
    result = count(optimize(model, passes=["twin_rest"], input_size=(5, 9, 9)))
    assert (result["cat"], result["Conv2d"], result["index_select"]) == (1, 3, 0)


@pytest.mark.parametrize("name", ["split", "split_residuals", "pad_halves", "pad_eights"])
def test_a_gate_is_computed_once_for_all_parts(name: str) -> None:
    model = randomise_(create_model("ghostnet_100"))
    gates = sum(isinstance(module, SqueezeExcite) for module in model.modules())
    result = count(optimize(model, passes=["squeeze_excite", "fold_batch_norm", name]))
    assert (result["mul"], result["mean"], result["Hardsigmoid"]) == (gates, gates, gates)


@pytest.mark.parametrize(("padding", "block"), [("pad_halves", 16), ("pad_eights", 8)])
def test_padded_halves_are_multiples_of_a_block_and_cost_no_slice(padding: str, block: int) -> None:
    result = optimize(randomise_(create_model("ghostnet_100")), passes=["fold_batch_norm", "twin", padding])
    assert isinstance(result, fx.GraphModule)
    assert not {"getitem", "index_select"} & set(count(result))
    maps = [
        conv for name, conv in result.named_modules() if type(conv) is nn.Conv2d and "squeeze" not in name
    ]
    blocks = [conv.out_channels % block == 0 for conv in maps]
    assert sum(blocks) >= len(blocks) - 2  # what is left are the gates' layers, on one pixel
    assert any(conv.out_channels % 16 for conv in maps) == (block == 8)


def test_a_pass_changes_nothing_the_second_time() -> None:
    model = randomise_(
        Random(
            [Block(9, 24, gate=True, depthwise=True), Block(9, 16, gate=False, depthwise=False)], 9, "plain"
        )
    )
    for name in PASSES:
        once = optimize(model, passes=["fold_batch_norm", name], input_size=(3, 16, 16))
        twice = optimize(once, passes=["fold_batch_norm", name], input_size=(3, 16, 16))
        assert count(once) == count(twice), name


def test_the_head_becomes_matrix_products() -> None:
    result = count(optimize(randomise_(create_model("ghostnet_050")), passes=["head"]))
    assert (result["Linear"], result["flatten"]) == (2, 1)


def test_a_head_whose_map_is_read_elsewhere_stays() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.conv = nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 5, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps = self.conv(self.pool(images))
            return maps.flatten(1) + maps.mean((2, 3))

    assert count(optimize(Two(), passes=["head"], input_size=(3, 6, 6)))["Conv2d"] == 1


def test_the_gate_becomes_one_operation() -> None:
    result = count(optimize(randomise_(create_model("ghostnet_100")), passes=["squeeze_excite"]))
    assert (result["Hardsigmoid"], result["relu6"]) == (7, 0)


def test_what_an_in_place_operation_overwrote_is_read_after_it() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps = self.conv(images)
            active = self.relu(maps)
            return maps * 2 + active

    optimize(Overwriting(), passes=[], input_size=(3, 6, 6))


def test_wide_concatenations_stay_whole() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList(GhostConv2d(3, 4, 1) for _ in range(4))
            self.mix = nn.Conv2d(16, 5, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.mix(torch.cat([branch(images) for branch in self.branches], 1))

    result = count(optimize(Wide(), passes=["split"], input_size=(3, 6, 6)))
    assert (result["cat"], result["Conv2d"]) == (1, 9)


def test_a_network_that_does_not_trace_takes_any_set() -> None:
    class Untraceable(nn.Sequential):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images if images.sum() < 1e9 else images * 2)

    body = nn.Sequential(GhostModule(3, 10), GhostModule(10, 6), nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4))
    model = randomise_(Untraceable(body))
    for name in PASSES:
        result = optimize(model, passes=[name], input_size=(3, 8, 8))
        assert not isinstance(result, fx.GraphModule)


@pytest.mark.parametrize("target", [None, *TARGETS])
def test_every_target_has_a_measured_set(target: str | None) -> None:
    assert "fold_batch_norm" in default_passes(target)
    assert set(default_passes(target)) <= set(PASSES)
    optimize(randomise_(nn.Sequential(GhostModule(3, 10), nn.Conv2d(10, 4, 1))), target=target)


@pytest.mark.parametrize(("capability", "padding"), [("AVX512", "pad_halves"), ("AVX2", "pad_eights")])
def test_blocks_are_as_wide_as_the_registers(
    capability: str, padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert [name for name in default_passes("onnx") if name.startswith("pad_")] == [padding]
    assert not [name for name in default_passes("openvino") if name.startswith("pad_")]


@pytest.mark.parametrize("names", [["split"], ["pad_halves"], ["fold_batch_norm", "split"], ["join_late"]])
def test_a_channel_that_is_taken_twice_is_read_twice(names: list[str]) -> None:
    class Repeats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ghost, self.norm = GhostConv2d(3, 8, 3, padding=1), nn.BatchNorm2d(5)
            self.read = nn.Conv2d(5, 4, 3)
            self.register_buffer("taken", torch.tensor([0, 5, 5, 1, 0]))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.read(self.norm(self.ghost(images).index_select(1, self.taken)))

    torch.manual_seed(0)
    optimize(Repeats(), passes=names, input_size=(3, 6, 6))  # compares


def test_unknown_names_list_near_ones() -> None:
    model = nn.Conv2d(3, 4, 1)
    with pytest.raises(InputError, match=r"pass 'spilt'.*split"):
        optimize(model, passes=["spilt"])
    with pytest.raises(InputError, match=r"'onx'.*onnx"):
        optimize(model, target="onx")
    with pytest.raises(InputError, match=r"must be a list of names; use \[\"split\"\]"):
        optimize(model, passes="split")


def test_operations_are_plain_after_the_trace() -> None:
    class Sums(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            total = torch.add(images, images)
            total += images
            return total.mul_(2).relu_()

    result = optimize(Sums(), passes=[], input_size=(3, 4, 4))
    assert isinstance(result, fx.GraphModule)
    targets = {node.target for node in result.graph.nodes if node.op == "call_function"}
    assert targets == {operator.add, operator.mul, torch.relu}
