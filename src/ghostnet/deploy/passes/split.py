"""Passes "join_late", "split" and their kin: how far concatenations are carried without being built."""

from __future__ import annotations

from torch import fx

from ghostnet.deploy.passes.carrier import Reach, carry


def join_late(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network with activations and poolings in front of the concatenations that they followed.

    Runtimes fuse an activation with a convolution, not with a concatenation.
    """
    return carry(traced, Reach(convolutions=False, products=False, sums=False))


def split(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network with concatenations carried through convolutions, which then add what each part gives.

    `W cat(y, g) = W_y y + W_g g`; depthwise convolutions act on each part. A residual sum builds its operands, and so
    does squeeze-excite.
    """
    return carry(traced, Reach(sums=False))


def split_residuals(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network of `split` in which residual sums act part by part as well, so that streams stay in parts."""
    return carry(traced, Reach())


def pad_halves(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network of `split` with zero channels that fill the parts to multiples of 16.

    Runtimes work in blocks of 8 or 16 channels, as many as one vector register holds; what does not fill a block is
    laid out anew between operators.
    """
    return carry(traced, Reach(sums=False, multiple=16))


def pad_eights(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network of `pad_halves` with multiples of 8, for processors whose registers hold 8 numbers."""
    return carry(traced, Reach(sums=False, multiple=8))
