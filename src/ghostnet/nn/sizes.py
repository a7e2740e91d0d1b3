"""Integers that remember what they are computed of: the sizes of tensors while a network is traced by running it.

To all code they are integers (and their quotients floating numbers); arithmetic among them is remembered, and what asks
for more, such as a comparison, gets a plain answer.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import fx


class Origin:
    """What a number is computed of, written into a graph when somebody asks for it.

    Args:
        graph: to write into.
        target: a function, or the name of a method.
        args: of the call: nodes, origins, or plain values.
        kwargs: likewise.
    """

    def __init__(
        self,
        graph: fx.Graph,
        target: Callable[..., Any] | str,
        args: tuple,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.graph = graph
        self._target, self._args, self._kwargs = target, args, kwargs or {}
        self._node: fx.Node | None = None

    def node(self) -> fx.Node:
        """Return the node, one for all who ask."""
        if self._node is None:
            kind = "call_method" if isinstance(self._target, str) else "call_function"
            args = tuple(arg.node() if isinstance(arg, Origin) else arg for arg in self._args)
            self._node = self.graph.create_node(kind, self._target, args, self._kwargs)
        return self._node


class _Remembering:
    """A number that knows its origin; copies and pickles of it are plain."""

    origin: Origin

    def __new__(cls, value: float, origin: Origin) -> Any:
        made = super().__new__(cls, value)  # type: ignore[call-arg]  # int and float take it
        made.origin = origin
        return made

    def __reduce__(self) -> tuple[type, tuple[float]]:
        number = plain(self)
        return type(number), (number,)


class SizeInt(_Remembering, int):
    """A size of a tensor, or an integer computed of sizes.

    Example:
        >>> graph = fx.Graph()
        >>> side = SizeInt(5, Origin(graph, "size", (graph.placeholder("x"), 2)))
        >>> half = side // 2
        >>> half, half.origin.node().format_node()
        (2, '%floordiv : [num_users=0] = call_function[target=operator.floordiv](args = (%size, 2), kwargs = {})')
    """


class SizeFloat(_Remembering, float):
    """A floating number computed of sizes."""


def plain(value: Any) -> Any:
    """Return a value with plain numbers in place of those that remember, also in what it holds."""
    if isinstance(value, SizeInt):
        return int.__int__(value)
    if isinstance(value, SizeFloat):
        return float.__float__(value)
    if isinstance(value, slice):
        return slice(plain(value.start), plain(value.stop), plain(value.step))
    if type(value) in (tuple, list):
        return type(value)(map(plain, value))
    if type(value) is dict:
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):  # torch.Size
        return tuple(map(plain, value))
    return value


def values_in(value: Any) -> Iterator[Any]:
    """Give a value, or all that lists, tuples, dictionaries, slices and data classes hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from values_in(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from values_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from values_in(part)
    elif isinstance(value, slice):
        yield from (value.start, value.stop, value.step)
    else:
        yield value


def _computed(graph: fx.Graph, function: Callable[..., Any], *given: Any) -> Any:
    """Compute with numbers and remember of what."""
    result = function(*map(plain, given))
    origin = Origin(
        graph, function, tuple(value.origin if isinstance(value, _SIZES) else value for value in given)
    )
    if type(result) is int:
        return SizeInt(result, origin)
    return SizeFloat(result, origin) if type(result) is float else result


def _operation(function: Callable[..., Any], *, reverse: bool = False) -> Callable[..., Any]:
    def operate(self: Any, *others: Any) -> Any:
        if not all(isinstance(other, (int, float)) for other in others):
            return NotImplemented  # a tensor, say, computes with numbers by itself
        given = (*others, self) if reverse else (self, *others)
        return _computed(self.origin.graph, function, *given)

    return operate


_SIZES = (SizeInt, SizeFloat)
for _name in ("add", "sub", "mul", "floordiv", "mod", "truediv"):
    for _kind in _SIZES:
        setattr(_kind, f"__{_name}__", _operation(getattr(operator, _name)))
        setattr(_kind, f"__r{_name}__", _operation(getattr(operator, _name), reverse=True))
for _kind in _SIZES:
    _kind.__neg__ = _operation(operator.neg)  # type: ignore[method-assign]
