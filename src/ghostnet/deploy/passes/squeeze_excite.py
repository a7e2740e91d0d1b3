"""Pass "squeeze_excite": the gate relu6(x + 3) / 6 as the one operation that runtimes have for it, hard sigmoid."""

from __future__ import annotations

import operator
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from ghostnet.deploy.passes.operations import add_module, finished, module_of


def squeeze_excite(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network with relu6(x + 3) / 6 as `nn.Hardsigmoid`."""
    for node in list(traced.graph.nodes):
        inner = _scaled_by_a_sixth(node)
        shifted = inner.args[0] if inner is not None and _is_relu6(traced, inner) else None
        source = _plus_three(shifted) if isinstance(shifted, fx.Node) else None
        if source is None:
            continue
        with traced.graph.inserting_before(node):
            gate = traced.graph.call_module(add_module(traced, "hard_sigmoid", nn.Hardsigmoid()), (source,))
        node.replace_all_uses_with(gate)
    return finished(traced)


def _scaled_by_a_sixth(node: fx.Node) -> fx.Node | None:
    if node.op != "call_function" or len(node.args) != 2 or not isinstance(node.args[0], fx.Node):
        return None
    factor: Any = node.args[1]
    divides = node.target is operator.truediv and factor == 6
    multiplies = node.target is operator.mul and isinstance(factor, float) and abs(factor - 1 / 6) < 1e-9
    return node.args[0] if divides or multiplies else None


def _is_relu6(traced: fx.GraphModule, node: fx.Node) -> bool:
    return type(module_of(traced, node)) is nn.ReLU6 or (
        node.op == "call_function" and node.target is F.relu6
    )


def _plus_three(node: fx.Node) -> fx.Node | None:
    if node.op != "call_function" or node.target is not operator.add or len(node.args) != 2:
        return None
    numbers = [value for value in node.args if not isinstance(value, fx.Node)]
    sources = [value for value in node.args if isinstance(value, fx.Node)]
    return sources[0] if len(sources) == 1 and numbers == [3] else None
