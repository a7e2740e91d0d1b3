"""Layers that pick, place or blend the values of pixels, as calls of kernels (`kernels/moving.c`, `blending.c`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ghostnet.deploy.c_source.layers import (
    Channels,
    Concatenation,
    Interleaving,
    Interpolation,
    Layer,
    Planes,
    Sampling,
    Softmax,
)
from ghostnet.deploy.c_source.places import At

if TYPE_CHECKING:
    from ghostnet.deploy.c_source.steps import Lowering


def _of_pixels(lowering: Lowering, layer: Layer) -> dict[str, Any]:
    """Return what every kernel is told: where the maps lie, and how far it is from pixel to pixel."""
    assert not isinstance(layer, Concatenation)
    return {
        "in_pixel": lowering.step_of(layer.source),
        "out_pixel": lowering.step_of(layer.result),
        "in": At(layer.source),
        "out": At(layer.result),
    }


def _channels(lowering: Lowering, layer: Channels) -> None:
    channels, pixels = lowering.shape(layer.result)
    fields = {"channels": channels, "index": layer.index, **_of_pixels(lowering, layer)}
    lowering.add("gather", fields, pixels, layer.source, layer.result)


def _sampling(lowering: Lowering, layer: Sampling) -> None:
    channels, _, width = lowering.network.sizes[layer.source]
    fields = {
        "channels": channels,
        "width": width,
        "out_width": len(layer.columns),
        "rows": layer.rows,
        "columns": layer.columns,
    }
    lowering.add(
        "sampling", fields | _of_pixels(lowering, layer), len(layer.rows), layer.source, layer.result
    )


def _interpolation(lowering: Lowering, layer: Interpolation) -> None:
    channels, _, width = lowering.network.sizes[layer.source]
    height, out_width = layer.rows.shape[1], layer.columns.shape[1]
    fields = {
        "channels": channels,
        "width": width,
        "out_height": height,
        "out_width": out_width,
        "rows": layer.rows[:2].T.astype(int).ravel(),
        "columns": layer.columns[:2].T.astype(int).ravel(),
        "shares": lowering.weights.put(np.concatenate([layer.rows[2], layer.columns[2]])),
    }
    lowering.add("interpolation", fields | _of_pixels(lowering, layer), height, layer.source, layer.result)


def _interleaving(lowering: Lowering, layer: Interleaving) -> None:
    channels, height, out_width = lowering.network.sizes[layer.result]
    fields = {
        "channels": channels,
        "block_height": layer.block[0],
        "block_width": layer.block[1],
        "width": lowering.network.sizes[layer.source][2],
        "out_width": out_width,
    }
    lowering.add("interleaving", fields | _of_pixels(lowering, layer), height, layer.source, layer.result)


def _softmax(lowering: Lowering, layer: Softmax) -> None:
    channels, pixels = lowering.shape(layer.result)
    fields = {"channels": channels, "is_log": int(layer.is_log), **_of_pixels(lowering, layer)}
    lowering.add("softmax", fields, pixels, layer.source, layer.result)


def _planes(lowering: Lowering, layer: Planes) -> None:
    channels, pixels = lowering.shape(layer.source)
    fields = {
        "channels": channels,
        "pixels": pixels,
        "in_pixel": lowering.step_of(layer.source),
        "to_outputs": 0,
        "in": At(layer.source),
        "out": At(layer.result),
    }
    lowering.add("planes", fields, channels, layer.source, layer.result)


def to_outputs(lowering: Lowering, name: str, begin: int) -> None:
    """Add the step that writes a map where the caller wants the outputs, from float `begin` on."""
    channels, pixels = lowering.shape(name)
    fields = {"channels": channels, "pixels": pixels, "in_pixel": lowering.step_of(name), "to_outputs": 1}
    lowering.add("planes", {**fields, "in": At(name), "out": begin}, channels, name)


MOVING: dict[type, Any] = {
    Channels: _channels,
    Sampling: _sampling,
    Interpolation: _interpolation,
    Interleaving: _interleaving,
    Softmax: _softmax,
    Planes: _planes,
}
