"""Ghost convolutions as this room knows them: by their attributes, since it may not import the room that makes them."""

from __future__ import annotations

from torch import nn

_ATTRIBUTES = ("primary_conv", "intrinsic_channels", "ratio", "cheap_kernel_size", "out_channels")


def is_ghost_convolution(module: nn.Module) -> bool:
    """Tell whether a module has the attributes of a Ghost convolution."""
    return all(hasattr(module, attribute) for attribute in _ATTRIBUTES)
