"""Rounding in the forward pass, straight through in the backward pass: values to 8 bits, weights to 8 or fewer.

`q = clip(round(v / scale) + zero_point)`, `v' = scale (q - zero_point)`. Values: unsigned, one range a tensor that
includes 0. Weights: signed, symmetric, one scale an output channel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_VALUE_STEPS = 255
_MOMENTUM = 0.01  # of a batch's extremes in the moving average; PyTorch's observers have the same
_LEAST_SCALE = (
    2.0**-10
)  # of the layer's largest: a bias is stored in steps of it, and an empty channel has none


class RoundedValues(nn.Module):
    """Rounds a tensor to 8 bits: `(…) -> (…)`; in training the range follows what runs through.

    Attributes:
        observing: widen the range to all that runs through and round nothing.
        fixed: `(scale, zero_point)` as plain numbers, in a network that is to be exported.
    """

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(0.0))
        self.observing = False
        self.fixed: tuple[float, int] | None = None

    def grid(self) -> tuple[Tensor, Tensor]:
        """Return scale and zero point."""
        scale = ((self.high - self.low) / _VALUE_STEPS).clamp_min(torch.finfo(torch.float32).tiny)
        return scale, (-self.low / scale).round().to(torch.int32)

    def forward(self, values: Tensor) -> Tensor:
        """Return the values on the grid."""
        if self.fixed is not None:
            return torch.fake_quantize_per_tensor_affine(values, *self.fixed, 0, _VALUE_STEPS)
        if self.observing or self.training:
            self._follow(values.detach())
        if self.observing:
            return values
        return torch.fake_quantize_per_tensor_affine(values, *self.grid(), 0, _VALUE_STEPS)

    def _follow(self, values: Tensor) -> None:
        low, high = values.amin().clamp_max(0).float(), values.amax().clamp_min(0).float()
        if self.observing:
            self.low.copy_(torch.minimum(self.low, low))
            self.high.copy_(torch.maximum(self.high, high))
        else:
            self.low.lerp_(low, _MOMENTUM)
            self.high.lerp_(high, _MOMENTUM)


class RoundedLayer(nn.Module):
    """A convolution or linear layer that computes with rounded weights.

    Args:
        layer: `nn.Conv2d` or `nn.Linear`; it is trained on.
        bits: of a weight, 2 to 8.

    Attributes:
        fixed: the scales, in a network that is to be exported.
    """

    fixed: Tensor | None
    zero_point: Tensor

    def __init__(self, layer: nn.Conv2d | nn.Linear, bits: int = 8) -> None:
        super().__init__()
        self.layer = layer
        self.steps = 2 ** (bits - 1) - 1
        self.observing = False
        self.register_buffer("fixed", None)
        self.register_buffer("zero_point", torch.zeros(layer.weight.shape[0], dtype=torch.int32), False)

    def scales(self) -> Tensor:
        """Return one scale an output channel, `(C_out,)`."""
        largest = self.layer.weight.detach().flatten(1).abs().amax(1) / self.steps
        tiny = torch.finfo(torch.float32).tiny
        return torch.maximum(largest, (largest.max() * _LEAST_SCALE).clamp_min(tiny))

    def forward(self, values: Tensor) -> Tensor:
        """Return what the layer makes of `values` with its rounded weights."""
        weight = self.layer.weight
        if not self.observing:
            scales = self.scales() if self.fixed is None else self.fixed
            weight = torch.fake_quantize_per_channel_affine(
                weight, scales, self.zero_point, 0, -self.steps - 1, self.steps
            )
        if isinstance(self.layer, nn.Linear):
            return F.linear(values, weight, self.layer.bias)
        return self.layer._conv_forward(values, weight, self.layer.bias)
