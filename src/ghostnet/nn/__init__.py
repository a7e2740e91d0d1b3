"""Ghost convolution, module and bottleneck, cheap operations, and the record of replaced modules (§3)."""

from ghostnet.nn.bottleneck import BottleneckStyle, GhostBottleneck
from ghostnet.nn.channel_placement import ChannelPlacement
from ghostnet.nn.cheap_operations import (
    CHEAP_OPERATIONS,
    AffineOperation,
    DepthwiseOperation,
    WaveletOperation,
    make_cheap_operation,
)
from ghostnet.nn.concat import concat_channels
from ghostnet.nn.dfc_attention import DFCAttention
from ghostnet.nn.edits import apply_edits_, replace_module_
from ghostnet.nn.ghost_conv import GhostConv2d
from ghostnet.nn.ghost_module import GhostModule
from ghostnet.nn.ghost_variants import AddGhostModule, GatedModule, ReparamGhostModule
from ghostnet.nn.reparam import ReparamConv2d, fuse_reparameterised
from ghostnet.nn.squeeze_excite import SqueezeExcite

__all__ = [
    "CHEAP_OPERATIONS",
    "AddGhostModule",
    "AffineOperation",
    "BottleneckStyle",
    "ChannelPlacement",
    "DFCAttention",
    "DepthwiseOperation",
    "GatedModule",
    "GhostBottleneck",
    "GhostConv2d",
    "GhostModule",
    "ReparamConv2d",
    "ReparamGhostModule",
    "SqueezeExcite",
    "WaveletOperation",
    "apply_edits_",
    "concat_channels",
    "fuse_reparameterised",
    "make_cheap_operation",
    "replace_module_",
]
