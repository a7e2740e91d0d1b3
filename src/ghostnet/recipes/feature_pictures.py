"""Feature maps as small PNG pictures: all maps of a layer, Fig. 1's pairs, Fig. 4's intrinsic and ghost maps.

Each map is a tile scaled to its own range. Drawn with Pillow; colours are viridis, which greys well.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ghostnet.files import atomic_write

FRAMES = {"red": (214, 39, 40), "green": (44, 160, 44), "blue": (31, 119, 180)}
_TILE, _GAP, _FRAME = 64, 6, 3
_LETTERS, _HEAD = 20, 29  # of the titles; a picture of 720 pixels is shown half as wide on a phone
_MOST = 64
_MAP_COLOURS = 96  # of the palette's 256; a picture of 64 maps stays near 200 KB


@dataclasses.dataclass(frozen=True)
class Group:
    """Some maps under a title.

    Args:
        title: above them.
        tiles: RGB arrays `(side, side, 3)`, uint8.
        frames: colour of each tile's frame, a key of `FRAMES`, or "" for none.
        columns: how many stand in a row.
    """

    title: str
    tiles: Sequence[np.ndarray]
    frames: Sequence[str]
    columns: int


def draw_maps(image: np.ndarray, maps: Tensor, path: str | Path, *, title: str) -> None:
    """Draw the input and the first 64 maps.

    Args:
        image: RGB `(H, W, 3)`, uint8.
        maps: `(C, H', W')`.
        path: of the picture.
        title: above the maps.
    """
    shown = [map_tile(one) for one in maps[:_MOST]]
    of = f", the first {len(shown)} of {len(maps)}" if len(maps) > len(shown) else f", {len(maps)} maps"
    _draw([[_input(image)], [Group(title + of, shown, [""] * len(shown), _columns(len(shown)))]], path)


def draw_pairs(
    image: np.ndarray, maps: Tensor, pairs: Sequence[tuple[int, int]], path: str | Path, *, title: str
) -> None:
    """Draw Fig. 1: the input, and among a layer's maps the three most alike pairs framed in red, green and blue.

    Args:
        image: RGB `(H, W, 3)`, uint8.
        maps: `(C, H', W')`.
        pairs: channel numbers of up to three pairs; no channel twice.
        path: of the picture.
        title: above the maps.
    """
    colour = {channel: name for name, pair in zip(FRAMES, pairs, strict=False) for channel in pair}
    others = [channel for channel in range(len(maps)) if channel not in colour]
    shown = sorted([*colour, *others[: max(0, _MOST - len(colour))]])
    tiles = [map_tile(maps[channel]) for channel in shown]
    left = [_input(image)]
    for name, (source, target) in zip(FRAMES, pairs, strict=False):
        both = [map_tile(maps[source]), map_tile(maps[target])]
        left.append(Group(f"{name}: {source}, {target}", both, [name, name], 2))
    of = f"{len(shown)} of {len(maps)} maps" if len(shown) < len(maps) else f"{len(maps)} maps"
    frames = [colour.get(channel, "") for channel in shown]
    _draw([left, [Group(f"{title}: {of}", tiles, frames, _columns(len(shown)))]], path)


def draw_ghosts(image: np.ndarray, maps: Tensor, intrinsic: Tensor, path: str | Path, *, title: str) -> None:
    """Draw Fig. 4: the input, the intrinsic maps framed red, the ghost maps framed green.

    Args:
        image: RGB `(H, W, 3)`, uint8.
        maps: `(C, H', W')` of a Ghost convolution.
        intrinsic: booleans `(C,)`, from `measure.features.intrinsic_maps`.
        path: of the picture.
        title: of the layer, in front of the groups' own.
    """
    columns = [[_input(image)]]
    for name, colour, chosen in (("intrinsic", "red", intrinsic), ("ghost", "green", ~intrinsic)):
        tiles = [map_tile(one) for one in maps[chosen][: _MOST // 2]]
        of = f"{len(tiles)} of {int(chosen.sum())}" if len(tiles) < int(chosen.sum()) else f"{len(tiles)}"
        heading = f"{title}: {of} {name} maps" if name == "intrinsic" else f"{of} {name} maps"
        columns.append([Group(heading, tiles, [colour] * len(tiles), _columns(len(tiles), tall=True))])
    _draw(columns, path)


def map_tile(one: Tensor) -> np.ndarray:
    """Return a map `(H, W)` as an RGB tile, scaled to its own range; a constant map is dark."""
    import matplotlib

    values = one.detach().float().cpu().numpy()
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    pixels = (matplotlib.colormaps["viridis"](scaled)[..., :3] * 255).round().astype(np.uint8)
    return _fitted(pixels, _TILE)


def _fitted(pixels: np.ndarray, side: int) -> np.ndarray:
    kind = Image.Resampling.NEAREST if max(pixels.shape[:2]) < side else Image.Resampling.BOX
    return np.asarray(Image.fromarray(pixels).resize((side, side), kind))


def _input(image: np.ndarray) -> Group:
    return Group("input", [_fitted(image, 2 * _TILE + _GAP)], [""], 1)


def _columns(count: int, *, tall: bool = False) -> int:
    return max(1, math.ceil(math.sqrt(count)) if not tall else math.ceil(math.sqrt(count / 1.5)))


def _draw(columns: Sequence[Sequence[Group]], path: str | Path) -> None:
    """Put columns of groups side by side and write the picture."""
    font = ImageFont.load_default(_LETTERS)
    places: list[tuple[Group, int, int]] = []
    left = bottom = _GAP
    for groups in columns:
        top, right = _GAP, left
        for group in groups:
            places.append((group, left, top))
            wide, tall = _extent(group)
            right = max(right, left + wide, left + math.ceil(font.getlength(group.title)) + _GAP)
            top += tall + _GAP
        left, bottom = right + 2 * _GAP, max(bottom, top)
    picture = Image.new("RGB", (left - _GAP, bottom), "white")
    brush = ImageDraw.Draw(picture)
    for group, left, top in places:
        _draw_group(picture, brush, group, (left, top), font)
    with atomic_write(path) as temporary:
        picture.quantize(palette=_palette(columns[0][0]), dither=Image.Dither.NONE).save(
            temporary, format="PNG", optimize=True
        )


def _extent(group: Group) -> tuple[int, int]:
    """Return width and height in pixels: tiles with a gap behind each, and the title's line."""
    side = len(group.tiles[0]) if group.tiles else _TILE
    rows = math.ceil(len(group.tiles) / group.columns)
    return group.columns * (side + _GAP), _HEAD + rows * (side + _GAP)


def _draw_group(
    picture: Image.Image, brush: ImageDraw.ImageDraw, group: Group, corner: tuple[int, int], font: Any
) -> None:
    left, top = corner
    brush.text((left, top), group.title, fill=(20, 20, 20), font=font)
    for number, (tile, frame) in enumerate(zip(group.tiles, group.frames, strict=True)):
        side = len(tile) + _GAP
        x, y = left + number % group.columns * side, top + _HEAD + number // group.columns * side
        picture.paste(Image.fromarray(tile), (x, y))
        if frame:
            box = (x - _FRAME, y - _FRAME, x + len(tile) + _FRAME - 1, y + len(tile) + _FRAME - 1)
            brush.rectangle(box, outline=FRAMES[frame], width=_FRAME)


def _palette(first: Group) -> Image.Image:
    """Return a palette of the maps' colours, the frames', greys for the text, and the first group's, a photograph."""
    import matplotlib

    maps = matplotlib.colormaps["viridis"](np.linspace(0, 1, _MAP_COLOURS))[:, :3] * 255
    greys = [(grey, grey, grey) for grey in (20, 130, 255)]
    fixed = [*maps.round().astype(int).tolist(), *FRAMES.values(), *greys]
    photo = Image.fromarray(first.tiles[0])
    own = photo.quantize(256 - len(fixed)).getpalette() or []
    flat = [int(value) for colour in fixed for value in colour] + own
    palette = Image.new("P", (1, 1))
    palette.putpalette((flat + flat[-3:] * 256)[:768])
    return palette
