"""Pass "channels_last": convolution weights in the memory format that PyTorch's own kernels prefer on a CPU.

Channels that are picked from such maps stay in it: behind `index_select` every later layer pays for another format.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from ghostnet.deploy.passes.operations import finished


def channels_last(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network with channels_last weights, from which convolutions take the format of what they make.

    For PyTorch itself: files for other runtimes have no memory format. `view` becomes `reshape`, since not every
    view of a contiguous map is one of a channels_last map.
    """
    for node in traced.graph.nodes:
        if node.op == "call_method" and node.target == "view" and not isinstance(node.args[1], torch.dtype):
            node.target = "reshape"
        if (
            node.op == "call_function"
            and node.target is torch.index_select
            and node.args[1] == 1
            and not node.kwargs
        ):
            node.target, node.args = picked_channels, (node.args[0], node.args[2])
    convolutions = [module for module in traced.modules() if type(module) is nn.Conv2d]
    # a weight that a hook computes (old weight norm) is none of the parameters
    convolutions = [module for module in convolutions if "weight" in module._parameters]
    for conv in convolutions:
        conv.weight = nn.Parameter(
            conv.weight.detach().contiguous(memory_format=torch.channels_last), requires_grad=False
        )
    return finished(traced)


def picked_channels(maps: Tensor, channels: Tensor) -> Tensor:
    """Return `maps.index_select(1, channels)` in the maps' own memory format.

    Args:
        maps: `(N, C, H, W)`.
        channels: indices, int64 `(K,)`.
    """
    last = maps.dim() == 4 and maps.is_contiguous(memory_format=torch.channels_last)
    if not last or maps.is_contiguous() or maps.device.type != "cpu":
        return maps.index_select(1, channels)
    pixels = maps.permute(0, 2, 3, 1)
    return pixels.gather(3, channels.expand(*pixels.shape[:3], -1)).permute(0, 3, 1, 2)
