"""Training and evaluation modes that come back: `restored_modes` and `evaluating`.

Each module has a mode of its own: a network in training may hold frozen batch norms, so that `train()` afterwards
would not bring back what was there. Some wrappers of networks train when they are asked to: `check_network`.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator

from torch import nn

from ghostnet.errors import InputError


def check_network(model: nn.Module, verb: str) -> None:
    """Raise where `train` is no change of mode: ultralytics' `YOLO` is a module, and begins a training there.

    Args:
        model: what the user gave.
        verb: name of the function that it was given to, for the message.

    Raises:
        InputError: what `train` takes first is no switch.

    Example:
        >>> check_network(nn.ReLU(), "profile")
    """
    _, *given = inspect.signature(type(model).train).parameters.values()
    switches = given and (
        given[0].name == "mode"
        or isinstance(given[0].default, bool)
        or given[0].kind is given[0].VAR_POSITIONAL
    )
    if not switches:
        children = {name: sum(1 for _ in child.modules()) for name, child in model.named_children()}
        inside = f": its `{max(children, key=children.__getitem__)}`" if children else ""
        raise InputError(
            f"{verb} needs the network itself, and this {type(model).__name__} is a wrapper whose `train` trains; "
            f"give what is inside{inside}"
        )


@contextlib.contextmanager
def restored_modes(*models: nn.Module) -> Iterator[None]:
    """Give each module of the networks its own mode back after the block, also when the block raises.

    Modules that the block puts in are left as they are.

    Example:
        >>> network = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(1).eval())
        >>> with restored_modes(network):
        ...     _ = network.eval()
        >>> network[0].training, network[1].training
        (True, False)
    """
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put networks into evaluation mode for the block; each module gets its own mode back, also when it raises.

    Example:
        >>> network = nn.Dropout()
        >>> with evaluating(network):
        ...     network.training
        False
        >>> network.training
        True
    """
    with restored_modes(*models):
        for model in models:
            model.eval()
        yield
