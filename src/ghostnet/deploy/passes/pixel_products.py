"""Pass "pixel_products": what is computed of one pixel becomes matrix products whose activations stand apart.

Squeeze-excite computes its factors from pooled maps, one pixel of each, by 1x1 convolutions, and classifiers end in
linear layers. For one image such a layer is as fast as its weights are read. OpenVINO 2026.4 reads them fastest in the
kernel of products without anything behind them; with an activation fused, or as a convolution, it takes another one.
What keeps an activation apart is a maximum with a constant that changes nothing: zero in place of ReLU, and the lowest
number in front of others.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx, nn

from ghostnet.deploy.passes.head import flattens, is_one_by_one, linear
from ghostnet.deploy.passes.operations import (
    add_constant,
    add_module,
    elementwise_unary,
    finished,
    module_of,
    only_user,
    plain_module,
    pools_to_one,
)

_RELUS = (torch.relu, F.relu, "relu")


def pixel_products(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network with linear layers in place of convolutions of one pixel, and activations apart from them."""
    for node in list(traced.graph.nodes):
        if pools_to_one(traced, node):
            _as_products(traced, node)
    constants: dict[float, str] = {}
    for node in list(traced.graph.nodes):
        if plain_module(module_of(traced, node), nn.Linear) and _reads_a_vector(traced, node):
            _keep_apart(traced, node, constants)
    return finished(traced)


def _as_products(traced: fx.GraphModule, pooled: fx.Node) -> None:
    """Let the convolutions and activations that follow a pooled map compute on vectors."""
    chain = _links_behind(traced, pooled)
    convolutions = [module for link in chain if isinstance(module := module_of(traced, link), nn.Conv2d)]
    if not convolutions:
        return
    with traced.graph.inserting_after(chain[-1]):
        maps = traced.graph.call_function(
            torch.reshape, (chain[-1], (-1, convolutions[-1].out_channels, 1, 1))
        )
    chain[-1].replace_all_uses_with(maps, delete_user_cb=lambda user: user is not maps)
    with traced.graph.inserting_before(chain[0]):
        vector = traced.graph.call_function(torch.flatten, (pooled, 1))
    chain[0].replace_input_with(pooled, vector)
    for link in chain:
        module = module_of(traced, link)
        if isinstance(module, nn.Conv2d):
            link.target = add_module(traced, f"{link.target}_linear", linear(module))


def _links_behind(traced: fx.GraphModule, pooled: fx.Node) -> list[fx.Node]:
    """Return what alone reads a pooled map, one behind the other, as long as it works on vectors, too."""
    chain: list[fx.Node] = []
    current = only_user(pooled)
    while (
        current is not None
        and current.args
        and (is_one_by_one(module_of(traced, current)) or elementwise_unary(traced, current))
    ):
        chain.append(current)
        current = only_user(current)
    return chain


def _reads_a_vector(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a linear layer's input is one vector an image, as behind a flattening."""
    current = node.args[0] if node.args else None
    while isinstance(current, fx.Node) and not flattens(traced, current):
        module = module_of(traced, current)
        if not (
            plain_module(module, (nn.Linear, nn.Dropout))
            or elementwise_unary(traced, current)
            or _is_apart(current)
        ):
            return False
        current = current.args[0] if current.args else None
    return isinstance(current, fx.Node)


def _is_apart(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is torch.maximum


def _keep_apart(traced: fx.GraphModule, node: fx.Node, constants: dict[float, str]) -> None:
    activation = only_user(node)
    if activation is None or not elementwise_unary(traced, activation):
        return
    is_relu = plain_module(module_of(traced, activation), nn.ReLU) or activation.target in _RELUS
    weight = traced.get_submodule(str(node.target)).weight
    assert isinstance(weight, torch.Tensor)
    bound = 0.0 if is_relu else torch.finfo(weight.dtype).min
    if bound not in constants:
        constants[bound] = add_constant(traced, "bound", weight.new_full((1, 1), bound))
    with traced.graph.inserting_before(activation):
        apart = traced.graph.call_function(torch.maximum, (node, traced.graph.get_attr(constants[bound])))
    if is_relu:
        activation.replace_all_uses_with(apart)
    else:
        activation.replace_input_with(node, apart)
