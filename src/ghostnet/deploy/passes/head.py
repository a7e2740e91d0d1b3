"""Pass "head": what follows the global pooling becomes matrix products.

A 1x1 convolution of a 1x1 map is a linear layer; runtimes run convolutions of one pixel badly. The pooled maps are
flattened at once, and the convolutions up to the flattening become `nn.Linear`.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from ghostnet.deploy.passes.operations import (
    ACTIVATIONS,
    add_module,
    finished,
    module_of,
    plain_module,
    pools_to_one,
)


def head(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network with every pool → 1x1 convolutions → flatten as pool → flatten → linear layers."""
    for node in list(traced.graph.nodes):
        if flattens(traced, node):
            _rewrite(traced, node)
    return finished(traced)


def flattens(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a node makes one vector of each image's maps."""
    module = module_of(traced, node)
    if isinstance(module, nn.Flatten):
        return module.start_dim == 1 and module.end_dim == -1
    if node.target not in ("flatten", torch.flatten) or not node.args:
        return False
    given, named = dict(enumerate(node.args[1:])), node.kwargs
    return (given.get(0, named.get("start_dim", 0)), given.get(1, named.get("end_dim", -1))) == (1, -1)


def _chain(traced: fx.GraphModule, node: fx.Node) -> list[fx.Node] | None:
    """Return the nodes from behind the pooling to in front of the flattening, or None where there is no such chain."""
    chain: list[fx.Node] = []
    current = node.args[0]
    while isinstance(current, fx.Node) and not pools_to_one(traced, current):
        module = module_of(traced, current)
        if len(current.users) > 1 or not (is_one_by_one(module) or plain_module(module, ACTIVATIONS)):
            return None
        chain.insert(0, current)
        current = current.args[0]
    return chain if isinstance(current, fx.Node) else None


def is_one_by_one(module: nn.Module | None) -> bool:
    """Tell whether a module is a convolution that on one pixel is a linear layer."""
    return (
        plain_module(module, nn.Conv2d)
        and isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.groups == 1
        and module.padding in ((0, 0), "same", "valid")
    )


def _rewrite(traced: fx.GraphModule, node: fx.Node) -> None:
    chain = _chain(traced, node)
    if not chain or not any(is_one_by_one(module_of(traced, link)) for link in chain):
        return
    with traced.graph.inserting_before(chain[0]):
        current = traced.graph.call_function(torch.flatten, (chain[0].args[0], 1))
        for link in chain:
            module = module_of(traced, link)
            target = str(link.target)
            if isinstance(module, nn.Conv2d):
                target = add_module(traced, f"{target}_linear", linear(module))
            current = traced.graph.call_module(target, (current,))
    node.replace_all_uses_with(current)


def linear(conv: nn.Conv2d) -> nn.Linear:
    """Return the linear layer that a 1x1 convolution is on one pixel."""
    layer = nn.Linear(conv.in_channels, conv.out_channels, bias=conv.bias is not None, device="meta")
    layer.weight = nn.Parameter(conv.weight.detach().flatten(1).clone(), requires_grad=False)
    if conv.bias is not None:
        layer.bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=False)
    return layer
