"""ONNX operators that change the height and width of maps without a window of their own: resizing, borders, and the
convolutions that go from pixels to blocks of pixels."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ghostnet.deploy.c_source.layers import (
    Border,
    Channels,
    Convolution,
    Interleaving,
    Interpolation,
    Sampling,
)
from ghostnet.deploy.c_source.onnx_graph import NoSuchLayerError, Reader, reads

# borders of a map's own pixels, as numpy calls them
_COPIED: dict[bytes, Literal["reflect", "edge", "wrap"]] = {
    b"reflect": "reflect",
    b"edge": "edge",
    b"wrap": "wrap",
}
_COORDINATES = (b"half_pixel", b"pytorch_half_pixel", b"align_corners", b"asymmetric")


def pair(values: Any) -> tuple[int, int]:
    """Return two sizes as numbers."""
    return int(values[0]), int(values[1])


def padding(reader: Reader, node: Any) -> tuple[int, int, int, int]:
    """Return what a node puts around its input: top, left, bottom, right."""
    given = reader.attributes(node)
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise NoSuchLayerError(node, "auto_pad")
    top, left, bottom, right = given.get("pads", (0, 0, 0, 0))
    return top, left, bottom, right


@reads("Resize")
def _resize(reader: Reader, node: Any) -> None:
    given = {
        "mode": b"nearest",
        "coordinate_transformation_mode": b"half_pixel",
        "nearest_mode": b"round_prefer_floor",
        **reader.attributes(node),
    }
    how, where = given["mode"], given["coordinate_transformation_mode"]
    source, result = reader.source(node), reader.result(node)
    before, after = reader.sizes[source], reader.sizes[result]
    if how == b"nearest" and (where, given["nearest_mode"]) == (b"asymmetric", b"floor"):
        rows, columns = (np.arange(after[side]) * before[side] // after[side] for side in (1, 2))
        reader.layers.append(Sampling(source, result, rows, columns))
        return
    if how != b"linear" or where not in _COORDINATES or given.get("antialias"):
        raise NoSuchLayerError(node, "neither bilinear nor to the nearest pixel before")
    scales = reader.constant(node, 2)
    rows, columns = (
        _between(
            where, before[side], after[side], None if scales is None or not scales.size else scales[side + 1]
        )
        for side in (1, 2)
    )
    if before == after and not (rows[2].any() or columns[2].any()):
        reader.alias(node)
        return
    reader.layers.append(Interpolation(source, result, rows, columns))


def _between(where: bytes, before: int, after: int, scale: float | None) -> np.ndarray:
    """Return for each of `after` places the one before it, the one behind it, and the latter's share, `(3, after)`.

    In float32, as PyTorch computes them.
    """
    places = np.arange(after, dtype=np.float32)
    step = np.float32(before / after if scale is None else 1 / scale)
    if where == b"align_corners":
        found = places * np.float32((before - 1) / (after - 1) if after > 1 else 0)
    elif where == b"asymmetric":
        found = places * step
    else:
        found = (places + np.float32(0.5)) * step - np.float32(0.5)
        if where == b"pytorch_half_pixel" and after == 1:
            found = np.zeros(1, np.float32)
    found = np.clip(found, 0, before - 1)
    low = np.floor(found)
    return np.stack([low, np.minimum(low + 1, before - 1), found - low])


@reads("DepthToSpace")
def _depth_to_space(reader: Reader, node: Any) -> None:
    given = reader.attributes(node)
    source, result, size = reader.source(node), reader.result(node), given["blocksize"]
    if given.get("mode", b"DCR") == b"CRD":
        channels = reader.sizes[result][0]
        index = np.arange(channels * size * size).reshape(channels, -1).T.ravel()
        source = _in_order(reader, source, f"{result}.ordered", index)
    reader.layers.append(Interleaving(source, result, (size, size)))


def _in_order(reader: Reader, source: str, name: str, index: np.ndarray) -> str:
    reader.sizes[name] = reader.sizes[source]
    reader.layers.append(Channels(source, name, index))
    return name


@reads("ConvTranspose")
def _conv_transpose(reader: Reader, node: Any) -> None:
    """Read it as a convolution that computes a block of pixels from the pixels around one, and the blocks laid out.

    With strides s, output s q + r is the sum of w[r + p - s t] times input q + t over all t.
    """
    weight, bias, given = reader.constant(node, 1), reader.constant(node, 2), reader.attributes(node)
    if weight is None or weight.ndim != 4 or set(given.get("dilations", (1, 1))) != {1}:
        raise NoSuchLayerError(node, "dilated or not in two dimensions")
    source, result, groups = reader.source(node), reader.result(node), given.get("group", 1)
    top, left, _, _ = padding(reader, node)
    strides = pair(given.get("strides", (1, 1)))
    down, rows = _phases(weight.shape[2], strides[0], top, reader.sizes[source][1], reader.sizes[result][1])
    aside, columns = _phases(
        weight.shape[3], strides[1], left, reader.sizes[source][2], reader.sizes[result][2]
    )
    if rows[0] < 0 or columns[0] < 0:
        raise NoSuchLayerError(node, "whose padding is as large as its kernel")
    outputs = weight.shape[1]  # of a group
    blocks = np.einsum("gioyx,ryt,sxu->grsoitu", weight.reshape(groups, -1, *weight.shape[1:]), down, aside)
    biases = np.zeros(groups * outputs, np.float32) if bias is None else bias
    count, total = strides[0] * strides[1], groups * outputs
    spread = np.broadcast_to(biases.reshape(groups, 1, outputs), (groups, count, outputs)).ravel()
    name = result if count == 1 else f"{result}.blocks"
    reader.sizes[name] = (
        count * total,
        *(
            size + sum(ends) - taps.shape[2] + 1
            for size, ends, taps in zip(reader.sizes[source][1:], (rows, columns), (down, aside), strict=True)
        ),
    )
    whole = np.ascontiguousarray(blocks.reshape(count * total, -1, down.shape[2], aside.shape[2]), np.float32)
    sides = rows[0], columns[0], rows[1], columns[1]
    reader.layers.append(Convolution(source, name, whole, spread, (1, 1), sides, (1, 1), groups))
    if count > 1:
        if groups > 1:  # first the pixels of a block, then the groups
            index = np.arange(count * total).reshape(groups, count, outputs).transpose(1, 0, 2).ravel()
            name = _in_order(reader, name, f"{result}.ordered", index)
        reader.layers.append(Interleaving(name, result, strides))


def _phases(
    kernel: int, stride: int, pad: int, before: int, after: int
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return which tap of a transposed kernel is which of a convolution for each pixel of a block, and the padding.

    Returns:
        Zeros and ones `(stride, kernel, taps of the convolution)`, and what to put before and behind.
    """
    first, last = -((kernel - 1 - pad) // stride), (stride - 1 + pad) // stride
    taps = np.zeros((stride, kernel, last - first + 1), np.float32)
    for place in range(stride):
        for shift in range(first, last + 1):
            tap = place + pad - stride * shift
            if 0 <= tap < kernel:
                taps[place, tap, shift - first] = 1
    blocks = -(-after // stride)
    return taps, (-first, max(0, blocks + last - before))


@reads("Pad")
def _pad(reader: Reader, node: Any) -> None:
    pads, value = reader.constant(node, 1), reader.constant(node, 2)
    axes = reader.constant(node, 3)
    mode = reader.attributes(node).get("mode", b"constant")
    if mode not in (b"constant", *_COPIED) or pads is None:
        raise NoSuchLayerError(node, "of an unknown mode")
    sides = np.zeros((2, 4), int)  # before and behind each axis
    sides[:, slice(None) if axes is None else axes % 4] = pads.reshape(2, -1)
    fill = 0.0 if value is None else value.item()
    if sides[:, 0].any() or (sides < 0).any() or (sides[:, 1].any() and (fill or sides[:, 2:].any())):
        raise NoSuchLayerError(node, "of these sides")
    source, result = reader.source(node), reader.result(node)
    if mode in _COPIED:
        if sides[:, 1].any():
            raise NoSuchLayerError(node, "of these sides")
        rows, columns = (
            np.pad(
                np.arange(reader.sizes[source][axis - 1]), tuple(sides[:, axis].tolist()), mode=_COPIED[mode]
            )
            for axis in (2, 3)
        )
        reader.layers.append(Sampling(source, result, rows, columns))
    elif sides[:, 1].any():
        index = np.pad(np.arange(reader.sizes[source][0]), tuple(sides[:, 1]), constant_values=-1)
        reader.layers.append(Channels(source, result, index))
    else:
        top, left, bottom, right = (int(sides[side, axis]) for side in (0, 1) for axis in (2, 3))
        reader.layers.append(Border(source, result, (top, left, bottom, right), fill))
