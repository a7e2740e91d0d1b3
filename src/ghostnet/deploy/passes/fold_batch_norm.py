"""Pass "fold_batch_norm": batch norms go into the convolutions in front of them.

Behind a concatenation the norm is divided among the parts. That of the ghost maps goes into the cheap operation; that
of the intrinsic maps y cannot go into the primary convolution, since the ghost maps are made from y (a shifted y would
also be padded with the wrong border): it becomes a 1x1 depthwise convolution, see `fold.py` for the measurement.
"""

from __future__ import annotations

from collections import Counter

from torch import fx, nn

from ghostnet.deploy.fold import (
    CONVOLUTIONS,
    has_statistics,
    is_foldable,
    per_channel,
    scale_and_shift,
    scaled_convolution,
)
from ghostnet.deploy.passes.carrier import Reach, carry
from ghostnet.deploy.passes.operations import add_module, exchange_module_, finished, module_of


def fold_batch_norm(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network with every batch norm folded that stands behind a convolution or a concatenation of such."""
    whole = {node.name for node in traced.graph.nodes}
    carried = carry(traced, Reach(unary=False, convolutions=False, products=False, sums=None))
    calls = Counter(node.target for node in carried.graph.nodes if node.op == "call_module")
    for node in list(carried.graph.nodes):
        norm = module_of(carried, node)
        source = node.args[0] if node.args else None
        if norm is None or not isinstance(source, fx.Node) or not has_statistics(norm):
            continue
        before = module_of(carried, source)
        alone = len(source.users) == 1 and calls[source.target] == 1
        if alone and isinstance(before, CONVOLUTIONS) and is_foldable(before, norm):
            exchange_module_(carried, source, scaled_convolution(before, *scale_and_shift(norm)))
            calls[source.target] = 1
            node.replace_all_uses_with(source)
            carried.graph.erase_node(node)
        elif node.name not in whole and isinstance(
            norm, nn.BatchNorm2d
        ):  # of a part that others read as well
            like = next(norm.buffers())
            affine = per_channel(*scale_and_shift(norm), like=like)
            node.target = add_module(carried, f"{node.target}_affine", affine)
    return finished(carried)
