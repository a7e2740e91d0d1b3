"""Modules whose forward was replaced on the instance: which ones, and whether a copy runs it on its own layers.

People give a trained network another forward (`model.forward = types.MethodType(...)`) or a layer another computation
(weight standardisation); accelerate's hooks do so, too. What the class says of such a module does not hold.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Iterator

from torch import nn

from ghostnet.errors import InputError


def has_own_forward(module: nn.Module) -> bool:
    """Tell whether a module computes something else than its class says.

    Example:
        >>> layer = nn.ReLU()
        >>> layer.forward = lambda x: x
        >>> has_own_forward(layer), has_own_forward(nn.ReLU())
        (True, False)
    """
    return "forward" in vars(module) or "_conv_forward" in vars(module)


def check_own_forwards(model: nn.Module, verb: str) -> None:
    """Raise where a copy of a network would run layers of the network itself.

    Bound methods and `functools.partial` are copied with the module that they hold; a function is not, nor what it
    reads from around it.

    Args:
        model: any network.
        verb: name of the function that it was given to, for the message.

    Raises:
        InputError: a forward that was set on an instance is a function that reads modules of the network.

    Example:
        >>> layer = nn.ReLU()
        >>> layer.forward = types.MethodType(lambda self, x: -x, layer)
        >>> check_own_forwards(nn.Sequential(layer), "ghostify")
    """
    inside = set(model.modules())
    for name, module in model.named_modules():
        for attribute in ("forward", "_conv_forward"):
            read = next((one for one in _read(vars(module).get(attribute)) if one in inside), None)
            if read is not None:
                place = f"{type(module).__name__}{f' ({name})' if name else ''}"
                raise InputError(
                    f"the {attribute} that was set on {place} reads {type(read).__name__} from around it, and a copy "
                    f"would still run this network's; {verb} needs a method of the module: "
                    "types.MethodType(function, module), where function(self, images) reads self"
                )


def _read(forward: object) -> Iterator[nn.Module]:
    """Find the modules that functions in a forward read from around them."""
    waiting, seen = [(forward, False)], set()
    while waiting:
        value, around = waiting.pop()
        if (id(value), around) in seen:
            continue
        seen.add((id(value), around))
        if isinstance(value, nn.Module):
            if around:
                yield value
        elif isinstance(value, types.MethodType):
            waiting += [(value.__func__, around), (value.__self__, around)]
        elif isinstance(value, functools.partial):
            waiting += [(part, around) for part in (value.func, *value.args, *value.keywords.values())]
        elif isinstance(value, types.FunctionType):
            waiting += [(part, True) for part in _around(value)]
        elif isinstance(value, (list, tuple)):
            waiting += [(part, around) for part in value]
        elif isinstance(value, dict):
            waiting += [(part, around) for part in value.values()]


def _around(function: types.FunctionType) -> Iterator[object]:
    """What a function reads that is neither given to it nor made in it."""
    yield from (function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).values()
    try:
        found = inspect.getclosurevars(function)
    except ValueError:  # a variable around it that is not set yet
        return
    yield from found.nonlocals.values()
    yield from found.globals.values()
