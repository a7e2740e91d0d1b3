"""`ghostnet convert --layers redundant:SHARE`: the redundancy scores choose the layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ghostnet.cli.calibration import CALIBRATION, first_images
from ghostnet.cli.output import note
from ghostnet.errors import InputError

if TYPE_CHECKING:
    from torch import nn

_WORD, _SHARE, _IMAGES = "redundant", 0.5, 64


def redundant_share(layers: Sequence[str] | None, calibration: str | None) -> float | None:
    """Return the share of the MACs that `--layers redundant` asks for, or None where layers are named.

    Args:
        layers: values of `--layers`.
        calibration: value of `--calibration`: the scores look at its images.

    Raises:
        InputError: no share, a share out of (0, 1], names beside it, or no images.
    """
    asked = [text for text in layers or () if text.partition(":")[0] == _WORD]
    if not asked:
        return None
    _, colon, text = asked[0].partition(":")
    try:
        share = float(text) if colon else _SHARE
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise InputError(
            f"--layers {asked[0]}: the share of MACs must be above 0 and at most 1, as in redundant:0.5"
        )
    if len(layers or ()) > 1:
        raise InputError(f"--layers {asked[0]} chooses the layers by itself; leave out the other --layers")
    if calibration is None:
        raise InputError(f"--layers {asked[0]} looks at images; give {CALIBRATION}")
    return share


def redundant_layers(
    model: nn.Module, batches: Sequence[Any], share: float, ghosting: tuple[int, int]
) -> list[str]:
    """Return the most redundant convolutions that hold a share of the scored MACs.

    Args:
        model: the dense network.
        batches: images, with or without labels; the first 64 images are looked at.
        share: above 0, at most 1.
        ghosting: ratio and cheap_kernel_size.
    """
    from ghostnet.measure import features

    ratio, cheap_kernel_size = ghosting
    images = first_images(batches, _IMAGES)
    scores = features.redundancy(model, images, ratio=ratio, cheap_kernel_size=cheap_kernel_size)
    chosen = scores.least_hurt(share)
    macs = {layer.name: layer.macs for layer in scores.layers}
    held = sum(macs[name] for name in chosen) / sum(macs.values())
    note(f"redundant: {len(chosen)} of {len(macs)} layers, {held:.0%} of their MACs: {', '.join(chosen)}")
    return chosen
