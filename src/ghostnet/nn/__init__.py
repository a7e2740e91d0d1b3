"""Ghost convolution, module and bottleneck, cheap operations, squeeze-excite, and the record of replaced modules (§3)."""

from ghostnet.nn.cheap_operations import (
    CHEAP_OPERATIONS,
    AffineOperation,
    DepthwiseOperation,
    WaveletOperation,
    make_cheap_operation,
)
from ghostnet.nn.concat import concat_channels
from ghostnet.nn.edits import apply_edits_, replace_module_
from ghostnet.nn.ghost_conv import GhostConv2d

__all__ = [
    "CHEAP_OPERATIONS",
    "AffineOperation",
    "DepthwiseOperation",
    "GhostConv2d",
    "WaveletOperation",
    "apply_edits_",
    "concat_channels",
    "make_cheap_operation",
    "replace_module_",
]
