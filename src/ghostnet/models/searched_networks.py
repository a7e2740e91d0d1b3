"""Networks that a search found, as tables of inverted bottlenecks: FBNet-B and ProxylessNAS ([52] and [2] in Table 7).

FBNet-B (Wu et al. 2019): the block list of the authors' first release. Their later one expands the second block of the
fourth stage by 6 instead of 1 and leaves out the 1x1 convolution of blocks that expand by 1; neither reaches the 4.5 M
parameters that their paper prints. ProxylessNAS (Cai et al. 2019): the mobile network, the one with 74.6 % top-1.
MnasNet-A1, which needs squeeze-excite, is timm's (`borrowed_networks.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ghostnet.models.mobile_network import IMAGENET, PooledClassifier, conv_norm
from ghostnet.models.registry import register

# expansion, kernel size, output channels, stride
Row = tuple[int, int, int, int]

_FBNET_B: tuple[Row, ...] = (
    (1, 3, 16, 1),
    *((6, 3, 24, 2), (1, 5, 24, 1), (1, 3, 24, 1), (1, 3, 24, 1)),
    *((6, 5, 32, 2), (3, 5, 32, 1), (6, 3, 32, 1), (6, 5, 32, 1)),
    *((6, 5, 64, 2), (1, 5, 64, 1), (3, 5, 64, 1)),  # the search skipped one of the four
    *((6, 5, 112, 1), (1, 3, 112, 1), (1, 5, 112, 1), (3, 5, 112, 1)),
    *((6, 5, 184, 2), (1, 5, 184, 1), (6, 5, 184, 1), (6, 5, 184, 1)),
    (6, 3, 352, 1),
)
_PROXYLESS_MOBILE: tuple[Row, ...] = (
    (1, 3, 16, 1),
    *((3, 5, 32, 2), (3, 3, 32, 1)),  # the search skipped two of the four
    *((3, 7, 40, 2), (3, 3, 40, 1), (3, 5, 40, 1), (3, 5, 40, 1)),
    *((6, 7, 80, 2), (3, 5, 80, 1), (3, 5, 80, 1), (3, 5, 80, 1)),
    *((6, 5, 96, 1), (3, 5, 96, 1), (3, 5, 96, 1), (3, 5, 96, 1)),
    *((6, 7, 192, 2), (6, 7, 192, 1), (3, 7, 192, 1), (3, 7, 192, 1)),
    (6, 7, 320, 1),
)


@dataclass(frozen=True)
class BlockStyle:
    """In what the two families' inverted bottlenecks differ.

    Attributes:
        activation: class of the activation.
        eps: of the batch norms.
        always_expand: put a 1x1 convolution first even when it does not widen.
    """

    activation: Callable[..., nn.Module]
    eps: float
    always_expand: bool


class InvertedBottleneck(nn.Module):
    """Widen by a 1x1, filter depthwise, narrow by a 1x1; a sum where the shape stays.

    `(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)`.
    """

    def __init__(self, in_channels: int, row: Row, style: BlockStyle) -> None:
        super().__init__()
        expansion, kernel_size, out_channels, stride = row
        hidden = in_channels * expansion
        act, eps = style.activation, style.eps
        layers: list[nn.Module] = []
        if expansion != 1 or style.always_expand:
            layers.append(conv_norm(in_channels, hidden, activation=act, eps=eps))
        layers.append(
            conv_norm(hidden, hidden, kernel_size, stride=stride, groups=hidden, activation=act, eps=eps)
        )
        layers.append(conv_norm(hidden, out_channels, activation=None, eps=eps))
        self.body = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's output."""
        return images + self.body(images) if self.has_shortcut else self.body(images)


def _searched(rows: tuple[Row, ...], stem: int, head: int, style: BlockStyle, num_classes: int) -> nn.Module:
    layers: list[nn.Module] = [conv_norm(3, stem, 3, stride=2, activation=style.activation, eps=style.eps)]
    in_channels = stem
    for row in rows:
        layers.append(InvertedBottleneck(in_channels, row, style))
        in_channels = row[2]
    layers.append(conv_norm(in_channels, head, activation=style.activation, eps=style.eps))
    return PooledClassifier(nn.Sequential(*layers), head, num_classes)


@register(family="searched_networks", input_size=IMAGENET, num_classes=1000)
def fbnet_b(*, num_classes: int = 1000) -> nn.Module:
    """FBNet-B, 4.8 M params, 297 M MACs."""
    return _searched(_FBNET_B, 16, 1984, BlockStyle(nn.ReLU, 1e-5, always_expand=True), num_classes)


@register(family="searched_networks", input_size=IMAGENET, num_classes=1000)
def proxylessnas_mobile(*, num_classes: int = 1000) -> nn.Module:
    """ProxylessNAS (mobile), 4.1 M params, 320 M MACs."""
    return _searched(
        _PROXYLESS_MOBILE, 32, 1280, BlockStyle(nn.ReLU6, 1e-3, always_expand=False), num_classes
    )
