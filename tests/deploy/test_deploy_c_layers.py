"""What becomes of layers before they are C: which are joined, where their maps lie, what memory they share."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostnet.deploy.c_source.fusion import fuse_
from ghostnet.deploy.c_source.layers import (
    IDENTITY,
    Activation,
    Channels,
    Concatenation,
    Convolution,
    Elementwise,
    Layer,
    Network,
)
from ghostnet.deploy.c_source.places import Place, arena, lay_out
from ghostnet.deploy.c_source.steps import Lowering
from ghostnet.deploy.c_source.weights import Weights, panels_of
from ghostnet.deploy.c_source.winograd import ends_of_parts, is_worth

SIZE = (4, 6, 6)


def conv(source: str, result: str, *, groups: int = 1) -> Convolution:
    weight = np.ones((4, 4 // groups, 1, 1), np.float32)
    return Convolution(source, result, weight, np.zeros(4, np.float32), (1, 1), (0,) * 4, (1, 1), groups)


def act(source: str, result: str, kind: str = "RELU") -> Elementwise:
    return Elementwise("FIRST", source, None, result, Activation(kind))


def network(*layers: Layer, scores: str = "") -> Network:
    names = {"images", *(layer.result for layer in layers)}
    sizes = dict.fromkeys(names, SIZE)
    for layer in layers:
        if isinstance(layer, Concatenation):
            sizes[layer.result] = sum(sizes[name][0] for name in layer.sources), *SIZE[1:]
        if isinstance(layer, Channels):
            sizes[layer.result] = len(layer.index), *SIZE[1:]
    return Network(list(layers), "images", [scores or layers[-1].result], {"logits": (4,)}, sizes)


def kinds(found: Network) -> list[tuple]:
    """Return what tells layers apart in these tests."""
    return [
        (
            type(layer).__name__,
            layer.result,
            getattr(layer, "activation", IDENTITY).kind,
            getattr(layer, "add", None),
        )
        for layer in found.layers
    ]


def test_an_activation_joins_the_layer_that_it_alone_reads() -> None:
    found = network(conv("images", "a"), act("a", "b"), conv("b", "c"), act("c", "d"), conv("d", "e"))
    fuse_(found)
    assert kinds(found) == [
        ("Convolution", "b", "RELU", None),
        ("Convolution", "d", "RELU", None),
        ("Convolution", "e", "NONE", None),
    ]


def test_it_stays_where_another_layer_reads_the_same() -> None:
    found = network(conv("images", "a"), act("a", "b"), Elementwise("ADD", "a", "b", "c"))
    fuse_(found)
    assert [layer.result for layer in found.layers] == ["a", "b", "c"]


def test_a_second_activation_is_not_lost() -> None:
    found = network(conv("images", "a"), act("a", "b", "CLIP"), act("b", "c", "ABS"))
    fuse_(found)
    assert kinds(found) == [("Convolution", "b", "CLIP", None), ("Elementwise", "c", "ABS", None)]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("gate", "joined"), [("SIGMOID", "SILU"), ("HARD_SIGMOID", "HARD_SWISH")])
def test_a_value_times_its_gate_is_one_activation(gate: str, joined: str, swapped: bool) -> None:
    operands = ("g", "a") if swapped else ("a", "g")
    found = network(conv("images", "a"), act("a", "g", gate), Elementwise("MULTIPLY", *operands, "b"))
    fuse_(found)
    assert kinds(found) == [("Convolution", "b", joined, None)]


def test_another_value_times_a_gate_is_none() -> None:
    found = network(
        conv("images", "a"),
        conv("images", "b"),
        act("a", "g", "SIGMOID"),
        Elementwise("MULTIPLY", "b", "g", "c"),
    )
    fuse_(found)
    assert kinds(found)[-1] == ("Elementwise", "c", "NONE", None)


@pytest.mark.parametrize("operands", [("a", "b"), ("b", "a")])
def test_the_later_convolution_of_a_sum_adds_the_other_and_activates_what_comes_out(
    operands: tuple[str, str],
) -> None:
    found = network(
        conv("images", "a"), conv("images", "b"), Elementwise("ADD", *operands, "c"), act("c", "d")
    )
    fuse_(found)
    assert kinds(found) == [("Convolution", "a", "NONE", None), ("Convolution", "d", "RELU", "a")]


@pytest.mark.parametrize(
    "layers",
    [
        (
            conv("images", "a"),
            act("a", "b"),
            conv("b", "c"),
            act("c", "d"),
            Elementwise("ADD", "a", "d", "e"),
        ),
        (conv("images", "a"), conv("a", "b", groups=4), Elementwise("ADD", "a", "b", "e")),
        (
            conv("images", "a"),
            conv("a", "b"),
            Elementwise("ADD", "a", "b", "c"),
            Elementwise("MULTIPLY", "b", "c", "e"),
        ),
        (conv("images", "a"), Elementwise("ADD", "a", "a", "e")),
    ],
    ids=["activated before the sum", "depthwise", "read elsewhere, too", "with itself"],
)
def test_other_sums_stay(layers: tuple[Layer, ...]) -> None:
    found = network(*layers)
    fuse_(found)
    assert all(getattr(layer, "add", None) is None for layer in found.layers)
    assert any(isinstance(layer, Elementwise) and layer.kind == "ADD" for layer in found.layers)


def test_an_activation_of_a_concatenation_joins_the_layers_that_make_its_parts() -> None:
    found = network(
        conv("images", "a"), conv("a", "b"), Concatenation(["a", "b"], "c"), act("c", "d"), conv("d", "e")
    )
    fuse_(found)
    assert kinds(found) == [
        ("Convolution", "a", "NONE", None),
        ("Convolution", "d[1].activated", "RELU", None),
        ("Elementwise", "d[0].activated", "RELU", None),  # b reads a as it is
        ("Concatenation", "d", "NONE", None),
        ("Convolution", "e", "NONE", None),
    ]


def test_a_concatenation_that_others_read_is_not_activated() -> None:
    found = network(
        conv("images", "a"), Concatenation(["a", "a"], "b"), act("b", "c"), Elementwise("ADD", "b", "c", "d")
    )
    fuse_(found)
    assert [layer.result for layer in found.layers] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("operands", [("a", "b"), ("b", "a")])
def test_a_sum_reads_channels_in_the_order_that_it_wants(operands: tuple[str, str]) -> None:
    order = np.array([2, 0, 1, 3])
    found = network(
        act("images", "a", "ABS"),
        Channels("images", "b", order),
        Elementwise("ADD", *operands, "c"),
        act("c", "d"),
    )
    fuse_(found)
    assert [layer.result for layer in found.layers] == ["a", "d"]
    total = found.layers[-1]
    assert isinstance(total, Elementwise)
    assert (total.source, total.second, total.activation.kind) == ("images", "a", "RELU")
    assert total.index is order


@pytest.mark.parametrize(
    "layers",
    [
        (Channels("images", "b", np.array([2, -1, 1, 3])), act("b", "c")),
        (Channels("images", "b", np.array([2, 0, 1, 3])), act("b", "c"), Elementwise("ADD", "b", "c", "d")),
        (Channels("images", "b", np.array([2, 0, 1, 3])), Elementwise("SUBTRACT", "b", "images", "d")),
    ],
    ids=["zeros", "read elsewhere, too", "a difference"],
)
def test_other_orders_stay(layers: tuple[Layer, ...]) -> None:
    found = network(*layers)
    fuse_(found)
    assert any(isinstance(layer, Channels) for layer in found.layers)


def test_parts_of_concatenations_lie_in_the_whole() -> None:
    found = network(
        conv("images", "a"),
        conv("images", "b"),
        Concatenation(["a", "b"], "ab"),
        conv("images", "c"),
        Concatenation(["c", "ab"], "all"),
    )
    places = lay_out(found)
    assert [layer.result for layer in found.layers] == ["a", "b", "c"]  # nothing is copied
    assert (places["c"], places["a"], places["b"]) == (
        Place("all", 0, 12),
        Place("all", 4, 12),
        Place("all", 8, 12),
    )


def test_what_cannot_lie_there_is_copied() -> None:
    found = network(
        conv("images", "a"),
        Concatenation(["a", "images"], "first"),
        Concatenation(["a", "a"], "second"),
        Concatenation(["first", "second"], "all"),
    )
    places = lay_out(found)
    copies = [(layer.source, places[layer.result].offset) for layer in found.layers if layer.result != "a"]
    assert copies == [("images", 4), ("a", 8), ("a", 12)]
    assert places["a"] == Place("all", 0, 16)


def test_a_run_of_channels_is_a_part_and_others_are_gathered() -> None:
    found = network(
        conv("images", "a"),
        Channels("a", "run", np.array([1, 2, 3])),
        Channels("a", "picked", np.array([2, 0])),
    )
    places = lay_out(found)
    assert places["run"] == Place("a", 1, 4)
    assert [layer.result for layer in found.layers] == ["a", "picked"]
    assert places["picked"] == Place("picked", 0, 2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=14))
def test_maps_that_live_at_once_share_no_memory(lives: list[tuple[int, int, int]]) -> None:
    names = [f"m{number}" for number in range(len(lives))]
    sizes = {name: (channels, 3, 3) for name, (channels, _, _) in zip(names, lives, strict=True)}
    spans = {name: (min(a, b), max(a, b)) for name, (_, a, b) in zip(names, lives, strict=True)}
    uses = [[name for name in names if time in spans[name]] for time in range(9)]
    begins, total = arena(uses, {name: Place(name, 0, sizes[name][0]) for name in names}, sizes)
    for one in names:
        assert begins[one] % 16 == 0
        assert begins[one] + 9 * sizes[one][0] + 7 <= total  # with what kernels may read behind it
        for other in names:
            together = spans[one][0] <= spans[other][1] and spans[other][0] <= spans[one][1]
            if one < other and together:
                low, high = sorted((one, other), key=begins.__getitem__)
                assert begins[low] + 9 * sizes[low][0] <= begins[high]


def test_memory_of_maps_that_are_done_with_is_used_again() -> None:
    sizes = dict.fromkeys("abcdef", (16, 8, 8))
    uses = [["a", "b"], ["b", "c"], ["c", "d"], ["d", "e"], ["e", "f"]]
    _, total = arena(uses, {name: Place(name, 0, 16) for name in sizes}, sizes)
    assert total < 2.1 * 16 * 64


@pytest.mark.parametrize("outputs", [1, 8, 9, 16, 20, 24, 36, 40, 56])
def test_panels_hold_each_weight_once_and_zeros_to_fill_vectors(outputs: int) -> None:
    matrix = np.arange(1, 1 + 5 * outputs, dtype=np.float32).reshape(5, outputs)
    panels = panels_of(matrix)
    assert panels.size == 5 * -(-outputs // 8) * 8
    assert sorted(panels[panels > 0].tolist()) == matrix.ravel().tolist()


def test_deep_products_are_added_up_in_parts() -> None:
    weight = np.ones((4, 1000, 1, 1), np.float32)
    deep = Convolution(
        "a", "b", weight, np.ones(4, np.float32), (1, 1), (0,) * 4, (1, 1), 1, "c", Activation("RELU")
    )
    found = network(conv("images", "a"), conv("images", "c"), deep)
    found.sizes["a"] = (1000, 6, 6)
    lowering = Lowering(found, lay_out(found))
    lowering.run()
    parts = [step.fields for step in lowering.steps if "b" in step.maps and step.kind == "product"]
    assert [part["length"] for part in parts] == [250, 250, 250, 250]
    assert [part["activation"].kind for part in parts] == ["NONE", "NONE", "NONE", "RELU"]
    assert [part["add"].name for part in parts] == ["c", "b", "b", "b"]
    biases = [lowering.weights.array()[part["bias"]] for part in parts]
    assert biases == [1, 0, 0, 0]


def square(outputs: int, inputs: int, side: int, **changed) -> tuple[Convolution, dict]:
    weight = np.ones((outputs, inputs, 3, 3), np.float32)
    settings = {"stride": (1, 1), "padding": (1,) * 4, "dilation": (1, 1), "groups": 1} | changed
    layer = Convolution("a", "b", weight, np.ones(outputs, np.float32), **settings)
    return layer, {"a": (inputs, side, side), "b": (outputs, side, side)}


@pytest.mark.parametrize(
    ("outputs", "inputs", "side"), [(16, 16, 32), (64, 64, 8), (256, 256, 14), (32, 64, 112)]
)
def test_many_small_filters_are_computed_by_winograd(outputs: int, inputs: int, side: int) -> None:
    layer, sizes = square(outputs, inputs, side)
    assert is_worth(layer, sizes)
    for changed in ({"stride": (2, 2)}, {"dilation": (1, 2)}, {"groups": 2}):
        assert not is_worth(square(outputs, inputs, side, **changed)[0], sizes)


@pytest.mark.parametrize(
    ("side", "apart", "worth"), [(28, 2, True), (28, 4, True), (14, 6, False), (14, 12, False)]
)
def test_dilated_filters_are_where_few_tiles_lie_half_outside(side: int, apart: int, worth: bool) -> None:
    assert is_worth(*square(128, 128, side, dilation=(apart, apart))) is worth


@pytest.mark.parametrize(
    ("outputs", "inputs", "side"), [(32, 3, 112), (16, 16, 4), (512, 512, 3), (8, 8, 32)]
)
def test_not_where_the_transforms_cost_what_they_save(outputs: int, inputs: int, side: int) -> None:
    assert not is_worth(*square(outputs, inputs, side))


@pytest.mark.parametrize(("tiles", "inputs"), [(1, 8), (64, 512), (65, 512), (3136, 64), (455, 9), (456, 9)])
def test_parts_of_a_map_hold_each_tile_once_and_stay_in_the_cache(tiles: int, inputs: int) -> None:
    ends = ends_of_parts(tiles, inputs)
    sizes = np.diff(ends)
    assert ends[0] == 0
    assert ends[-1] == tiles
    assert sizes.min() > 0
    assert sizes.max() - sizes.min() <= 1
    assert all(size <= 64 or size * 36 * 4 * -(-inputs // 8) * 8 <= 1 << 20 for size in sizes)


@pytest.mark.parametrize("half", [False, True])
def test_all_weights_begin_at_a_line_of_the_cache(half: bool) -> None:
    weights = Weights(half=half)
    begins = [
        weights.put_matrix(np.ones((3, 7))),
        weights.put(np.ones(5)),
        weights.put_matrix(np.ones((2, 8))),
    ]
    assert [begin % 16 for begin in begins] == [0, 0, 0]
    assert weights.floats % 16 == 0
