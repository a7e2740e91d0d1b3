"""Passes "join_late", "split" and their kin: how far concatenations are carried without being built."""

from __future__ import annotations

from torch import fx

from ghostnet.deploy.passes.carrier import Reach, carry

# Channels of a part of a residual stream that is worth carrying through a sum: Ghost-ResNet-50, whose parts have 128
# and more, took 0.87 of the time in ONNX Runtime and 0.90 in OpenVINO (Intel Xeon with AMX); GhostNet, whose have 8 to
# 80, takes longer so (`split_residuals`).
_WIDE = 128


def join_late(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network with activations and poolings in front of the concatenations that they followed.

    Runtimes fuse an activation with a convolution, not with a concatenation.
    """
    return carry(traced, Reach(convolutions=False, products=False, sums=None))


def split(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network with concatenations carried through convolutions, which then add what each part gives.

    `W cat(y, g) = W_y y + W_g g`; depthwise convolutions act on each part. A residual sum builds its operands where
    these have narrow parts, and squeeze-excite always does.
    """
    return carry(traced, Reach(sums=_WIDE))


def split_residuals(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network of `split` in which all residual sums act part by part, those of narrow parts as well."""
    return carry(traced, Reach())


def pad_halves(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network of `split` with zero channels that fill the parts to multiples of 16.

    Runtimes work in blocks of 8 or 16 channels, as many as one vector register holds; what does not fill a block is
    laid out anew between operators.
    """
    return carry(traced, Reach(sums=_WIDE, multiple=16))


def pad_eights(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network of `pad_halves` with multiples of 8, for processors whose registers hold 8 numbers."""
    return carry(traced, Reach(sums=_WIDE, multiple=8))
