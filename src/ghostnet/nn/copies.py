"""Copies of a network that leave the user's own untouched."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.utils import parametrize

from ghostnet.errors import InputError, first_line


def copy_model(model: nn.Module, *, share_parameters: bool = False) -> nn.Module:
    """Deep-copy a model, also one with old-style weight norm, whose derived weights refuse `deepcopy`.

    Args:
        model: any module; it is not changed.
        share_parameters: keep the same parameter tensors, for a cheap copy that is only looked at.

    Raises:
        InputError: an attribute of a layer cannot be copied, such as a lock or an open file.

    Example:
        >>> copy_model(nn.utils.spectral_norm(nn.Linear(2, 2))).weight_u.shape
        torch.Size([2])
    """
    memo: dict[int, object] = {}
    for module in model.modules():
        for value in _tensors_in(vars(module)):
            if not value.is_leaf:
                # recomputed before each forward by its hook, or kept from the last one by the layer itself
                memo[id(value)] = value.detach().clone()
    if share_parameters:
        memo |= {id(parameter): parameter for parameter in model.parameters()}
    try:
        copied: nn.Module = copy.deepcopy(model, memo)
    except (TypeError, RuntimeError, pickle.PicklingError) as error:
        raise InputError(
            f"{_what_refuses(model)} cannot be copied: {first_line(error)}; take it away first"
        ) from error
    return copied


def _tensors_in(value: object, depth: int = 3) -> Iterator[Tensor]:
    """Give the tensors in a value and, as deep as said, in the lists, tuples and dictionaries in it."""
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(item, depth - 1)


def _what_refuses(model: nn.Module) -> str:
    """Name the attribute of a module that `deepcopy` stops at."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            try:
                if name not in ("_modules", "_parameters", "_buffers"):
                    copy.deepcopy(value)
            except Exception:  # whatever the attribute's own class raises
                return f"`{name}` of {path or type(model).__name__}"
    return type(model).__name__


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
