"""A trace of a network for pnnx, with the operations replaced that ncnn lacks and that others express exactly.

ncnn cannot pick channels by number, which is what the order of a converted Ghost convolution needs
(`GhostConv2d.channel_order`); a 1x1 convolution whose weights are zeros and ones gives the same values. It cannot take
every second pixel, as the parameter-free shortcuts of the CIFAR ResNets do; a pooling over one pixel does. pnnx takes
circular borders for zeros, which pieces of the map side by side express, and loses a weight that two layers share.
ncnn takes Softplus and LogSigmoid for logarithms of what overflows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ghostnet.deploy.passes.gathers import ChannelsPicked
from ghostnet.nn.copies import copy_model
from ghostnet.nn.edits import replace_module_


def save_trace(model: nn.Module, path: Path, example: torch.Tensor) -> None:
    """Run the network once on `example` and write what happened as a TorchScript file."""
    with torch.no_grad(), _Exchanged():
        torch.jit.trace(_plain(model), example, check_trace=False).save(str(path))


def _plain(model: nn.Module) -> nn.Module:
    """Return a copy in which every layer has weights of its own, and circular borders are layers."""
    copied = copy_model(model)
    seen: set[int] = set()
    for module in copied.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in seen:
                module._parameters[key] = nn.Parameter(parameter.detach().clone())
            seen.add(id(parameter))
    bordered: dict[nn.Module, nn.Module] = {}  # a layer that runs in two places is one in both
    for name, module in list(copied.named_modules(remove_duplicate=False)):
        if isinstance(module, nn.Conv2d) and module.padding_mode == "circular" and name:
            border = _CircularBorder(module._reversed_padding_repeated_twice)
            bordered[module] = nn.Sequential(border, module)
            module.padding, module.padding_mode = (0, 0), "zeros"
        # pnnx knows these classes and looks for their calls
        if type(module) in (nn.LogSigmoid, nn.Softplus) and name:
            replace_module_(copied, name, _Logarithm(module))
        if module in bordered:
            replace_module_(copied, name, bordered[module])
    return copied


class _CircularBorder(nn.Module):
    """What lies at the other side of a map, put around it.

    Args:
        widths: left, right, top, bottom.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """`(N, C, H, W) -> (N, C, top + H + bottom, left + W + right)`."""
        left, right, top, bottom = self.widths
        across = [maps[:, :, :, -left:]] * (left > 0) + [maps] + [maps[:, :, :, :right]] * (right > 0)
        maps = torch.cat(across, 3) if len(across) > 1 else maps
        down = [maps[:, :, -top:]] * (top > 0) + [maps] + [maps[:, :, :bottom]] * (bottom > 0)
        return torch.cat(down, 2) if len(down) > 1 else maps


class _Logarithm(nn.Module):
    """What `nn.LogSigmoid` or `nn.Softplus` calls, under a name that pnnx does not know."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.beta = layer.beta if isinstance(layer, nn.Softplus) else None

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the function of each value."""
        return F.logsigmoid(maps) if self.beta is None else F.softplus(maps, self.beta)


class _Exchanged(ChannelsPicked):
    """Makes a convolution of channels picked by number, a pooling of a step over pixels; keeps logarithms finite."""

    def picked(self, maps: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        picks = F.one_hot(index, maps.shape[1]).to(maps.dtype)
        return F.conv2d(maps, picks.detach()[:, :, None, None])

    def called(self, func: Callable[..., Any], args: Sequence[Any], given: dict[str, Any]) -> Any:
        if func is torch.Tensor.__getitem__ and (steps := _pixel_steps(args[0], args[1])) is not None:
            return F.max_pool2d(args[0], kernel_size=1, stride=steps)
        if func is F.logsigmoid:
            return -_softplus(-(args[0] if args else given["input"]))
        if func is F.softplus:
            maps = args[0] if args else given["input"]
            beta = args[1] if len(args) > 1 else given.get("beta", 1.0)
            return _softplus(maps * beta) / beta if beta != 1 else _softplus(maps)
        return super().called(func, args, given)


def _softplus(maps: torch.Tensor) -> torch.Tensor:
    """Return log(1 + exp(maps)), whose exponential cannot overflow; ncnn has no log1p."""
    return torch.relu(maps) + torch.log(torch.exp(-torch.abs(maps)) + 1)


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
