"""Ghost convolutions as this room knows them: by their attributes, since it may not import the room that makes them."""

from __future__ import annotations

from torch import nn

_ATTRIBUTES = ("primary_conv", "intrinsic_channels", "ratio", "cheap_kernel_size", "out_channels")


def is_ghost_convolution(module: nn.Module) -> bool:
    """Tell whether a module has the attributes of a Ghost convolution."""
    return all(hasattr(module, attribute) for attribute in _ATTRIBUTES)


def ghost_macs(ghost: nn.Module, convolution: nn.Conv2d, macs: int) -> int:
    """Return the MACs of a Ghost convolution that stands in for a convolution of `macs` (Eq. 4).

    Both use each of their weights once for every output pixel.

    Example:
        >>> ghost = nn.Sequential(nn.Conv2d(64, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1, groups=32))
        >>> ghost_macs(ghost, nn.Conv2d(64, 64, 3, padding=1), 64 * 64 * 9 * 100)
        1872000
    """
    weights = sum(part.weight.numel() for part in ghost.modules() if isinstance(part, nn.Conv2d))
    return round(macs * weights / convolution.weight.numel())
