"""FE-Net (Chen et al. 2019, "All You Need is a Few Shifts", Table 4): 1x1 convolutions and shifts ([6] in Table 7).

Every unit is two 1x1 convolutions with a learned shift of each channel between them (no spatial kernel but the stem's).
A block lets 1/4 or 1/8 of the channels through its first unit and twice as many through each next one, so that features
of several depths meet. Follows the paper: units widen their *input* by t, and the last 1x1 has 1380 channels. The
authors' later PyTorch code widens by the *output*, which costs 410 M MACs, and has 1932 there (`head_channels`).
Left out: the penalty on the shifts, `lambda * sum |displacement|`, which a training loop would add to its loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ghostnet.checks import check_integer
from ghostnet.models.mobile_network import IMAGENET, PooledClassifier, conv_norm
from ghostnet.models.registry import check_width, register

# output channels over the stem's, units, stride
_BLOCKS = ((4, 3, 2), (8, 4, 2), (8, 4, 1), (16, 4, 2), (16, 3, 1))
_EXPANSION = 6


class SparseShift(nn.Module):
    """Move each channel by its own whole number of pixels: `out[c, h, w] = in[c, h + a_c, w + b_c]`, zero outside.

    `(N, C, H, W) -> (N, C, H, W)`. The displacements (a, b) are learned as real numbers and rounded in the forward
    pass; their gradient is that of bilinear interpolation at the real position (section 4.2, eq. 5 to 7). They start
    as the nine neighbours in turn, as ShiftNet's do.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        size = channels // 9
        neighbour = torch.arange(channels).div(max(size, 1), rounding_mode="floor")
        start = torch.stack((neighbour.div(3, rounding_mode="floor") - 1, neighbour % 3 - 1)).float()
        start[:, 9 * size :] = 0.0
        self.displacement = nn.Parameter(start)  # (2, C): rows a, columns b, in pixels

    def forward(self, images: Tensor) -> Tensor:
        """Return the shifted channels."""
        out = _shifted(images, self.displacement.detach().round())
        if self.training and torch.is_grad_enabled():
            smooth = _interpolated(images.detach(), self.displacement)
            out = out + (smooth - smooth.detach())  # adds zero, and the gradient of the displacements
        return out


def _shifted(images: Tensor, whole: Tensor) -> Tensor:
    """Shift `(N, C, H, W)` by whole displacements `(2, C)`."""
    batch, channels, height, width = images.shape
    rows = torch.arange(height, device=images.device) + whole[0].long()[:, None]  # (C, H)
    columns = torch.arange(width, device=images.device) + whole[1].long()[:, None]  # (C, W)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    source = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    taken = images.flatten(2).gather(2, source.flatten(1).expand(batch, channels, height * width))
    return taken.view_as(images) * inside.to(images.dtype)


def _interpolated(images: Tensor, displacement: Tensor) -> Tensor:
    """Bilinear interpolation at real displacements, differentiable in them."""
    low = displacement.detach().floor()
    down, right = (displacement - low)[:, None, :, None, None]  # (1, C, 1, 1) each
    step_down, step_right = low.new_tensor([[1.0], [0.0]]), low.new_tensor([[0.0], [1.0]])
    upper = (1 - right) * _shifted(images, low) + right * _shifted(images, low + step_right)
    lower = (1 - right) * _shifted(images, low + step_down)
    lower = lower + right * _shifted(images, low + step_down + step_right)
    return (1 - down) * upper + down * lower


class ShiftUnit(nn.Module):
    """1x1 widening by `expansion`, shift (or 2x2 average pooling), 1x1 narrowing (Fig. 4).

    `(N, C_in, H, W) -> (N, C_out, H, W)`, halved when `pooled`; the input is added when `residual`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        expansion: int,
        pooled: bool = False,
        residual: bool = False,
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = conv_norm(in_channels, hidden)
        self.spatial: nn.Module = nn.AvgPool2d(2) if pooled else SparseShift(hidden)
        self.project = conv_norm(hidden, out_channels, activation=None)
        self.residual = residual

    def forward(self, images: Tensor) -> Tensor:
        """Return the unit's output."""
        out = self.project(self.spatial(self.expand(images)))
        return images + out if self.residual else out


class FEBlock(nn.Module):
    """`units` units, each on twice as many channels as the one before; the last on all (Fig. 3, eq. 8).

    `(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)`. The last channels are the first to be worked on.
    """

    def __init__(self, in_channels: int, out_channels: int, *, units: int, stride: int) -> None:
        super().__init__()
        self.widths = [in_channels // 2**halvings for halvings in range(units - 1, 0, -1)]
        self.residual_units = nn.ModuleList(
            ShiftUnit(width, width, expansion=_EXPANSION, residual=True) for width in self.widths
        )
        self.last = ShiftUnit(in_channels, out_channels, expansion=_EXPANSION, pooled=stride == 2)

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's output."""
        for width, unit in zip(self.widths, self.residual_units, strict=True):
            images = torch.cat((images[:, :-width], unit(images[:, -width:])), 1)
        return self.last(images)


@register(family="fe_net", input_size=IMAGENET, num_classes=1000)
def fenet_100(
    *, num_classes: int = 1000, width_mult: float = 1.0, head_channels: int | None = None
) -> nn.Module:
    """FE-Net, 3.5 M params, 300 M MACs at width 1; 1.375 is the authors' other width.

    Args:
        num_classes: classes.
        width_mult: factor of all channels, in (0, 16]; the stem's are rounded to an even number.
        head_channels: width of the last 1x1 convolution, >= 1; None gives 1380, widened with widths above 1.

    Raises:
        InputError: an argument outside these rules.
    """
    width = check_width(width_mult)
    if head_channels is None:
        head_channels = int(1380 * max(1.0, width))
    check_integer("`head_channels`", head_channels, ending="; the paper has 1380")
    stem = max(2, int(8 * width + 0.5) * 2)
    layers: list[nn.Module] = [
        conv_norm(3, stem, 3, stride=2, activation=None),
        ShiftUnit(stem, stem, expansion=4),
        ShiftUnit(stem, 2 * stem, expansion=5, pooled=True),
    ]
    in_channels = 2 * stem
    for factor, units, stride in _BLOCKS:
        layers.append(FEBlock(in_channels, factor * stem, units=units, stride=stride))
        in_channels = factor * stem
    layers.append(conv_norm(in_channels, head_channels))
    return PooledClassifier(nn.Sequential(*layers), head_channels, num_classes, dropout=0.2)
