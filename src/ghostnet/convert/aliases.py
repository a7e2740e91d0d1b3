"""Layers that a network holds outside its registered modules, too: a replacement would not be seen there.

`self.convs = [self.conv1, self.conv2]` is such a place, as are dicts, attributes set with `object.__setattr__`, bound
methods, and unregistered modules with registered layers inside. Left out: what closures and weak references hold.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from torch import Tensor, nn

_REGISTERED = ("_modules", "_parameters", "_buffers")


def held_elsewhere(model: nn.Module) -> set[str]:
    """Return the paths of the modules that are held outside the registered ones, too.

    Args:
        model: any network.

    Example:
        >>> model = nn.Sequential(nn.ReLU(), nn.Tanh())
        >>> model.all = [model[0]]
        >>> held_elsewhere(model)
        {'0'}
    """
    paths = {module: name for name, module in model.named_modules()}
    held: set[str] = set()
    for owner in paths:
        waiting = [value for name, value in vars(owner).items() if name not in _REGISTERED]
        seen: set[int] = set()
        while waiting:
            value = waiting.pop()
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, nn.Module) and value in paths:
                if value is not owner:  # its own bound methods go with it
                    held.add(paths[value])
            else:
                waiting.extend(_inside(value))
    return held


def _inside(value: Any) -> Iterator[Any]:
    """Yield what a value holds."""
    if isinstance(value, nn.Module):
        yield from vars(value).values()
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, (list, tuple, AbstractSet)) and not isinstance(value, Tensor):
        yield from value
    elif isinstance(value, types.MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
