"""The rounding of a fine-tuned network as ONNX stores it: pairs of (De)QuantizeLinear, weights and biases as integers.

A bias is an int32 in steps of its layer's input scale times weight scale, which is what integer convolutions add up in.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ghostnet.deploy.passes.operations import module_of
from ghostnet.deploy.quantization.rounding import RoundedLayer, RoundedValues

_BIAS_LIMIT = 2.0**31 - 1


def with_onnx_rounding(graph: fx.GraphModule) -> fx.GraphModule:
    """Return a network in evaluation mode that PyTorch's ONNX exporter writes with integer weights."""
    made = copy.deepcopy(graph)
    replaced: dict[str, nn.Module] = {}
    for node in made.graph.nodes:
        module = module_of(made, node)
        if isinstance(module, RoundedValues):
            replaced[str(node.target)] = _OnnxValues(module)
        elif isinstance(module, RoundedLayer):
            source = module_of(made, node.args[0])
            scale = source.grid()[0] if isinstance(source, RoundedValues) else None
            replaced.setdefault(str(node.target), _OnnxLayer(module, scale))
    for name, module in replaced.items():
        made.set_submodule(name, module)
    made.recompile()
    return made.eval()


class _OnnxValues(nn.Module):
    """Values to 8 bits and back."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, rounded: RoundedValues) -> None:
        super().__init__()
        scale, zero_point = rounded.grid()
        self.register_buffer("scale", scale.clone())
        self.register_buffer("zero_point", zero_point.to(torch.uint8))

    def forward(self, values: Tensor) -> Tensor:
        grid = self.scale, self.zero_point
        whole = torch.onnx.ops.symbolic(
            "QuantizeLinear", (values, *grid), dtype=torch.uint8, shape=values.shape
        )
        return _dequantized(whole, *grid)


class _OnnxLayer(nn.Module):
    """A layer whose weights, and bias where the input's scale is known, are stored as integers."""

    weight: Tensor
    scales: Tensor
    zero_point: Tensor
    bias: Tensor | None
    bias_scales: Tensor
    bias_zero_point: Tensor

    def __init__(self, rounded: RoundedLayer, input_scale: Tensor | None) -> None:
        super().__init__()
        self.layer = rounded.layer
        scales, weight, bias = rounded.scales(), rounded.layer.weight.detach(), rounded.layer.bias
        steps = (weight / scales.view(-1, *[1] * (weight.dim() - 1))).round()
        self.register_buffer("weight", steps.to(torch.int8))
        self.register_buffer("scales", scales)
        self.register_buffer("zero_point", torch.zeros_like(scales, dtype=torch.int8))
        self.register_buffer("bias", None if bias is None else bias.detach())
        if self.bias is None or input_scale is None:
            return
        bias_scales = scales * input_scale
        whole = (self.bias.double() / bias_scales.double()).round()
        if float(whole.abs().max()) < _BIAS_LIMIT:
            self.bias = whole.to(torch.int32)
            self.register_buffer("bias_scales", bias_scales)
            self.register_buffer("bias_zero_point", torch.zeros_like(scales, dtype=torch.int32))

    def forward(self, values: Tensor) -> Tensor:
        weight = _dequantized(self.weight, self.scales, self.zero_point, axis=0)
        bias = self.bias
        if bias is not None and bias.dtype == torch.int32:
            bias = _dequantized(bias, self.bias_scales, self.bias_zero_point, axis=0)
        if isinstance(self.layer, nn.Linear):
            return F.linear(values, weight, bias)
        return self.layer._conv_forward(values, weight, bias)


def _dequantized(whole: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None = None) -> Tensor:
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    return torch.onnx.ops.symbolic(
        "DequantizeLinear", (whole, scale, zero_point), attributes, dtype=torch.float32, shape=whole.shape
    )
