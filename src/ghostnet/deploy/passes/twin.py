"""Pass "twin": a narrow Ghost convolution without concatenation, its intrinsic maps made twice.

With `y = P x` and `g = D y`: `cat(y, g) = D' [y; y]`, where the depthwise convolution D' has the kernel of the identity
on the first copy and D's kernels on the second. The second copy costs multiplications, but runtimes that compute in
blocks of 16 channels do them anyway where all maps fit one block: there it is free and saves the concatenation.

Pass "twin_rest": the same for the maps of a wider Ghost convolution that are left over when blocks of 16 are full.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from ghostnet.deploy.passes.layers import kept_outputs, like_convolution, physical_depthwise
from ghostnet.deploy.passes.operations import (
    ACTIVATIONS,
    add_module,
    cat_inputs,
    finished,
    module_of,
    plain_module,
    reordered,
)

BLOCK = 16
_IDEMPOTENT = (nn.ReLU, nn.ReLU6)


@dataclasses.dataclass(frozen=True)
class _Ghost:
    """A Ghost convolution in the graph: `cat(y, g)` with `y = inner(primary x)` and `g = outer(cheap y)`.

    Attributes:
        source: the node of x.
        primary, inner: the ordinary convolution and its activation.
        cheap, outer: the depthwise convolution and its activation.
        scale, shift: what an affine between y and its half of the result does, per channel; None for nothing.
        activated: y's half has `outer` behind it too.
    """

    source: fx.Node
    primary: nn.Conv2d
    inner: nn.Module | None
    cheap: nn.Conv2d
    outer: nn.Module | None
    scale: Tensor | None
    shift: Tensor | None
    activated: bool

    @property
    def each(self) -> int:
        """Ghost maps of one intrinsic map."""
        return self.cheap.out_channels // self.cheap.in_channels


def twin(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network with Ghost convolutions of at most 16 maps made by one wider depthwise convolution."""
    for node in list(traced.graph.nodes):
        ghost = _ghost(traced, node)
        if ghost is None or ghost.cheap.in_channels + ghost.cheap.out_channels > BLOCK:
            continue
        with traced.graph.inserting_before(node):
            made = _twins(traced, node.name, ghost, range(ghost.primary.out_channels))
        node.replace_all_uses_with(made)
    return finished(traced)


def twin_rest(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network with the maps that do not fill a block of 16 made as twins, so that they share one.

    20 intrinsic and 20 ghost maps take two blocks each; 16, 16 and the twins of the other 4 and 4 take three in all.
    The result is read in parts, so `split` or `pad_halves` has to follow.
    """
    for node in list(traced.graph.nodes):
        ghost = _ghost(traced, node)
        if ghost is None or ghost.scale is not None or ghost.shift is not None:
            continue
        count, each = ghost.primary.out_channels, ghost.each
        rest = count % BLOCK
        if rest == count or not rest or rest * (1 + each) > BLOCK:
            continue
        with traced.graph.inserting_before(node):
            made = _with_twin_rest(traced, node.name, ghost, count - rest)
        node.replace_all_uses_with(made)
    return finished(traced)


def _with_twin_rest(traced: fx.GraphModule, name: str, ghost: _Ghost, main: int) -> fx.Node:
    count, each = ghost.primary.out_channels, ghost.each
    intrinsic = _chain(
        traced, f"{name}_main", ghost.source, [kept_outputs(ghost.primary, range(main)), ghost.inner]
    )
    ghosts = _chain(
        traced, f"{name}_ghosts", intrinsic, [physical_depthwise(ghost.cheap, range(main)), ghost.outer]
    )
    if ghost.activated:
        intrinsic = _chain(traced, f"{name}_main", intrinsic, [ghost.outer])
    rest = _twins(traced, name, ghost, range(main, count))
    whole = traced.graph.call_function(torch.cat, ([intrinsic, ghosts, rest], 1))
    start = main * (1 + each)  # of the rest: intrinsic maps, then ghosts
    order = [*range(main), *range(start, start + count - main)]
    order += [*range(main, start), *range(start + count - main, count * (1 + each))]
    return reordered(traced, whole, order)


def _twins(traced: fx.GraphModule, name: str, ghost: _Ghost, channels: range) -> fx.Node:
    """Make the intrinsic maps `channels` twice and what they give by one depthwise convolution: y, then g."""
    copies = [*channels, *(channel for channel in channels for _ in range(ghost.each))]
    cheap = physical_depthwise(ghost.cheap, channels)
    modules = [
        kept_outputs(ghost.primary, copies),
        ghost.inner,
        _wide(cheap, ghost.scale, ghost.shift),
        ghost.outer,
    ]
    return _chain(traced, f"{name}_twin", ghost.source, modules)


def _chain(
    traced: fx.GraphModule, name: str, source: fx.Node, modules: Sequence[nn.Module | None]
) -> fx.Node:
    current = source
    for module in modules:
        if module is not None:
            current = traced.graph.call_module(add_module(traced, name, module), (current,))
    return current


def _ghost(traced: fx.GraphModule, node: fx.Node) -> _Ghost | None:
    """Return the Ghost convolution that ends in `node`, or None where it is none."""
    inputs = cat_inputs(node)
    if inputs is None or len(inputs) != 2:
        return None
    intrinsic, ghosts = inputs
    cheap_node, outer = _behind_activation(traced, ghosts)
    cheap = _stride_free_depthwise(traced, cheap_node)
    source = cheap_node.args[0] if cheap is not None else None
    if cheap is None or not isinstance(source, fx.Node):
        return None
    primary_node, inner = _behind_activation(traced, source)
    primary = module_of(traced, primary_node)
    affine = _way(traced, intrinsic, source, inner, outer)
    if affine is None or not plain_module(primary, nn.Conv2d) or not isinstance(primary, nn.Conv2d):
        return None
    read = primary_node.args[0]
    if primary.groups != 1 or not isinstance(read, fx.Node):
        return None
    return _Ghost(read, primary, inner, cheap, outer, *affine, activated=intrinsic is not source)


def _behind_activation(traced: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, nn.Module | None]:
    module = module_of(traced, node)
    if plain_module(module, ACTIVATIONS) and isinstance(node.args[0], fx.Node):
        return node.args[0], module
    return node, None


def _stride_free_depthwise(traced: fx.GraphModule, node: fx.Node) -> nn.Conv2d | None:
    conv = module_of(traced, node)
    if not plain_module(conv, nn.Conv2d) or not isinstance(conv, nn.Conv2d):
        return None
    same = all(
        isinstance(pad, int) and 2 * pad == reach * (size - 1) and size % 2
        for pad, size, reach in zip(conv.padding, conv.kernel_size, conv.dilation, strict=False)
    )
    depthwise = conv.groups == conv.in_channels and conv.stride == (1, 1) and conv.padding_mode == "zeros"
    return conv if same and depthwise else None


def _way(
    traced: fx.GraphModule, node: fx.Node, source: fx.Node, inner: nn.Module | None, outer: nn.Module | None
) -> tuple[Tensor | None, Tensor | None] | None:
    """Return the scale and shift per channel between y and its half of the result; None where there is more."""
    if node is source:
        harmless = outer is None or (type(outer) is type(inner) and isinstance(outer, _IDEMPOTENT))
        return (None, None) if harmless else None
    before, activation = _behind_activation(traced, node)
    if type(activation) is not type(outer) or repr(activation) != repr(outer):
        return None
    if before is source:
        return None, None
    affine = _stride_free_depthwise(traced, before)
    if affine is None or affine.kernel_size != (1, 1) or before.args[0] is not source:
        return None
    if affine.out_channels != affine.in_channels:
        return None
    return affine.weight.detach().flatten(), None if affine.bias is None else affine.bias.detach()


def _wide(cheap: nn.Conv2d, scale: Tensor | None, shift: Tensor | None) -> nn.Conv2d:
    weight = cheap.weight.detach()
    count = cheap.in_channels
    identity = weight.new_zeros(count, 1, *weight.shape[2:])
    identity[:, 0, weight.shape[2] // 2, weight.shape[3] // 2] = 1.0 if scale is None else scale
    biases: Sequence[Tensor | None] = (shift, None if cheap.bias is None else cheap.bias.detach())
    bias = None
    if any(value is not None for value in biases):
        sizes = (count, cheap.out_channels)
        pairs = zip(biases, sizes, strict=True)
        bias = torch.cat([weight.new_zeros(size) if value is None else value for value, size in pairs])
    total = count + cheap.out_channels
    return like_convolution(cheap, torch.cat([identity, weight]), bias, in_channels=total, groups=total)
