"""Ghost bottleneck, the block of GhostNet (§3.2, Fig. 3), and of its successors where asked for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ghostnet.checks import check_integer
from ghostnet.errors import InputError, unknown_name
from ghostnet.nn.cheap_operations import check_cheap_kernel_size
from ghostnet.nn.ghost_module import GhostModule
from ghostnet.nn.ghost_variants import AddGhostModule, GatedModule, ReparamGhostModule
from ghostnet.nn.reparam import ReparamConv2d
from ghostnet.nn.squeeze_excite import SqueezeExcite

MODULES = ("ghost", "reparam", "add")


@dataclass(frozen=True)
class BottleneckStyle:
    """What the bottlenecks of one network have in common.

    Attributes:
        module: "ghost" (the paper's), "reparam" (GhostNetV3: parallel branches in training, in the stride-2
            convolution too) or "add" (RepGhost).
        attention: put the expanding module under DFC attention (GhostNetV2).
        se_divisor: the squeezed width is a multiple of it; 1 truncates (TensorFlow code).
        se_gate: "hard_sigmoid" (PyTorch code) or "clip" (TensorFlow code).
    """

    module: str = "ghost"
    attention: bool = False
    se_divisor: int = 4
    se_gate: str = "hard_sigmoid"


PLAIN_STYLE = BottleneckStyle()


def _depthwise_norm(channels: int, kernel_size: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, kernel_size, stride, kernel_size // 2, groups=channels, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


class GhostBottleneck(nn.Module):
    """Expand by a Ghost module, stride, squeeze-excite, project by a Ghost module, add the shortcut.

    `(N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride))`. No activation follows the projection
    or the sum. The shortcut is the identity at stride 1 with equal channels, else a depthwise convolution and
    a 1x1, each with batch norm.

    Args:
        in_channels: input channels.
        hidden_channels: channels between the two Ghost modules ("expansion" in Table 1).
        out_channels: output channels.
        kernel_size: k of the depthwise convolutions for stride 2 and for the shortcut, odd.
        stride: 1 or 2.
        se_ratio: squeezed width over `hidden_channels`; 0 leaves squeeze-excite out, GhostNet uses 0.25.
        ratio: s of both Ghost modules.
        cheap_kernel_size: d of both Ghost modules, odd.
        style: form of the modules and of squeeze-excite; the default is the paper's, with the published weights' SE.

    Raises:
        InputError: an argument outside these rules.

    Example:
        >>> import torch
        >>> GhostBottleneck(16, 48, 24, stride=2)(torch.zeros(1, 16, 9, 9)).shape
        torch.Size([1, 24, 5, 5])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        se_ratio: float = 0.0,
        ratio: int = 2,
        cheap_kernel_size: int = 3,
        style: BottleneckStyle = PLAIN_STYLE,
    ) -> None:
        super().__init__()
        _check(kernel_size, stride, se_ratio, style)
        check_cheap_kernel_size(cheap_kernel_size)
        self.expand = _module(style, in_channels, hidden_channels, ratio, cheap_kernel_size, activation=True)
        if style.attention:
            self.expand = GatedModule(self.expand, in_channels, hidden_channels)
        self.downsample: nn.Module | None = None
        if stride > 1:
            self.downsample = _downsample(style, hidden_channels, kernel_size, stride)
        self.squeeze_excite: nn.Module | None = None
        if se_ratio:
            self.squeeze_excite = SqueezeExcite(
                hidden_channels, reduction_ratio=se_ratio, divisor=style.se_divisor, gate=style.se_gate
            )
        self.project = _module(
            style, hidden_channels, out_channels, ratio, cheap_kernel_size, activation=False
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                *_depthwise_norm(in_channels, kernel_size, stride),
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return `(N, out_channels, ceil(H / stride), ceil(W / stride))`."""
        hidden = self.expand(x)
        if self.downsample is not None:
            hidden = self.downsample(hidden)
        if self.squeeze_excite is not None:
            hidden = self.squeeze_excite(hidden)
        return self.project(hidden) + self.shortcut(x)


def _module(
    style: BottleneckStyle,
    in_channels: int,
    out_channels: int,
    ratio: int,
    cheap_kernel_size: int,
    *,
    activation: bool,
) -> nn.Module:
    if style.module == "ghost":
        return GhostModule(
            in_channels,
            out_channels,
            ratio=ratio,
            cheap_kernel_size=cheap_kernel_size,
            activation="relu" if activation else None,
        )
    if style.module == "add":
        return AddGhostModule(
            in_channels, out_channels, cheap_kernel_size=cheap_kernel_size, activation=activation
        )
    return ReparamGhostModule(
        in_channels, out_channels, ratio=ratio, cheap_kernel_size=cheap_kernel_size, activation=activation
    )


def _downsample(style: BottleneckStyle, channels: int, kernel_size: int, stride: int) -> nn.Module:
    if style.module != "reparam":
        return nn.Sequential(*_depthwise_norm(channels, kernel_size, stride))
    return ReparamConv2d(
        channels, channels, kernel_size, stride=stride, groups=channels, branches=3, scale=True
    )


def _check(kernel_size: int, stride: int, se_ratio: float, style: BottleneckStyle) -> None:
    check_integer("`kernel_size`", kernel_size, odd=True, ending="; GhostNet uses 3 and 5.")
    if stride not in (1, 2):
        raise InputError(f"`stride` (={stride!r}) must be 1 or 2; stack two bottlenecks for more.")
    if not 0 <= se_ratio <= 1:
        raise InputError(f"`se_ratio` (={se_ratio!r}) must be in [0, 1]; use 0 for no squeeze-excite.")
    if style.module not in MODULES:
        raise unknown_name("bottleneck module", style.module, MODULES)
