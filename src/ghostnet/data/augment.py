"""Augmentation on whole batches of tensors: random crop, mirror, cutout. Each image draws its own parameters.

Works on uint8 or float `(N, C, H, W)` on any device; the generator, which is the CPU's, decides everything, so a batch
can be made again, anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ghostnet.errors import InputError, unknown_name

_BORDERS = {"reflect": "reflect", "zeros": "constant"}


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for each training image.

    Attributes:
        crop_padding: pixels of border before a random crop back to size; 0 turns it off.
        crop_border: what the border holds, "reflect" or "zeros" (black pixels, as in the ResNet paper).
        mirror: flip left-right with probability 1/2.
        cutout: side in pixels of a square set to zero (the mean) at a random place; 0 turns it off.
    """

    crop_padding: int = 4
    mirror: bool = True
    cutout: int = 0
    crop_border: str = "reflect"

    def __post_init__(self) -> None:
        if self.crop_border not in _BORDERS:
            raise unknown_name("crop border", self.crop_border, _BORDERS)
        for name in ("crop_padding", "cutout"):
            if getattr(self, name) < 0:
                raise InputError(f"`{name}` (={getattr(self, name)}) must be >= 0; 0 turns it off")


def check_reflected_border(padding: int, side: int) -> None:
    """Raise unless images of that side have enough pixels for a border that reflects them.

    Raises:
        InputError: the border is as wide as the image, or wider.
    """
    if padding >= side:
        raise InputError(
            f"`crop_padding` (={padding}) must be below the {side} pixels of an image's side, which it reflects"
        )


def random_crop(images: Tensor, padding: int, generator: torch.Generator, border: str = "reflect") -> Tensor:
    """Pad by reflection or zeros and crop each image at its own offset: `(N, C, H, W) -> (N, C, H, W)`."""
    count, _, height, width = images.shape
    padded = F.pad(images.float(), (padding,) * 4, mode=_BORDERS[border]).to(images.dtype)
    rows = torch.randint(0, 2 * padding + 1, (count, 1), generator=generator) + torch.arange(height)
    columns = torch.randint(0, 2 * padding + 1, (count, 1), generator=generator) + torch.arange(width)
    rows, columns = rows.to(images.device), columns.to(images.device)
    index = torch.arange(count, device=images.device)[:, None, None]
    by_pixel = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    return by_pixel.permute(0, 3, 1, 2)


def random_mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip each image left-right with probability 1/2: `(N, C, H, W) -> (N, C, H, W)`."""
    flip = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(flip[:, None, None, None], images.flip(3), images)


def cutout(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Set one `side` x `side` square of each image to zero, clipped at the border: shapes kept."""
    count, _, height, width = images.shape
    top = torch.randint(0, height, (count, 1), generator=generator) - side // 2
    left = torch.randint(0, width, (count, 1), generator=generator) - side // 2
    rows = torch.arange(height)
    columns = torch.arange(width)
    inside_rows = (rows >= top) & (rows < top + side)
    inside_columns = (columns >= left) & (columns < left + side)
    hole = (inside_rows[:, :, None] & inside_columns[:, None, :]).to(images.device)
    return images.masked_fill(hole[:, None], 0)
