"""Graphs of one run: what they hold for other images and sizes, and what is refused."""

from __future__ import annotations

import dataclasses
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from ghostnet.nn.run_tracing import NotRecordedError, trace_run
from ghostnet.nn.sizes import Origin, SizeFloat, SizeInt, plain, values_in
from ghostnet.nn.tracing import Tracer

EXAMPLE = torch.rand(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


class Code(nn.Module):
    """Runs a function, which may read layers, a buffer and a parameter."""

    def __init__(self, function: Callable[[Code, Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        torch.manual_seed(0)
        self.conv, self.norm, self.act = (
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
        )
        self.drop = nn.Dropout()
        self.scale = nn.Parameter(torch.rand(4, 1, 1))
        self.register_buffer("seen", torch.zeros(()))
        self.eval()

    def forward(self, images: Tensor) -> Any:
        return self.function(self, images)


def graph_of(model: nn.Module) -> fx.GraphModule:
    return fx.GraphModule(model, trace_run(Tracer(), model, EXAMPLE))


def called(graph: fx.GraphModule) -> list[str]:
    return [
        str(node.target) if node.op in ("call_module", "call_method") else node.target.__name__
        for node in graph.graph.nodes
        if node.op.startswith("call")
    ]


def _decides_by_sizes(self: Code, x: Tensor) -> Tensor:
    if x.shape[1] != 4 or x.dim() != 4 or len(x.shape) != 4 or not isinstance(x, Tensor):
        raise ValueError("not maps of four channels")
    return self.conv(x)


def _grid(self: Code, x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    rows, columns = torch.meshgrid(
        torch.arange(height, device=x.device), torch.arange(width, device=x.device), indexing="ij"
    )
    return self.conv(x) + rows + 0.5 * columns


def _pieces(self: Code, x: Tensor) -> Tensor:
    parts = list(self.conv(x).chunk(2, 1))
    parts.extend(part * 2 for part in parts[:1])
    largest, _ = torch.cat(parts, 1).max(1, keepdim=True)
    return largest


def _reshaped(self: Code, x: Tensor) -> Tensor:
    images, channels, height, width = x.size()
    half = (height * width) // 2
    return (
        self.conv(x)
        .view(images, channels * 2, half)
        .transpose(1, 2)
        .reshape(images * half, -1)
        .reshape(images, -1)
    )


def _resized(self: Code, x: Tensor) -> Tensor:
    small = self.conv(F.max_pool2d(x, 2))
    return F.interpolate(small, size=x.shape[2:], mode="bilinear", align_corners=False) + x


def _operators(self: Code, x: Tensor) -> Tensor:
    y = 1 - self.conv(x) / 2
    y = 2 / (3 + y**2) @ y.mT
    y += -x
    return (y > 0) * y % 3 + y // 2 + x.mT.data + (x != y)


def _own_parameter(self: Code, x: Tensor) -> Tensor:
    return F.conv2d(x, self.conv.weight * self.scale, self.conv.bias, padding=1)


def _in_place(self: Code, x: Tensor) -> Tensor:
    y = self.conv(x)
    self.act(y)
    y.mul_(2).add_(1)
    torch.add(y, 1, out=y)
    return y


def _a_constant(self: Code, x: Tensor) -> Tensor:
    return self.conv(x) * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1)


def _a_function_of_autograd(self: Code, x: Tensor) -> Tensor:
    return _Twice.apply(self.conv(x))


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return x * 2


def _new_of_a_size(self: Code, x: Tensor) -> Tensor:
    place = torch.zeros(x.shape[0], 1, x.size(2), x.size(dim=3))
    place[:, :, 1:] = self.conv(x)[:, :1, 1:]
    return place + x.new_ones(x.numel() // x.shape[1]).view(x.shape[0], 1, *x.shape[2:])


def _a_decision_by_a_tensor_of_sizes(self: Code, x: Tensor) -> Tensor:
    return self.conv(x) if int(torch.tensor(x.shape).max()) > 2 else x


SAME_AT_OTHER_SIZES = [
    *(_decides_by_sizes, _grid, _pieces, _reshaped, _resized, _operators, _own_parameter, _in_place),
    *(_a_constant, _a_function_of_autograd, _new_of_a_size, _a_decision_by_a_tensor_of_sizes),
]


@pytest.mark.parametrize("function", SAME_AT_OTHER_SIZES)
def test_a_graph_computes_the_same_for_other_images_of_another_size(function: Any) -> None:
    model = Code(function)
    graph = graph_of(model)
    for shape in ((1, 4, 8, 8), (3, 4, 8, 8), (2, 4, 12, 12)):
        images = torch.rand(shape)
        with torch.no_grad():
            expected = model(images.clone())
            torch.testing.assert_close(graph(images.clone()), expected)
            torch.testing.assert_close(graph(images.clone()), expected)  # nothing adds up from call to call


def test_nodes_are_those_that_torch_fx_writes() -> None:
    def code(self: Code, x: Tensor) -> Tensor:
        y = F.relu(self.act(self.norm(self.conv(x)))) + x
        return torch.flatten(torch.cat([y, y * 2], 1).mean((2, 3)), 1) - 1

    model = Code(code)
    expected = fx.GraphModule(model, fx.symbolic_trace(model).graph)
    assert called(graph_of(model)) == called(expected)


def test_modules_stay_whole_as_the_tracer_says() -> None:
    model = nn.Sequential(Code(lambda self, x: self.conv(x) * self.scale), nn.Identity())
    assert called(graph_of(model)) == ["0.conv", "mul", "1"]

    class Keeps(Tracer):
        def is_leaf_module(self, m: nn.Module, _name: str) -> bool:  # type: ignore[override]
            return isinstance(m, Code)

    nodes = trace_run(Keeps(), model, EXAMPLE).nodes
    assert [node.target for node in nodes] == ["input", "0", "output"]


def _largest(self: Code, x: Tensor) -> Tensor:
    return self.conv(x) if x.max() > 0 else x


def _item(self: Code, x: Tensor) -> Tensor:
    return self.conv(x) * x.mean().item()


def _converted(self: Code, x: Tensor) -> Tensor:
    return self.conv(x) * float(x.mean())


def _numpy(self: Code, x: Tensor) -> Tensor:
    return self.conv(x) + torch.from_numpy(x.numpy() * 2)


def _listed(self: Code, x: Tensor) -> Tensor:
    return self.conv(x) + torch.tensor(x.tolist())


def _equal(self: Code, x: Tensor) -> Tensor:
    return self.conv(x) if torch.equal(x, x * 1) else x


def _counts(self: Code, x: Tensor) -> Tensor:
    self.seen.add_(1)
    return self.conv(x) * self.seen


def _writes_a_part_of_a_parameter(self: Code, x: Tensor) -> Tensor:
    self.scale[0] = x[0, 0, 0, 0]
    return self.conv(x) * self.scale


def _fixed_number(self: Code, x: Tensor) -> Tensor:
    return self.conv(x)[: int(x.shape[0])]


def _images_one_by_one(self: Code, x: Tensor) -> Tensor:
    return torch.stack([self.conv(image[None])[0] for image in x])


def _out_of_sight(self: Code, x: Tensor) -> Tensor:
    with torch._C.DisableTorchFunction():
        hidden = x * 2
    return self.conv(hidden)


def _sets_a_property(self: Code, x: Tensor) -> Tensor:
    y = self.conv(x)
    y.data = x
    return y


def _an_object(self: Code, x: Tensor) -> Tensor:
    return self.conv(_with_object(x, object()))


@torch.overrides.wrap_torch_function(lambda images, _how: (images,))
def _with_object(images: Tensor, _how: object) -> Tensor:
    return images


REFUSED = {
    _largest: "reads values of pixels",
    _item: r"reads values of pixels \(item\)",
    _converted: "reads values of pixels",
    _numpy: r"reads values of pixels \(numpy\)",
    _listed: r"reads values of pixels \(tolist\)",
    _equal: r"reads values of pixels \(equal\)",
    _counts: "writes into a tensor that stays",
    _writes_a_part_of_a_parameter: r"writes into a tensor that stays from call to call \(__setitem__\)",
    _fixed_number: "answers something else",
    _images_one_by_one: "answers something else",
    _out_of_sight: "answers something else",
    _sets_a_property: "sets data of a tensor",
    _an_object: "is given a object",
}


@pytest.mark.parametrize("function", REFUSED)
def test_what_a_run_does_not_tell_is_refused(function: Any) -> None:
    call = nn.Module.__call__
    with pytest.raises(NotRecordedError, match=REFUSED[function]):
        trace_run(Tracer(), Code(function), EXAMPLE)
    assert nn.Module.__call__ is call


def test_maps_are_let_go_as_they_are_without_a_trace() -> None:
    def code(self: Code, x: Tensor) -> Tensor:
        y = self.conv(x)
        first = weakref.ref(y)
        y = y * 2
        assert first() is None
        for number in range(50):  # each constant takes the place of the one before
            y = y + torch.full((4, 1, 1), float(number))
        return y

    model = Code(code)
    graph = graph_of(model)
    images = torch.rand(2, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(graph(images), 2 * model.conv(images) + sum(range(50)))


def test_hooks_of_the_network_itself_are_no_part_of_its_graph() -> None:
    model = Code(lambda self, x: self.conv(x) if len(x) else x)
    model.register_forward_hook(lambda _module, _inputs, output: output * 2)
    assert called(graph_of(model)) == ["conv"]


def test_what_a_forward_raises_comes_through() -> None:
    def refuses(_self: Code, x: Tensor) -> Tensor:
        raise ZeroDivisionError(f"no images of {x.shape[2]} pixels")

    call = nn.Module.__call__
    with pytest.raises(ZeroDivisionError, match="no images of 8 pixels"):
        trace_run(Tracer(), Code(refuses), EXAMPLE)
    assert nn.Module.__call__ is call


def test_training_mode_leaves_statistics_and_random_numbers_alone() -> None:
    model = Code(lambda self, x: self.drop(self.norm(self.conv(x)))).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    graph = graph_of(model)
    assert torch.equal(torch.rand(3), expected)
    assert called(graph) == ["conv", "norm", "drop"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@dataclasses.dataclass
class Answer(OrderedDict):  # as transformers' ModelOutput
    """Scores, and perhaps maps."""

    scores: Tensor
    maps: Tensor | None = None


class Two(NamedTuple):
    """Two results."""

    first: Tensor
    second: Tensor


@pytest.mark.parametrize(
    "answer",
    [
        lambda y: Answer(y.mean((2, 3)), None),
        lambda y: Answer(y.mean((2, 3)), y),
        lambda y: Two(y, y + 1),
        lambda y: {"maps": [y, y + 1], "none": None},
        lambda y: [y, (y, {"deep": y})],
    ],
)
def test_answers_keep_their_class(answer: Any) -> None:
    model = Code(lambda self, x: answer(self.conv(x) if x.shape[1] == 4 else x))
    images = torch.rand(3, 4, 8, 8)
    with torch.no_grad():
        found, expected = graph_of(model)(images), model(images)
    assert type(found) is type(expected)
    if dataclasses.is_dataclass(expected):
        found, expected = dataclasses.asdict(found), dataclasses.asdict(expected)
    torch.testing.assert_close(found, expected)


def test_the_answer_may_be_a_mark_of_what_is_known() -> None:
    graph = graph_of(Code(lambda self, x: (self.conv(x), x.shape[2] // 2, "name")))
    assert graph(torch.rand(2, 4, 12, 12))[1:] == (6, "name")


def test_devices_are_those_of_the_images() -> None:
    model = Code(lambda self, x: self.conv(x) + torch.arange(x.shape[3], device=x.device))
    assert not any(
        isinstance(part, torch.device)
        for node in graph_of(model).graph.nodes
        for part in node.kwargs.values()
    )


_NUMBERS = st.integers(1, 9)
_STEPS = st.lists(
    st.tuples(st.sampled_from(["+", "-", "*", "//", "%", "/"]), _NUMBERS, st.booleans()),
    min_size=1,
    max_size=6,
)


@given(_NUMBERS, _NUMBERS, _STEPS)
def test_arithmetic_of_sizes_is_remembered(
    traced: int, other: int, steps: list[tuple[str, int, bool]]
) -> None:
    def compute(number: Any) -> Any:
        for sign, constant, swapped in steps:
            left, right = (constant, number) if swapped else (number, constant)
            number = eval(f"left {sign} right", {}, {"left": left, "right": right})
        return -number

    graph = fx.Graph()
    size = SizeInt(traced, Origin(graph, "size", (graph.placeholder("x"), 0)))
    try:
        expected = compute(traced), compute(other)
    except ZeroDivisionError:
        return
    found = compute(size)
    assert found == expected[0]
    assert isinstance(found, (SizeInt, SizeFloat))
    graph.output(found.origin.node())
    assert fx.GraphModule(nn.Module(), graph)(torch.zeros(other)) == expected[1]


def test_sizes_are_numbers_to_all_other_code() -> None:
    graph = fx.Graph()
    size = SizeInt(3, Origin(graph, "size", (graph.placeholder("x"), 0)))
    assert isinstance(size, int)
    assert (size == 3, size < 4, bool(size), list(range(size)), f"{size}") == (
        True,
        True,
        True,
        [0, 1, 2],
        "3",
    )
    assert [type(value) for value in (plain(size), plain(size / 2), int(size))] == [int, float, int]
    assert plain({"a": [size, (size,)], "b": slice(size)}) == {"a": [3, (3,)], "b": slice(3)}
    assert list(values_in({"a": [1, (2,)], "b": slice(3)})) == [1, 2, None, 3, None]
    import copy

    assert type(copy.deepcopy(size)) is int
    assert type(copy.deepcopy(size / 2)) is float
    assert len(list(graph.nodes)) == 1  # nothing was written that nobody asked for
