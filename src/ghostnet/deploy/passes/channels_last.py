"""Pass "channels_last": convolution weights in the memory format that PyTorch's own kernels prefer on a CPU."""

from __future__ import annotations

import torch
from torch import fx, nn

from ghostnet.deploy.passes.operations import finished


def channels_last(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network with channels_last weights, from which convolutions take the format of what they make.

    For PyTorch itself: files for other runtimes have no memory format. `view` becomes `reshape`, since not every
    view of a contiguous map is one of a channels_last map.
    """
    for node in traced.graph.nodes:
        if node.op == "call_method" and node.target == "view" and not isinstance(node.args[1], torch.dtype):
            node.target = "reshape"
    convolutions = [module for module in traced.modules() if type(module) is nn.Conv2d]
    # a weight that a hook computes (old weight norm) is none of the parameters
    convolutions = [module for module in convolutions if "weight" in module._parameters]
    for conv in convolutions:
        conv.weight = nn.Parameter(
            conv.weight.detach().contiguous(memory_format=torch.channels_last), requires_grad=False
        )
    return finished(traced)
