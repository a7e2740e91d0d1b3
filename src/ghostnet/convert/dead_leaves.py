"""Images that nobody took: discs and rectangles that cover one another, the "dead leaves" of natural image statistics.

Their edges, even areas and sizes from small to large resemble those of photographs, which noise of any colour does not
(Lee, Mumford and Huang, "Occlusion models for natural images", 2001). Left out: what a network knows of its images
(synthetic.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

_LEAVES = 40
_SMALLEST, _LARGEST = 0.06, 0.6  # radii, of the image's shorter side
_COLOURED = 0.25  # of a leaf's colour, the rest is grey
_SHADE = 0.5  # the most by which a leaf's colour changes from its middle to its edge
_PIXELS = 2**21  # of one piece


def dead_leaves(count: int, size: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Return `(count, C, H, W)` images of mean 0 and variance 1, over all of them.

    Args:
        count: images.
        size: `(C, H, W)`.
        generator: where they come from; on the CPU.
    """
    channels, height, width = size
    colours = torch.rand(_LEAVES + 1, count, channels, 1, 1, generator=generator)
    greys = torch.rand(_LEAVES + 1, count, 1, 1, 1, generator=generator)
    colours = _COLOURED * colours + (1 - _COLOURED) * greys
    shapes = torch.rand(6, _LEAVES, count, 1, 1, 1, generator=generator)
    pieces = zip(
        colours.split(max(1, _PIXELS // (height * width)), dim=1),
        shapes.split(max(1, _PIXELS // (height * width)), dim=2),
        strict=True,
    )
    images = torch.cat([_drawn(*piece, height, width) for piece in pieces])
    return (images - images.mean()) / images.std().clamp_min(1e-6)


def _drawn(colours: Tensor, shapes: Tensor, height: int, width: int) -> Tensor:
    """Draw leaves over one another: `(leaves + 1, n, C, 1, 1)` colours and `(6, leaves, n, 1, 1, 1)` numbers."""
    row, column = torch.arange(height)[:, None].float(), torch.arange(width)[None].float()
    images = colours[0].expand(-1, -1, height, width).clone()
    for colour, (size, top, left, turn, shape, shade) in zip(colours[1:], shapes.unbind(1), strict=True):
        # radii r with a density of 1 / r^2: as many at each scale, whatever the scale of the picture
        radius = min(height, width) / (1 / _SMALLEST - (1 / _SMALLEST - 1 / _LARGEST) * size)
        down, right = row - top * height, column - left * width
        angle, flat = 2 * torch.pi * turn, 0.4 + 0.6 * (7 * turn % 1)
        along = right * angle.cos() + down * angle.sin()
        across = (down * angle.cos() - right * angle.sin()) / flat
        reach = torch.where(shape < 0.5, torch.hypot(along, across), torch.maximum(along.abs(), across.abs()))
        cover = (radius - reach + 0.5).clamp(0, 1)  # half a pixel of soft edge
        images += cover * (colour + _SHADE * (shade - 0.5) * along / radius - images)
    return images
