"""Finds squeeze-excite in a traced network, whoever wrote it: a product of maps and of a factor for each channel.

What counts is the last layer of the factors: a convolution or a linear layer with one output a channel, behind which
each channel is alone. Left out: factors that are made of sums.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import fx, nn

from ghostnet.convert.channelwise import role_of, treats_channels_alone

_SHAPED: tuple[object, ...] = ("view", "reshape", "flatten", "expand_as", "unsqueeze", torch.flatten)
_SHAPED += (torch.reshape, torch.unsqueeze, operator.getitem)  # y[:, :, None, None]
PRODUCTS = (operator.mul, torch.mul, operator.imul)


@dataclass(frozen=True)
class Gate:
    """The layers of a factor for each channel.

    Attributes:
        layer: path of the layer that makes the factors.
        squeeze: path of the layer in front of it; the same one where there is none.
    """

    layer: str
    squeeze: str


def gate_of(model: nn.Module, product: fx.Node, maps: fx.Node) -> Gate | None:
    """Return what makes the factors of a product of maps and factors, or None where it is no such product.

    Args:
        model: the network that was traced.
        product: a node that reads `maps`.
        maps: one of the product's two factors.
    """
    named = product.op == "call_method" and product.target in ("mul", "mul_")
    if not (named or (product.op == "call_function" and product.target in PRODUCTS)) or product.kwargs:
        return None
    factors = [node for node in product.args if node is not maps]
    if len(product.args) != 2 or len(factors) != 1 or not isinstance(factors[0], fx.Node):
        return None
    last = _layer_before(model, factors[0])
    if last is None:
        return None
    first = _layer_before(model, last.args[0])
    return Gate(str(last.target), str((last if first is None else first).target))


def _layer_before(model: nn.Module, node: object) -> fx.Node | None:
    """Walk back through what treats each channel alone, and is read once, to a convolution or a linear layer."""
    while isinstance(node, fx.Node) and len(node.users) == 1:
        if node.op == "call_module":
            module = model.get_submodule(str(node.target))
            if type(module) in (nn.Conv2d, nn.Linear):
                return node if getattr(module, "groups", 1) == 1 else None
            passes = role_of(module, flat=False) in ("alone", "flatten")
        else:
            passes = node.target in _SHAPED or treats_channels_alone(node, flat=False)
        if not passes or not node.args:
            return None
        node = node.args[0]
    return None
