"""Pass "twin": a narrow Ghost convolution without concatenation, its intrinsic maps made twice.

With `y = P x` and `g = D y`: `cat(y, g) = D' [y; y]`, where the depthwise convolution D' has the kernel of the identity
on the first copy and D's kernels on the second. The second copy costs multiplications, but runtimes that compute in
blocks of 16 channels do them anyway where all maps fit one block: there it is free and saves the concatenation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from ghostnet.deploy.passes.layers import kept_outputs, like_convolution
from ghostnet.deploy.passes.operations import (
    ACTIVATIONS,
    add_module,
    cat_inputs,
    finished,
    module_of,
    plain_module,
)

BLOCK = 16
_IDEMPOTENT = (nn.ReLU, nn.ReLU6)


def twin(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network with Ghost convolutions of at most 16 maps made by one wider depthwise convolution."""
    for node in list(traced.graph.nodes):
        inputs = cat_inputs(node)
        if inputs is not None and len(inputs) == 2:
            _rewrite(traced, node, inputs[0], inputs[1])
    return finished(traced)


def _rewrite(traced: fx.GraphModule, node: fx.Node, intrinsic: fx.Node, ghosts: fx.Node) -> None:
    cheap_node, outer = _behind_activation(traced, ghosts)
    cheap = _stride_free_depthwise(traced, cheap_node)
    source = cheap_node.args[0] if cheap is not None else None
    if cheap is None or not isinstance(source, fx.Node) or cheap.in_channels + cheap.out_channels > BLOCK:
        return
    primary_node, inner = _behind_activation(traced, source)
    primary = module_of(traced, primary_node)
    affine = _way(traced, intrinsic, source, inner, outer)
    if affine is None or not plain_module(primary, nn.Conv2d) or not isinstance(primary, nn.Conv2d):
        return
    if primary.groups != 1:
        return
    each = cheap.out_channels // cheap.in_channels
    copies = [*range(primary.out_channels), *(channel // each for channel in range(cheap.out_channels))]
    modules: list[nn.Module | None] = [
        kept_outputs(primary, copies),
        inner,
        _wide(cheap, *affine),
        outer,
    ]
    with traced.graph.inserting_before(node):
        current = primary_node.args[0]
        for module in modules:
            if module is not None:
                current = traced.graph.call_module(
                    add_module(traced, f"{node.name}_twin", module), (current,)
                )
    node.replace_all_uses_with(current)  # type: ignore[arg-type]


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
