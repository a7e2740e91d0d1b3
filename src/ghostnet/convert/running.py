"""One forward pass of a network that `torch.fx` cannot trace: which layers ran, and what else read what they made.

Left out: maps that a forward keeps in an attribute and reads in a later pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ghostnet.hooks import input_of
from ghostnet.nn.copies import copy_model


@dataclass(frozen=True)
class Recording:
    """What a forward pass did.

    Attributes:
        calls: (path, id of the input, id of the output) of each layer's call, in order.
        read: ids of layers' outputs that code around the layers read, or that the network answers.
        borrowed: paths of convolutions whose parameters something else than their own forward asked for.
    """

    calls: list[tuple[str, int, int]]
    read: set[int]
    borrowed: set[str]


def record(
    model: nn.Module, example_input: Tensor | None, is_layer: Callable[[nn.Module], bool]
) -> Recording | None:
    """Run a copy of a model once, on one image.

    Args:
        model: any network; it is not changed.
        example_input: `(N, C, H, W)`; without one there is no recording.
        is_layer: which modules count as one layer each.

    Returns:
        None also where the model does not run on the example.
    """
    if example_input is None:
        return None
    copied = copy_model(model, share_parameters=True).eval()
    recorder = _Recorder()
    for name, module in copied.named_modules():
        if is_layer(module):
            recorder.attach(name, module)
    try:
        with torch.no_grad(), recorder:
            answer = copied(example_input[:1].clone())
    except Exception:  # the example does not fit this model: what is wrong with it is said elsewhere
        return None
    recorder.note_read(answer)
    return Recording(recorder.calls, recorder.read, recorder.borrowed)


class _Recorder(TorchFunctionMode):
    """Sees every function that is given tensors; hooks tell it which layer is running."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int, int]] = []
        self.read: set[int] = set()
        self.borrowed: set[str] = set()
        self._running: list[str] = []
        self._made: dict[int, object] = {}  # ids are only unique while the tensors live

    def attach(self, name: str, module: nn.Module) -> None:
        """Watch a layer of the copied network."""

        def enter(_module: nn.Module, _inputs: tuple) -> None:
            self._running.append(name)

        def leave(_module: nn.Module, args: tuple, kwargs: dict[str, Any], output: object) -> None:
            self._running.pop()
            given = input_of(args, kwargs) if args or kwargs else None
            self.note_read([value for value in (*args, *kwargs.values()) if value is not given])
            if not isinstance(given, Tensor):
                self.note_read(given)
            self._made |= {id(given): given, id(output): output}
            self.calls.append((name, id(given), id(output)))

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave, with_kwargs=True)
        if isinstance(module, nn.Conv2d):
            _tell_when_asked(module, lambda: self._asked(name))

    def _asked(self, name: str) -> None:
        if name not in self._running:
            self.borrowed.add(name)

    def note_read(self, value: object) -> None:
        """Note that something reads the tensors in a value."""
        self.read |= {id(tensor) for tensor in _tensors(value) if id(tensor) in self._made}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # what gives no tensor asks for a shape or a type
        if not self._running and any(True for _ in _tensors(result)):
            self.note_read((args, kwargs))
        return result


def _tell_when_asked(module: nn.Module, tell: Callable[[], None]) -> None:
    """Call `tell` whenever a parameter of the module is asked for by its name."""
    kind = type(module)

    def ask(self: nn.Module, name: str) -> Any:
        if name in vars(self)["_parameters"]:
            tell()
        return kind.__getattr__(self, name)

    module.__class__ = type(kind.__name__, (kind,), {"__getattr__": ask})


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
