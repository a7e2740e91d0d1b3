"""Squeeze-and-excitation, in the two forms that the authors published (spec section 6: SE)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet.errors import InputError, unknown_name

GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "hard_sigmoid": lambda x: F.relu6(x + 3.0) / 6.0,
    "clip": lambda x: x.clamp(0.0, 1.0),
}


def hidden_channel_count(channels: int, *, reduction_ratio: float, divisor: int) -> int:
    """Return the squeezed width: `channels * reduction_ratio` to the nearest multiple of `divisor`.

    A divisor of 1 truncates (the TensorFlow code); otherwise the result is at least `divisor` and never more
    than 10 % below the product (the PyTorch code).

    Example:
        >>> hidden_channel_count(120, reduction_ratio=0.25, divisor=4)
        32
    """
    wanted = channels * reduction_ratio
    return max(1, int(wanted)) if divisor == 1 else nearest_multiple(wanted, divisor)


def nearest_multiple(value: float, divisor: int) -> int:
    """Return the multiple of `divisor` nearest to `value`, at least `divisor` and never more than 10 % below `value`.

    Example:
        >>> nearest_multiple(17.6, 4)
        16
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from the means of all channels.

    `(N, C, H, W) -> (N, C, H, W)`: `x * gate(expand(relu(reduce(mean(x)))))`.

    Args:
        channels: C, >= 1.
        reduction_ratio: squeezed width over C, in (0, 1].
        divisor: the squeezed width is a multiple of it; 4 in the PyTorch code, 1 (truncate) in TensorFlow.
        gate: "hard_sigmoid", relu6(x + 3) / 6 (PyTorch code), or "clip", clip(x, 0, 1) (TensorFlow code).

    Raises:
        InputError: an unknown gate or a number outside these rules.

    Example:
        >>> import torch
        >>> SqueezeExcite(16)(torch.ones(1, 16, 4, 4)).shape
        torch.Size([1, 16, 4, 4])
    """

    def __init__(
        self, channels: int, *, reduction_ratio: float = 0.25, divisor: int = 4, gate: str = "hard_sigmoid"
    ) -> None:
        super().__init__()
        if channels < 1 or divisor < 1:
            raise InputError(f"`channels` (={channels}) and `divisor` (={divisor}) must be >= 1.")
        if not 0 < reduction_ratio <= 1:
            raise InputError(
                f"`reduction_ratio` (={reduction_ratio!r}) must be in (0, 1]; GhostNet uses 0.25."
            )
        if gate not in GATES:
            raise unknown_name("gate", gate, GATES)
        hidden = hidden_channel_count(channels, reduction_ratio=reduction_ratio, divisor=divisor)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.activation = nn.ReLU(inplace=True)
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with every channel scaled by its gate."""
        squeezed = self.activation(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * GATES[self.gate](self.expand(squeezed))

    def extra_repr(self) -> str:
        return f"gate={self.gate!r}"
