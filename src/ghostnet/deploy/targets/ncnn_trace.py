"""A trace of a network for pnnx, with the operations replaced that ncnn lacks and that others express exactly.

ncnn cannot pick channels by number, which is what the order of a converted Ghost convolution needs
(`GhostConv2d.channel_order`). A 1x1 convolution whose weights are zeros and ones gives the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode


def save_trace(model: nn.Module, path: Path, example: torch.Tensor) -> None:
    """Run the network once on `example` and write what happened as a TorchScript file."""
    with torch.no_grad(), _PickByConvolution():
        torch.jit.trace(model, example, check_trace=False).save(str(path))


class _PickByConvolution(TorchFunctionMode):
    """Turns `index_select` over the channels of maps into a convolution."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func in (torch.index_select, torch.Tensor.index_select):
            maps: Any = given.get("input", args[0] if args else None)
            dim: Any
            index: Any
            dim, index = (*args[1:], *(given[key] for key in ("dim", "index") if key in given))
            if maps.dim() == 4 and dim in (1, -3):
                picks = F.one_hot(index, maps.shape[1]).to(maps.dtype)
                return F.conv2d(maps, picks.detach()[:, :, None, None])
        return func(*args, **given)
