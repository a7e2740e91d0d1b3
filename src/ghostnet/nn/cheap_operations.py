"""Cheap operations: linear maps that make each ghost map from ONE intrinsic map (§3.1, eq. 3).

`depthwise` is the paper's choice; `affine` and `wavelet` are the alternatives it names. Ghost maps
are in the order of their intrinsic maps, like the authors' code. Where they do not divide evenly, `depthwise`
makes whole sets of maps and keeps the first ones, as the paper does and as the counts of Tables 3 and 4 need.
Stride and dilation stay with the primary convolution.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet.checks import check_integer
from ghostnet.errors import InputError, unknown_name


def check_cheap_kernel_size(value: object) -> int:
    """Return `value` when it is an odd integer >= 1.

    Raises:
        InputError: it is something else.
    """
    ending = ", so that maps keep their size; use 1, 3, 5 or 7."
    return check_integer("`cheap_kernel_size`", value, odd=True, ending=ending)


def source_maps(in_channels: int, out_channels: int) -> list[int]:
    """Return, for each ghost map in order, the intrinsic map that it is made from.

    Example:
        >>> source_maps(2, 5)
        [0, 0, 0, 1, 1]
    """
    each = -(-out_channels // in_channels)
    return [index // each for index in range(out_channels)]


def _check_channels(in_channels: int, out_channels: int) -> None:
    if in_channels < 1 or out_channels < 1:
        raise InputError(
            f"a cheap operation from {in_channels} to {out_channels} maps is empty; both counts must be >= 1 "
            "(a ratio of 1 needs no cheap operation)."
        )


class DepthwiseOperation(nn.Module):
    """A depthwise convolution with stride 1: each ghost map filters one intrinsic map by a d x d kernel.

    `(N, in_channels, H, W) -> (N, out_channels, H, W)`. `conv` makes ceil(out / in) maps of each intrinsic
    map, of which the first `out_channels` are kept.

    Args:
        in_channels: intrinsic maps, >= 1.
        out_channels: ghost maps, >= 1.
        kernel_size: d, odd.
        bias: learn one bias for each ghost map.

    Raises:
        InputError: a channel count below 1, or a `kernel_size` that is not odd.

    Example:
        >>> DepthwiseOperation(4, 8, 3)(torch.zeros(1, 4, 5, 5)).shape
        torch.Size([1, 8, 5, 5])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = False) -> None:
        super().__init__()
        _check_channels(in_channels, out_channels)
        check_cheap_kernel_size(kernel_size)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        made = in_channels * -(-out_channels // in_channels)
        padding = kernel_size // 2
        self.conv = nn.Conv2d(in_channels, made, kernel_size, padding=padding, groups=in_channels, bias=bias)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the ghost maps `(N, out_channels, H, W)` of `maps` `(N, in_channels, H, W)`."""
        ghosts = self.conv(maps)
        return ghosts if self.conv.out_channels == self.out_channels else ghosts[:, : self.out_channels]

    @torch.no_grad()
    def kernels(self) -> Tensor:
        """Return a copy of all kernels `(out_channels, 1, d, d)`, in the order of the ghost maps."""
        return self.conv.weight[: self.out_channels].clone()


class _PerGhostMap(nn.Module):
    """What affine and wavelet share: the intrinsic map of each ghost map, and the bias."""

    sources: Tensor

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__()
        _check_channels(in_channels, out_channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.register_buffer(
            "sources", torch.tensor(source_maps(in_channels, out_channels)), persistent=False
        )
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def _spread(self, maps: Tensor) -> Tensor:
        return maps if self.in_channels == self.out_channels else maps.index_select(1, self.sources)

    def _add_bias(self, ghosts: Tensor) -> Tensor:
        return ghosts if self.bias is None else ghosts + self.bias.to(ghosts.dtype).view(1, -1, 1, 1)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, bias={self.bias is not None}"


class AffineOperation(_PerGhostMap):
    """Each ghost map is its intrinsic map under a learned affine warp (2x3 matrix, bilinear, zeros outside).

    `(N, in_channels, H, W) -> (N, out_channels, H, W)`; linear in the maps, not in the warp. Starts at the
    identity plus small noise, because equal ghost maps would receive equal gradients.

    Args:
        in_channels: intrinsic maps, >= 1.
        out_channels: ghost maps, >= 1.
        bias: learn one bias for each ghost map.

    Raises:
        InputError: a channel count below 1.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, bias=bias)
        identity = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        self.warp = nn.Parameter(identity + 0.05 * torch.randn(out_channels, 2, 3))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the ghost maps `(N, out_channels, H, W)` of `maps` `(N, in_channels, H, W)`."""
        spread = self._spread(maps).transpose(0, 1)  # one grid a ghost map, shared by all images
        warp = self.warp.float()  # bfloat16 would place samples a hundredth of the map beside their point
        grid = F.affine_grid(warp, list(spread.shape), align_corners=False)
        warped = F.grid_sample(spread.float(), grid, padding_mode="zeros", align_corners=False)
        return self._add_bias(warped.transpose(0, 1).to(maps.dtype))


# Orthonormal Haar analysis of a 2x2 block (top left, top right, bottom left, bottom right): LL, LH, HL, HH.
_HAAR = ((0.5, 0.5, 0.5, 0.5), (0.5, 0.5, -0.5, -0.5), (0.5, -0.5, 0.5, -0.5), (0.5, -0.5, -0.5, 0.5))


class WaveletOperation(_PerGhostMap):
    """Each ghost map is its intrinsic map after Haar analysis, a learned gain a sub-band, and synthesis.

    `(N, in_channels, H, W) -> (N, out_channels, H, W)` for even and odd sizes (the last row and column are
    repeated for the analysis and cut after the synthesis). Gains start near 1, which is the identity.

    Args:
        in_channels: intrinsic maps, >= 1.
        out_channels: ghost maps, >= 1.
        bias: learn one bias for each ghost map.

    Raises:
        InputError: a channel count below 1.
    """

    haar: Tensor

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, bias=bias)
        self.gain = nn.Parameter(1.0 + 0.1 * torch.randn(out_channels, 4))
        self.register_buffer("haar", torch.tensor(_HAAR), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the ghost maps `(N, out_channels, H, W)` of `maps` `(N, in_channels, H, W)`."""
        height, width = maps.shape[-2], maps.shape[-1]
        padded = F.pad(maps, (0, width % 2, 0, height % 2), mode="replicate")
        blocks = F.pixel_unshuffle(self._spread(padded), 2)
        # analysis, gain and synthesis are one 4x4 matrix a ghost map: Hᵀ diag(gain) H
        matrices = torch.matmul(self.haar.T * self.gain.unsqueeze(1), self.haar)
        kernels = matrices.reshape(4 * self.out_channels, 4, 1, 1).to(maps.dtype)
        ghosts = F.pixel_shuffle(F.conv2d(blocks, kernels, groups=self.out_channels), 2)
        return self._add_bias(ghosts[..., :height, :width])


def _affine(in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = False) -> nn.Module:
    check_cheap_kernel_size(kernel_size)  # a warp has no kernel, but a wrong value is still a mistake
    return AffineOperation(in_channels, out_channels, bias=bias)


def _wavelet(in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = False) -> nn.Module:
    check_cheap_kernel_size(kernel_size)
    return WaveletOperation(in_channels, out_channels, bias=bias)


CHEAP_OPERATIONS: dict[str, Callable[..., nn.Module]] = {
    "depthwise": DepthwiseOperation,
    "affine": _affine,
    "wavelet": _wavelet,
}


def make_cheap_operation(
    name: str, in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = False
) -> nn.Module:
    """Build the cheap operation `name` from `in_channels` intrinsic to `out_channels` ghost maps.

    Args:
        name: a key of `CHEAP_OPERATIONS`.
        in_channels: intrinsic maps, >= 1.
        out_channels: ghost maps, >= 1.
        kernel_size: d, odd; `affine` and `wavelet` have no kernel and ignore it.
        bias: learn one bias for each ghost map.

    Raises:
        InputError: an unknown name (near matches are listed) or a bad number.

    Example:
        >>> make_cheap_operation("wavelet", 2, 2, 3)(torch.zeros(1, 2, 5, 5)).shape
        torch.Size([1, 2, 5, 5])
    """
    if name not in CHEAP_OPERATIONS:
        raise unknown_name("cheap operation", name, CHEAP_OPERATIONS)
    return CHEAP_OPERATIONS[name](in_channels, out_channels, kernel_size, bias=bias)
