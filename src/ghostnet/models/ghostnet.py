"""GhostNet (§3.2, Table 1) at widths 0.5, 1.0, 1.1 and 1.3, in the two forms that its authors published.

`rounding="torch"`: widths to the nearest multiple of 4, never more than 10 % below; squeezed widths likewise; gate
relu6(x + 3) / 6; the 1x1 to 1280 has a bias and no batch norm. The published PyTorch weights are of this form.
`rounding="paper"`: the TensorFlow code, whose 164.5 M MACs at 1.1x are the 164 M of Table 8: widths from
round(max(int(c * width), 8) / 4) * 4; squeezed widths truncated; gate clip(x, 0, 1); the 1x1 to 1280 has batch norm and
no bias. PaddleClas uses this form too. Successors (V2, V3, RepGhost) are in `ghostnet_successors.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ghostnet.checks import is_number
from ghostnet.errors import InputError, unknown_name
from ghostnet.models.convolution import initialise_
from ghostnet.models.pyramid import PyramidPart
from ghostnet.models.registry import check_in_chans, check_width, register
from ghostnet.nn.bottleneck import BottleneckStyle, GhostBottleneck
from ghostnet.nn.squeeze_excite import nearest_multiple

ROUNDINGS = ("torch", "paper")
_HEAD_CHANNELS = 1280  # not scaled by the width
_SE_RATIO = 0.25
_LEVELS = ((2, 0), (4, 2), (8, 4), (16, 10), (32, 15))  # stride, and the last block that has it


@dataclass(frozen=True)
class BlockSpec:
    """One row of Table 1.

    Attributes:
        kernel_size: k of the stride-2 and shortcut depthwise convolutions (the table does not print it).
        hidden: "expansion", at width 1.
        out: output channels, at width 1.
        squeeze_excite: whether it has squeeze-excite.
        stride: 1 or 2.
    """

    kernel_size: int
    hidden: int
    out: int
    squeeze_excite: bool
    stride: int


TABLE_1 = tuple(
    BlockSpec(*row)
    for row in (
        (3, 16, 16, False, 1),
        (3, 48, 24, False, 2),
        (3, 72, 24, False, 1),
        (5, 72, 40, True, 2),
        (5, 120, 40, True, 1),
        (3, 240, 80, False, 2),
        (3, 200, 80, False, 1),
        (3, 184, 80, False, 1),
        (3, 184, 80, False, 1),
        (3, 480, 112, True, 1),
        (3, 672, 112, True, 1),
        (5, 672, 160, True, 2),
        (5, 960, 160, False, 1),
        (5, 960, 160, True, 1),
        (5, 960, 160, False, 1),
        (5, 960, 160, True, 1),
    )
)


@dataclass(frozen=True)
class GhostNetForm:
    """What distinguishes the networks of this family besides width and head.

    Attributes:
        rounding: "torch" or "paper", see the head of this file.
        ratio: s of every Ghost module.
        cheap_kernel_size: d of every Ghost module.
        blocks: the bottlenecks.
        last_channels: channels behind the last bottleneck, at width 1.
        module: "ghost", "reparam" or "add", see `nn.BottleneckStyle`.
        attention_from: index of the first bottleneck with DFC attention, or None.
    """

    rounding: str = "torch"
    ratio: int = 2
    cheap_kernel_size: int = 3
    blocks: tuple[BlockSpec, ...] = TABLE_1
    last_channels: int = 960
    module: str = "ghost"
    attention_from: int | None = None

    def style(self, index: int) -> BottleneckStyle:
        """Return the style of the bottleneck at `index`."""
        attention = self.attention_from is not None and index >= self.attention_from
        if self.rounding == "paper":
            return BottleneckStyle(self.module, attention, se_divisor=1, se_gate="clip")
        return BottleneckStyle(self.module, attention)


def scaled_channels(channels: int, width_mult: float, *, rounding: str) -> int:
    """Return a width of Table 1 at another multiplier.

    Raises:
        InputError: an unknown rounding.

    Example:
        >>> scaled_channels(184, 1.1, rounding="torch"), scaled_channels(16, 1.1, rounding="paper")
        (204, 16)
    """
    if rounding not in ROUNDINGS:
        raise unknown_name("rounding", rounding, ROUNDINGS)
    if rounding == "paper":
        return round(max(int(channels * width_mult), 8) / 4) * 4
    return nearest_multiple(channels * width_mult, 4)


class GhostNet(nn.Module):
    """GhostNet: `(N, in_chans, H, W) -> (N, num_classes)`; any input size.

    Args:
        form: see `GhostNetForm`.
        width_mult: alpha, which scales every width but 1280.
        num_classes: size of the classifier.
        in_chans: channels of the input.
        dropout: probability in front of the classifier, in [0, 1).

    Raises:
        InputError: an argument outside these rules.
    """

    def __init__(
        self,
        form: GhostNetForm,
        *,
        width_mult: float = 1.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        width = check_width(width_mult)
        check_in_chans(in_chans)
        _check_dropout(dropout)
        channels = scaled_channels(16, width, rounding=form.rounding)
        self.stem = _conv_norm_relu(in_chans, channels, 3, 2)
        blocks: list[nn.Module] = []
        self._widths: list[int] = []
        for index, spec in enumerate(form.blocks):
            hidden = scaled_channels(spec.hidden, width, rounding=form.rounding)
            out = scaled_channels(spec.out, width, rounding=form.rounding)
            blocks.append(
                GhostBottleneck(
                    channels,
                    hidden,
                    out,
                    kernel_size=spec.kernel_size,
                    stride=spec.stride,
                    se_ratio=_SE_RATIO if spec.squeeze_excite else 0.0,
                    ratio=form.ratio,
                    cheap_kernel_size=form.cheap_kernel_size,
                    style=form.style(index),
                )
            )
            channels = out
            self._widths.append(out)
        self.blocks = nn.Sequential(*blocks)
        last = scaled_channels(form.last_channels, width, rounding=form.rounding)
        self.last = _conv_norm_relu(channels, last, 1, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = _head(last, norm=form.rounding == "paper")
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(_HEAD_CHANNELS, num_classes)
        initialise_(self, classifier_std=0.01)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the maps in front of the pooling: `(N, 960 * width_mult, ceil(H / 32), ceil(W / 32))`."""
        return self.last(self.blocks(self.stem(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        pooled = self.head(self.pool(self.forward_features(x)))
        return self.classifier(self.dropout(pooled.flatten(1)))

    def pyramid_parts(self) -> list[PyramidPart]:
        """Return the trunk cut behind the last block of each stride, for `models.feature_pyramid`."""
        parts, start = [], 0
        for stride, end in _LEVELS:
            body: nn.Module = self.blocks[start : end + 1]
            if not start:
                body = nn.Sequential(self.stem, *self.blocks[: end + 1])
            parts.append(PyramidPart(body, stride, self._widths[end]))
            start = end + 1
        return parts


def _conv_norm_relu(in_channels: int, out_channels: int, kernel_size: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def _head(in_channels: int, *, norm: bool) -> nn.Sequential:
    """The 1x1 to 1280 on the pooled maps."""
    conv = nn.Conv2d(in_channels, _HEAD_CHANNELS, 1, bias=not norm)
    middle = [nn.BatchNorm2d(_HEAD_CHANNELS)] if norm else []
    return nn.Sequential(conv, *middle, nn.ReLU(inplace=True))


def _check_dropout(dropout: float) -> None:
    if not is_number(dropout) or not 0 <= dropout < 1:
        raise InputError(f"`dropout` (={dropout!r}) must be in [0, 1); use 0 for none.")


def _enter(name: str, default_width: float, summary: str) -> None:
    """Register one width of GhostNet."""

    def build(
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        width_mult: float = default_width,
        dropout: float = 0.2,
        rounding: str = "torch",
        ratio: int = 2,
        cheap_kernel_size: int = 3,
    ) -> nn.Module:
        form = GhostNetForm(rounding, ratio, cheap_kernel_size)
        return GhostNet(
            form, width_mult=width_mult, num_classes=num_classes, in_chans=in_chans, dropout=dropout
        )

    build.__name__, build.__doc__ = name, summary
    register(family="ghostnet", input_size=(3, 224, 224), num_classes=1000)(build)


_enter("ghostnet_050", 0.5, "GhostNet 0.5x, 2.6 M params, 42 M MACs (Table 7).")
_enter("ghostnet_100", 1.0, "GhostNet 1.0x, 5.2 M params, 141 M MACs (Tables 1 and 7).")
_enter("ghostnet_110", 1.1, "GhostNet 1.1x, 5.9 M params; 164 M MACs with rounding='paper' (Table 8).")
_enter("ghostnet_130", 1.3, "GhostNet 1.3x, 7.4 M params, 227 M MACs (Table 7).")
