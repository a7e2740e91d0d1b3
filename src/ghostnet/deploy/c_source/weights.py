"""The weights of a network in C: one array, in the order in which kernels read them."""

from __future__ import annotations

import itertools

import numpy as np

from ghostnet.deploy.c_source.layers import LANES
from ghostnet.errors import InputError

_LINE = 16  # floats of a line of the cache


class Weights:
    """All weights of a network in one array, each beginning at a line of the cache.

    Args:
        half: whether matrices are in float16, two values in the place of a float.
    """

    def __init__(self, *, half: bool = False) -> None:
        self._half = half
        self._parts: list[np.ndarray] = []
        self.floats = 0

    def put(self, values: np.ndarray) -> int:
        """Return the first float of what is kept now."""
        return self._keep(filled(np.ascontiguousarray(values, np.float32).ravel(), _LINE))

    def put_matrix(self, values: np.ndarray) -> int:
        """Do the same with the weights of a product, which are float16 if all are."""
        if not self._half:
            return self.put(values)
        with np.errstate(over="ignore"):
            halves = filled(values.ravel(), 2 * _LINE).astype(np.float16)
        if not np.isfinite(halves).all():
            raise InputError("a weight is too large for fp16; export in fp32")
        return self._keep(halves.view(np.float32))

    def put_bytes(self, values: np.ndarray) -> int:
        """Do the same with bytes, four in the place of a float."""
        flat = values.astype(np.int8).ravel()
        return self._keep(np.pad(flat, (0, -flat.size % (4 * _LINE))).view(np.float32))

    def _keep(self, flat: np.ndarray) -> int:
        begin = self.floats
        self._parts.append(flat)
        self.floats += flat.size
        return begin

    def array(self) -> np.ndarray:
        """Return everything, `(floats,)`."""
        return np.concatenate(self._parts) if self._parts else np.zeros(0, np.float32)


def panels_of(matrix: np.ndarray) -> np.ndarray:
    """Return a matrix as `product` reads it: panels of one to three vectors of outputs, each by inputs.

    Args:
        matrix: `(inputs, outputs)`, or `(quads, outputs, 4)` where four bytes stand for an input.
    """
    behind = [(0, 0), (0, -matrix.shape[1] % LANES), *[(0, 0)] * (matrix.ndim - 2)]
    whole = np.pad(matrix, behind)
    ends = np.cumsum([0, *panel_widths(whole.shape[1])]) * LANES
    return np.concatenate([whole[:, begin:end].ravel() for begin, end in itertools.pairwise(ends)])


def panel_widths(outputs: int) -> list[int]:
    """Return how many vectors of outputs each panel has; `panel_vectors` in kernels/product.c is the same rule."""
    widths, left = [], -(-outputs // LANES)
    while left:
        widths.append(1 if left == 1 else 3 if left % 2 else 2)
        left -= widths[-1]
    return widths


def filled(values: np.ndarray, multiple: int) -> np.ndarray:
    """Return values with zeros behind them, to a multiple along the first axis."""
    behind = [(0, -len(values) % multiple), *[(0, 0)] * (values.ndim - 1)]
    return np.pad(values.astype(np.float32), behind)
