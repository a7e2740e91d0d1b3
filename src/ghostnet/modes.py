"""Training and evaluation modes that come back: `restored_modes` and `evaluating`.

Each module has a mode of its own: a network in training may hold frozen batch norms, so that `train()` afterwards
would not bring back what was there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


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
