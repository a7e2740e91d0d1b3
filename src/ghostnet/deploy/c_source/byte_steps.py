"""Convolutions as products of bytes: which ones, and their weights and steps (`kernels/products_of_bytes.c`)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostnet.deploy.c_source.layers import LANES, Convolution, Size
from ghostnet.deploy.c_source.places import At
from ghostnet.deploy.c_source.weights import filled, panels_of

if TYPE_CHECKING:
    from ghostnet.deploy.c_source.steps import Lowering

_QUAD = 4  # bytes that one instruction multiplies and adds
_LONGEST = 65_536  # products of 255 and 127 whose sum has 32 bits
_LEAST_LINEAR = 4096  # weights of one pixel's product from which fewer bytes of them count
# Cycles, measured: what a product saves, half in larger windows, which Winograd's algorithm computes with fewer; what
# a value costs that becomes a byte, and a pixel that has a scale of its own
_SAVED, _SAVED_IN_WINDOW, _VALUE, _PIXEL = 0.057, 0.028, 0.5, 30.0


def is_worth_bytes(layer: Convolution, sizes: dict[str, Size]) -> bool:
    """Whether a convolution is predicted to be quicker in bytes, on a processor that multiplies four at once."""
    outputs, inputs, *kernel = layer.weight.shape
    length = inputs * math.prod(kernel)
    if layer.groups > 1 or length > _LONGEST:
        return False
    if sizes[layer.result][1:] == (1, 1):
        return length * outputs >= _LEAST_LINEAR
    values = -(-inputs // LANES) * LANES  # of a pixel, in whole vectors
    if math.prod(kernel) == 1:
        return _SAVED * length * outputs > _PIXEL + _VALUE * values
    return _SAVED_IN_WINDOW * length * outputs > _VALUE * values * math.prod(layer.stride)


def byte_linear(lowering: Lowering, layer: Convolution, weight: np.ndarray) -> None:
    """Add the steps of a product with one pixel; weight: `(outputs, inputs)`."""
    outputs, inputs = weight.shape
    source, quads = _bytes_of_pixels(lowering, layer, (1, 1)), -(-inputs // _QUAD)
    width = 2 * LANES
    whole, scales = rounded(filled(weight, width))
    panels = _in_quads(whole).reshape(-1, width, quads, _QUAD).transpose(0, 2, 1, 3)
    fields = {
        "quads": quads,
        "outputs": outputs,
        "filled": len(whole),
        "in": At(source),
        "scales": At(f"{source}.scales"),
        "out": At(layer.result),
        "weights": lowering.weights.put_bytes(panels),
        "bias": lowering.weights.put(_terms(filled(layer.bias, width), whole, scales)),
        "activation": layer.activation,
    }
    maps = [source, f"{source}.scales", layer.result]
    lowering.add("byte_linear", fields, len(panels), *maps)


def byte_product(lowering: Lowering, layer: Convolution) -> None:
    """Add the steps of any other convolution without groups."""
    outputs, inputs, height, width = layer.weight.shape
    _, out_height, out_width = lowering.network.sizes[layer.result]
    quads = -(-inputs // _QUAD)
    if (height, width) == (1, 1) and not any(layer.padding):
        source = _bytes_of_pixels(lowering, layer, layer.stride)
        row, pixel, scale_pixel = out_width * quads, quads, 2
    else:
        source = _byte_map(lowering, layer)
        across = lowering.network.sizes[layer.source][2] + layer.padding[1] + layer.padding[3]
        row, pixel, scale_pixel = layer.stride[0] * across * quads, layer.stride[1] * quads, 0
    down, aside = layer.dilation[0] * (row // layer.stride[0]), layer.dilation[1] * quads
    if layer.dilation[1] == 1 or width == 1:  # the taps of a row lie behind one another
        segment, length = np.arange(height) * down, width * quads
    else:
        segment = (np.arange(height)[:, None] * down + np.arange(width) * aside).ravel()
        length = quads
    whole, scales = rounded(filled(layer.weight.reshape(outputs, -1), LANES))
    taps = whole.reshape(len(whole), inputs, height * width).transpose(0, 2, 1)
    by_quads = _in_quads(taps).reshape(len(whole), -1, _QUAD)  # (outputs, quads of all taps, 4)
    fields = {
        "width": out_width,
        "outputs": outputs,
        "segments": len(segment),
        "length": length,
        "in_row": row,
        "in_pixel": pixel,
        "scale_pixel": scale_pixel,
        "out_pixel": lowering.step_of(layer.result),
        "add_pixel": lowering.step_of(layer.add) if layer.add else 0,
        "filled": len(whole),
        "in": At(source),
        "scales": At(f"{source}.scales"),
        "out": At(layer.result),
        "add": At(layer.add) if layer.add else 0,
        "weights": lowering.weights.put_bytes(panels_of(by_quads.transpose(1, 0, 2))),
        "bias": lowering.weights.put(_terms(filled(layer.bias, LANES), whole, scales)),
        "segment": segment,
        "activation": layer.activation,
    }
    maps = [source, f"{source}.scales", layer.result, *([layer.add] if layer.add else [])]
    lowering.add("byte_product", fields, out_height * out_width, *maps)


def rounded(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes of `(outputs, inputs)`, -127 to 127, and the weight of a one for each output."""
    largest = np.abs(weight).max(axis=1)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(weight / scales[:, None]).astype(np.int8), scales


def _in_quads(whole: np.ndarray) -> np.ndarray:
    """Return bytes with zeros behind the last axis, to whole quads."""
    behind = [(0, 0)] * (whole.ndim - 1) + [(0, -whole.shape[-1] % _QUAD)]
    return np.pad(whole, behind)


def _terms(bias: np.ndarray, whole: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return biases, scales, and what the sums of weights count: one behind the other."""
    return np.concatenate([bias, scales, scales * whole.sum(axis=1, dtype=np.int64)])


def _bytes_of_pixels(lowering: Lowering, layer: Convolution, stride: tuple[int, int]) -> str:
    channels, _, width = lowering.network.sizes[layer.source]
    _, out_height, out_width = lowering.network.sizes[layer.result]
    pixels, quads = out_height * out_width, -(-channels // _QUAD)
    name = _new_bytes(lowering, layer, pixels * quads, 2 * pixels)
    step = lowering.step_of(layer.source)
    fields = {
        "channels": channels,
        "quads": quads,
        "width": out_width,
        "in_row": stride[0] * width * step,
        "in_pixel": stride[1] * step,
        "in": At(layer.source),
        "out": At(name),
        "scales": At(f"{name}.scales"),
    }
    lowering.add("bytes", fields, pixels, layer.source, name, f"{name}.scales")
    return name


def _byte_map(lowering: Lowering, layer: Convolution) -> str:
    channels, height, width = lowering.network.sizes[layer.source]
    top, left, bottom, right = layer.padding
    rows, columns, quads = height + top + bottom, width + left + right, -(-channels // _QUAD)
    name = _new_bytes(lowering, layer, rows * columns * quads, 2)
    ranges = lowering.new_map(f"{name}.ranges", (2 * height, 1, 1))
    fields: dict[str, Any] = {
        "channels": channels,
        "quads": quads,
        "height": height,
        "width": width,
        "top": top,
        "left": left,
        "out_width": columns,
        "in_pixel": lowering.step_of(layer.source),
        "in": At(layer.source),
        "out": At(name),
        "scales": At(f"{name}.scales"),
        "ranges": At(ranges),
    }
    lowering.add("byte_map", fields, height, layer.source, ranges, kernel="range_of_rows")
    lowering.add("byte_map", fields, rows, layer.source, ranges, name, f"{name}.scales")
    return name


def _new_bytes(lowering: Lowering, layer: Convolution, quads: int, scales: int) -> str:
    name = lowering.new_map(f"{layer.result}.bytes", (quads, 1, 1))
    lowering.new_map(f"{name}.scales", (scales, 1, 1))
    return name
