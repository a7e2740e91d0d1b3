"""3x3 convolutions of a detector's pyramid and heads as a depthwise and a 1x1 one: the cost of SSDLite's heads.

There is no norm between the two: the heads see every level in turn, and one batch norm would mix their statistics.
"""

from __future__ import annotations

import math

import torch
from torch import nn


class SeparableConv2d(nn.Sequential):
    """Depthwise k x k, then 1x1 with bias: `(N, C_in, H, W) -> (N, C_out, H', W')`, in place of `conv`.

    Args:
        conv: says channels, kernel, stride and padding; its bias is kept.
        last: nothing but a sum follows; the 1x1 then starts small, as the detectors' last convolutions do.
    """

    def __init__(self, conv: nn.Conv2d, *, last: bool = False) -> None:
        depthwise = nn.Conv2d(
            conv.in_channels,
            conv.in_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            groups=conv.in_channels,
            bias=False,
        )
        pointwise = nn.Conv2d(conv.in_channels, conv.out_channels, 1)
        nn.init.normal_(depthwise.weight, std=1 / math.sqrt(conv.kernel_size[0] * conv.kernel_size[1]))
        nn.init.normal_(pointwise.weight, std=0.01 if last else math.sqrt(2 / conv.in_channels))
        with torch.no_grad():
            if conv.bias is None:
                pointwise.bias.zero_()  # type: ignore[union-attr]
            else:
                pointwise.bias.copy_(conv.bias)  # type: ignore[union-attr]
        super().__init__(depthwise, pointwise)


def make_separable_(module: nn.Module, *, last: tuple[str, ...] = ()) -> int:
    """Replace every dense k x k convolution, k > 1, below a module.

    Args:
        module: changed in place.
        last: names of convolutions that nothing follows.

    Returns:
        How many were replaced.
    """
    replaced = 0
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d) and child.groups == 1 and max(child.kernel_size) > 1:
            setattr(module, name, SeparableConv2d(child, last=name in last))
            replaced += 1
        else:
            replaced += make_separable_(child, last=last)
    return replaced
