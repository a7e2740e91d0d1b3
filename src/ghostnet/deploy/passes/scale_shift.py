"""Pass "scale_shift": depthwise 1x1 convolutions as one product and sum, for PyTorch itself.

Folding a batch norm behind a Ghost convolution leaves one on the half that the cheap operation also reads. Runtimes
fuse it or have a quick kernel; PyTorch's takes three to five times as long as `addcmul`.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from ghostnet.deploy.passes.operations import add_module, finished, module_of, plain_module


class ScaleShift(nn.Module):
    """`shift + scale * x`, with one value each for a channel.

    Args:
        scale: `(C,)`.
        shift: `(C,)`.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().reshape(-1, 1, 1))
        self.register_buffer("shift", shift.detach().reshape(-1, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """`(N, C, H, W) -> (N, C, H, W)`."""
        return torch.addcmul(self.shift, maps, self.scale)


def scale_shift(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network with `ScaleShift` in place of convolutions that scale each channel alone."""
    for node in list(traced.graph.nodes):
        module = module_of(traced, node)
        if plain_module(module, (nn.Conv2d,)) and isinstance(module, nn.Conv2d) and _scales_channels(module):
            shift = torch.zeros_like(module.weight[:, 0, 0, 0]) if module.bias is None else module.bias
            node.target = add_module(traced, str(node.target), ScaleShift(module.weight, shift))
    return finished(traced)


def _scales_channels(conv: nn.Conv2d) -> bool:
    alone = conv.kernel_size == conv.stride == (1, 1) and conv.groups == conv.in_channels == conv.out_channels
    return alone and conv.padding in ((0, 0), "valid", "same") and "weight" in conv._parameters
