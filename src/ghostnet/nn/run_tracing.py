"""A network as a graph of one run on an example, for code that `torch.fx` cannot follow: `trace_run`.

fx hands stand-ins through a forward, which may not compare sizes, count, or ask for a kind. Here real tensors go
through, and each function that is given them is written down. Sizes are integers that remember what they are computed
of, so that the graph computes them again; where code decides by one, or counts by it, the graph keeps what it decided
for the example. Left out: code that decides by the values of pixels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import operator
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from ghostnet.nn.answers import agree, same_random_numbers
from ghostnet.nn.sizes import Origin, SizeFloat, SizeInt, plain, values_in

_FACTS = {
    "dim", "ndimension", "stride", "is_contiguous", "is_floating_point", "is_complex", "is_signed", "element_size",
    "get_device", "type", "is_same_size", "storage_offset", "is_inference", "is_pinned", "is_nested", "has_names",
    "result_type", "can_cast", "promote_types", "__len__", "__hash__", "__repr__", "__format__", "__dir__",
}  # fmt: skip
_COUNTS = {"numel", "nelement"}
_OPERATORS: dict[str, Any] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv,
    "true_divide": operator.truediv, "pow": operator.pow, "matmul": operator.matmul, "neg": operator.neg,
    "add_": operator.iadd, "sub_": operator.isub, "mul_": operator.imul, "div_": operator.itruediv,
    "gt": operator.gt, "ge": operator.ge, "lt": operator.lt, "le": operator.le, "eq": operator.eq,
    "ne": operator.ne, "remainder": operator.mod, "__floordiv__": operator.floordiv,
    "__getitem__": operator.getitem, "__setitem__": operator.setitem,
}  # fmt: skip
_REVERSED: dict[str, Any] = {
    "__rsub__": operator.sub, "__rdiv__": operator.truediv, "__rtruediv__": operator.truediv,
    "__rpow__": operator.pow, "__rfloordiv__": operator.floordiv, "__rmod__": operator.mod,
    "__rmatmul__": operator.matmul,
}  # fmt: skip
_TOLERANCE = 1e-4  # of the largest value: the same functions run in the same order


class NotRecordedError(Exception):
    """The run does not tell what the network computes on other images."""


def trace_run(tracer: fx.Tracer, model: nn.Module, example: Tensor) -> fx.Graph:
    """Trace a network by running it, and compare the graph with it on other images, of which there are more.

    Args:
        tracer: says which modules stay whole.
        model: in the mode to trace it in, a copy of one's own: what its code keeps in attributes stays there, and
            tensors that the code makes of none of the images become its attributes.
        example: `(N, C, H, W)`.

    Returns:
        A graph with one placeholder, for any number of images of this size.

    Raises:
        NotRecordedError: the code decides by values of pixels, or the graph answers something else than the model.
        Exception: whatever the forward raises.

    Example:
        >>> class Halves(nn.Module):
        ...     def forward(self, x):
        ...         return x[:, : x.shape[1] // 2] if len(x) > 0 else x
        >>> [node.name for node in trace_run(fx.Tracer(), Halves(), torch.zeros(1, 4, 2, 2)).nodes][-2:]
        ['getitem_1', 'output']
    """
    images = torch.cat([example[:1]] * 2).clone()
    before = {name: value.clone() for name, value in model.named_buffers()}
    recorder = _Recorder(tracer, model)
    with torch.no_grad(), same_random_numbers(images.device):
        recorder.run(images.clone())
    _put_back(model, before)
    _check(model, recorder.graph, images)
    _put_back(model, before)
    return recorder.graph


class _Recorder(TorchFunctionMode):
    """Writes a graph while a network runs."""

    def __init__(self, tracer: fx.Tracer, model: nn.Module) -> None:
        super().__init__()
        self.tracer, self.model = tracer, model
        self.graph = fx.Graph(tracer_cls=type(tracer))
        self._nodes: dict[int, fx.Node] = {}  # by the ids of tensors that live
        self._of_sizes: set[fx.Node] = set()  # what no pixel decides
        self._paused = False
        self._paths = {module: name for name, module in model.named_modules() if name}
        named = [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]
        self._named = {id(value): name for name, value in reversed(named)}
        self._values = [value for _, value in named]  # which code may let go

    def run(self, images: Tensor) -> None:
        """Run the network and finish the graph."""
        first = next(iter(inspect.signature(self.model.forward).parameters.values()), None)
        if first is None:
            raise NotRecordedError("forward takes no images")
        variadic = first.kind in (first.VAR_POSITIONAL, first.VAR_KEYWORD)
        self._images = self.graph.placeholder("images" if variadic else first.name)
        self._device = images.device
        self._keep(images, self._images)
        with self, self._whole_modules():
            answer = self.model.forward(images)
        self.graph.output(self._answer(answer))
        self._drop_unread_sizes()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._paused:
            return func(*args, **kwargs)
        given = list(values_in((args, kwargs)))
        tensors = [value for value in given if isinstance(value, Tensor)]
        followed = any(id(value) in self._nodes or id(value) in self._named for value in tensors)
        if not followed and not any(isinstance(value, (SizeInt, SizeFloat)) for value in given):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._property(func, args)
        if name == "__set__":
            raise NotRecordedError(
                f"the code sets {getattr(func.__self__, '__name__', 'a property')} of a tensor"
            )
        if name in ("size", *_COUNTS):
            return self._sizes(name, func, args, kwargs)
        result = func(*plain(args), **plain(kwargs))
        if not any(isinstance(value, Tensor) for value in values_in(result)) and name != "__setitem__":
            decided = not all(self._is_of_sizes(value) for value in tensors)
            if name not in _FACTS and decided:
                raise NotRecordedError(f"the code reads values of pixels ({name})")
            return result
        self._write_down(func, name, args, kwargs, result)
        return result

    def _write_down(self, func: Any, name: str, args: tuple, kwargs: dict[str, Any], result: Any) -> None:
        sources = [self._node_of(value) for value in values_in((args, kwargs)) if isinstance(value, Tensor)]
        written = args[0] if name == "__setitem__" else result
        changed = name == "__setitem__" or any(written is value for value in (*args, *kwargs.values()))
        if changed and self._node_of(written).op == "get_attr":
            raise NotRecordedError(f"the code writes into a tensor that stays from call to call ({name})")
        node = self._call(func, name, self._argument(args), self._argument(kwargs))
        if all(source in self._of_sizes for source in sources):
            self._of_sizes.add(node)
        if name != "__setitem__":
            self._keep(result, node)

    def _call(self, func: Any, name: str, args: tuple, kwargs: dict[str, Any]) -> fx.Node:
        """Write a call down as `torch.fx` would."""
        if func in (getattr(Tensor, name, None), getattr(Tensor, f"__{name}__", None)):
            if name in _OPERATORS and not kwargs and len(args) <= 3:
                return self.graph.call_function(_OPERATORS[name], args)
            if name in _REVERSED and not kwargs:
                return self.graph.call_function(_REVERSED[name], args[::-1])
            return self.graph.call_method(name, args, kwargs)
        of_torch: Any = getattr(torch, name, None)  # the one that other code compares with
        function: Any = of_torch if func == of_torch else func
        return self.graph.call_function(function, args, kwargs)

    def _property(self, func: Any, args: tuple) -> Any:
        tensor, name = args[0], getattr(func.__self__, "__name__", "")
        result = func(*args)
        source = self._node_of(tensor)
        if name == "shape":
            return self._sides(Origin(self.graph, getattr, (source, "shape")), result)
        if isinstance(result, Tensor):  # data, T, real, ...
            node = self.graph.call_function(getattr, (source, name))
            if source in self._of_sizes:
                self._of_sizes.add(node)
            self._keep(result, node)
        return result

    def _sizes(self, name: str, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        result = func(*plain(args), **plain(kwargs))
        method = Origin(self.graph, name, (self._node_of(args[0]), *plain(args[1:])), plain(kwargs))
        return SizeInt(result, method) if isinstance(result, int) else self._sides(method, result)

    def _sides(self, origin: Origin, size: torch.Size) -> torch.Size:
        parts = (Origin(self.graph, operator.getitem, (origin, index)) for index in range(len(size)))
        return torch.Size([SizeInt(side, part) for side, part in zip(size, parts, strict=True)])

    @contextlib.contextmanager
    def _whole_modules(self) -> Iterator[None]:
        """Have modules that stay whole write themselves down as one call."""
        original = nn.Module.__call__

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            path = self._paths.get(module)
            if self._paused or path is None or not self._is_whole(module, path):
                return original(module, *args, **kwargs)
            self._paused = True
            try:
                result = original(module, *plain(args), **plain(kwargs))
            finally:
                self._paused = False
            self._keep(result, self.graph.call_module(path, self._argument(args), self._argument(kwargs)))
            return result

        nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = original  # type: ignore[method-assign]

    def _is_whole(self, module: nn.Module, path: str) -> bool:
        return isinstance(module, torch.jit.ScriptModule) or self.tracer.is_leaf_module(module, path)

    def _keep(self, result: Any, node: fx.Node) -> None:
        """Let what a node gave stand for it from now on, also where it was written in place."""
        if isinstance(result, Tensor):
            self._nodes[id(result)] = node
            weakref.finalize(result, self._nodes.pop, id(result), None).atexit = False
        elif isinstance(result, Mapping):
            for key, value in result.items():
                self._keep_part(value, node, key)
        elif isinstance(result, (tuple, list)):
            for index, value in enumerate(result):
                self._keep_part(value, node, index)

    def _keep_part(self, value: Any, node: fx.Node, key: Any) -> None:
        if any(isinstance(part, Tensor) for part in values_in(value)):
            part = self.graph.call_function(operator.getitem, (node, key))
            if node in self._of_sizes:
                self._of_sizes.add(part)
            self._keep(value, part)

    def _node_of(self, tensor: Tensor) -> fx.Node:
        """Return the node of a tensor; one that no node gave is an attribute of the network, or becomes one."""
        if id(tensor) not in self._nodes:
            name = self._named.get(id(tensor))
            if name is None:
                name = _free_name(self.model)
                setattr(self.model, name, tensor.detach().clone())
            node = self.graph.get_attr(name)
            self._of_sizes.add(node)
            self._keep(tensor, node)
        return self._nodes[id(tensor)]

    def _is_of_sizes(self, tensor: Tensor) -> bool:
        return self._node_of(tensor) in self._of_sizes

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._node_of(value)
        if isinstance(value, (SizeInt, SizeFloat)):
            return value.origin.node()
        if isinstance(value, (tuple, list)):
            parts = [self._argument(part) for part in value]
            return parts if isinstance(value, list) else tuple(parts)
        if isinstance(value, dict):
            return {key: self._argument(part) for key, part in value.items()}
        if isinstance(value, slice):
            return slice(*map(self._argument, (value.start, value.stop, value.step)))
        if isinstance(value, torch.device) and value == self._device:
            return self.graph.call_function(getattr, (self._images, "device"))
        if isinstance(value, _CONSTANTS) or value is None or value is Ellipsis:
            return value
        raise NotRecordedError(f"a function is given a {type(value).__name__}")

    def _answer(self, answer: Any) -> Any:
        """Return what the network answers, with nodes; a class of the user's own is made anew."""
        if dataclasses.is_dataclass(answer) and not isinstance(answer, type):
            fields = {field.name: getattr(answer, field.name) for field in dataclasses.fields(answer)}
            known = {name: self._answer(value) for name, value in fields.items() if value is not None}
            return self.graph.call_function(type(answer), (), known)
        if isinstance(answer, tuple) and hasattr(answer, "_fields"):
            return self.graph.call_function(type(answer), tuple(map(self._answer, answer)))
        if isinstance(answer, Mapping):
            return {key: self._answer(value) for key, value in answer.items()}
        if isinstance(answer, (tuple, list)):
            return type(answer)(map(self._answer, answer))
        return self._argument(answer)

    def _drop_unread_sizes(self) -> None:
        for node in reversed(list(self.graph.nodes)):
            reads = (
                node.target is getattr or node.target is operator.getitem or node.target in ("size", *_COUNTS)
            )
            if not node.users and reads:
                self.graph.erase_node(node)


_CONSTANTS = (
    *(int, float, complex, bool, str, bytes, range),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)


def _free_name(model: nn.Module) -> str:
    """Return a name for a constant that no attribute has, as `torch.fx` gives them."""
    number = 0
    while hasattr(model, f"_tensor_constant{number}"):
        number += 1
    return f"_tensor_constant{number}"


@torch.no_grad()
def _put_back(model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Give a network's buffers their values again, which a run in training mode changes."""
    for name, value in model.named_buffers():
        if name in buffers:
            value.copy_(buffers[name])


@torch.no_grad()
def _check(model: nn.Module, graph: fx.Graph, images: Tensor) -> None:
    """Compare what the graph answers with what the model does, on other images of another number."""
    generator = torch.Generator().manual_seed(0)
    others = torch.rand(3, *images.shape[1:], generator=generator).to(images)
    with same_random_numbers(images.device):
        expected = model.forward(others.clone())  # hooks of the network itself are no part
    with same_random_numbers(images.device):
        found = fx.GraphModule(model, graph)(others.clone())
    if not agree(expected, found, _TOLERANCE):
        raise NotRecordedError("the graph answers something else than the network")
