"""When a 3x3 convolution is computed by Winograd's minimal filtering, and in which parts (`kernels/winograd.c`).

The weights stay as they are in a file: filters are transformed at each run, which costs little where one filter meets
many tiles, and memory is asked for a quarter of the bytes.
"""

from __future__ import annotations

import math

import numpy as np

from ghostnet.deploy.c_source.layers import LANES, Convolution, Size

TILE = 4  # results of a tile in each direction
POINTS = (TILE + 2) ** 2  # products of a tile for a pair of channels
APART = 16  # floats between the planes of points
SHARES = 8  # for so many threads the outputs of a layer are divided
# what a part's transformed inputs may take, lest they leave the caches; fewer tiles would not repay the filters
_BYTES, _MIN_TILES = 1 << 20, 64
_WORTH = 0.9  # predicted time over the plain product's
# cycles of a core with two multiply-adds of eight floats a cycle, fitted to times of layers alone
_INPUTS, _OUTPUTS, _FILTERS, _PRODUCT = 200, 150, 120, 20
_PLAIN = 4.5


def is_worth(layer: Convolution, sizes: dict[str, Size]) -> bool:
    """Whether a convolution can be computed so, and is predicted to be quicker."""
    form = (layer.weight.shape[2:], layer.stride, layer.groups)
    evenly = layer.dilation[0] == layer.dilation[1]
    return form == ((3, 3), (1, 1), 1) and evenly and predicted_ratio(layer, sizes) < _WORTH


def predicted_ratio(layer: Convolution, sizes: dict[str, Size]) -> float:
    """Return the time over that of the plain product."""
    inputs = layer.weight.shape[1]
    vectors_in, vectors_out = -(-inputs // LANES), -(-layer.weight.shape[0] // LANES)
    tiles = tile_count(sizes[layer.result], layer.dilation[0])
    pairs = inputs * vectors_out
    ends = tiles * (_INPUTS * vectors_in + _OUTPUTS * vectors_out)
    plain = _PLAIN * math.prod(sizes[layer.result][1:]) * pairs
    return (ends + (tiles * _PRODUCT + _FILTERS) * pairs) / plain


def grid(size: Size, apart: int) -> tuple[int, int]:
    """Return the tiles down and across of every `apart`-th row and column of a result."""
    return -(-size[1] // (apart * TILE)), -(-size[2] // (apart * TILE))


def tile_count(size: Size, apart: int) -> int:
    """Return the tiles of a result whose convolution reads every `apart`-th row and column."""
    return apart * apart * math.prod(grid(size, apart))


def ends_of_parts(tiles: int, inputs: int) -> list[int]:
    """Return where each part's tiles begin, and the number of all."""
    most = max(_MIN_TILES, _BYTES // (4 * POINTS * (-(-inputs // LANES) * LANES)))
    parts = -(-tiles // most)
    return [tiles * part // parts for part in range(parts + 1)]


def filters_of(weight: np.ndarray) -> np.ndarray:
    """Return `(O, C, 3, 3)` as a matrix `(C * 9, O)`."""
    return weight.transpose(1, 2, 3, 0).reshape(-1, len(weight))
