"""Operations that litert-torch has no lowering for, in a form that it has and that gives the same values."""

from __future__ import annotations

import copy

import torch
from torch import nn


class _GlobalMaxPool2d(nn.Module):
    """`nn.AdaptiveMaxPool2d(1)` as a maximum over pixels."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """`(N, C, H, W) -> (N, C, 1, 1)`."""
        return maps.amax((2, 3), keepdim=True)


def expressible(model: nn.Module) -> nn.Module:
    """Return the network, or a copy in which global maximum pooling is exchanged."""
    if not any(_is_global(module) for module in model.modules()):
        return model
    exchanged = copy.deepcopy(model)
    for path, module in list(exchanged.named_modules()):
        if _is_global(module):
            if not path:
                return _GlobalMaxPool2d()
            exchanged.set_submodule(path, _GlobalMaxPool2d())
    return exchanged


def _is_global(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.AdaptiveMaxPool2d)
        and module.output_size in (1, (1, 1))
        and not module.return_indices
    )
