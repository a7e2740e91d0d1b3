"""Copies of a network that leave the user's own untouched."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn.utils import parametrize


def copy_model(model: nn.Module, *, share_parameters: bool = False) -> nn.Module:
    """Deep-copy a model, also one with old-style weight norm, whose derived weights refuse `deepcopy`.

    Args:
        model: any module; it is not changed.
        share_parameters: keep the same parameter tensors, for a cheap copy that is only looked at.

    Example:
        >>> copy_model(nn.utils.spectral_norm(nn.Linear(2, 2))).weight_u.shape
        torch.Size([2])
    """
    memo: dict[int, object] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()  # recomputed by its hook before each forward
    if share_parameters:
        memo |= {id(parameter): parameter for parameter in model.parameters()}
    copied: nn.Module = copy.deepcopy(model, memo)
    return copied


def with_plain_weights_(model: nn.Module) -> nn.Module:
    """Put the value in place of each parametrised tensor (spectral norm, weight norm, …), in place; return the model.

    Args:
        model: in evaluation mode, in which these values do not change.

    Example:
        >>> layer = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)).eval()
        >>> sorted(name for name, _ in with_plain_weights_(layer).named_parameters())
        ['bias', 'weight']
    """
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return model
