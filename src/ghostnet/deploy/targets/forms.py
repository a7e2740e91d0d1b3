"""What litert-torch and ExecuTorch have no operation for, in a form that they have and that gives the same values."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn


class _GlobalMaxPool2d(nn.Module):
    """`nn.AdaptiveMaxPool2d(1)` as pooling by a window of the maps' size, which XNNPACK has."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """`(N, C, H, W) -> (N, C, 1, 1)`."""
        return F.max_pool2d(maps, (maps.shape[-2], maps.shape[-1]))


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
