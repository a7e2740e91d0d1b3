"""A trace of a network for pnnx, with the operations replaced that ncnn lacks and that others express exactly.

ncnn cannot pick channels by number, which is what the order of a converted Ghost convolution needs
(`GhostConv2d.channel_order`); a 1x1 convolution whose weights are zeros and ones gives the same values. It cannot take
every second pixel, as the parameter-free shortcuts of the CIFAR ResNets do; a pooling over one pixel does.
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
    with torch.no_grad(), _Exchanged():
        torch.jit.trace(model, example, check_trace=False).save(str(path))


class _Exchanged(TorchFunctionMode):
    """Turns `index_select` over channels into a convolution, and a step over pixels into a pooling."""

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
        if func is torch.Tensor.__getitem__ and (steps := _pixel_steps(args[0], args[1])) is not None:
            return F.max_pool2d(args[0], kernel_size=1, stride=steps)
        return func(*args, **given)


def _pixel_steps(maps: torch.Tensor, index: Any) -> tuple[int, int] | None:
    """Return (2, 2) for `maps[:, :, ::2, ::2]`, None for any other index."""
    if maps.dim() != 4 or not isinstance(index, tuple) or not all(isinstance(part, slice) for part in index):
        return None
    parts = [*index, *(slice(None),) * (4 - len(index))]
    if any(part.start not in (None, 0) or part.stop is not None for part in parts):
        return None
    steps = [1 if part.step is None else int(part.step) for part in parts]
    if steps[:2] != [1, 1] or min(steps) < 1 or steps[2:] == [1, 1]:
        return None
    return steps[2], steps[3]
