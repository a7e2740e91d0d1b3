"""Feature maps of one layer as a picture: each channel a tile, scaled to its own range."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor, nn

from ghostnet.files import atomic_write
from ghostnet.measure.features import feature_maps

_MOST_MAPS = 64


def layer_output(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Return what a layer puts out: `(N, C, H, W)` images in, `(N, C', H', W')` maps out.

    Args:
        model: any network; it is run in evaluation mode and its mode restored.
        layer: the module's path.
        images: `(N, C, H, W)`.

    Raises:
        InputError: the network has no such layer; near matches are listed.
    """
    return feature_maps(model, layer, images)


def draw_feature_maps(model: nn.Module, layer: str, image: Tensor, path: str | Path, *, title: str) -> None:
    """Write the first 64 feature maps that an image gives in a layer as a PNG.

    Args:
        model: any network.
        layer: the module's path.
        image: `(1, C, H, W)`, normalised as the network wants it.
        path: the picture.
        title: text above it.
    """
    from matplotlib.figure import Figure

    maps = layer_output(model, layer, image)[0, :_MOST_MAPS].float()
    columns = math.ceil(math.sqrt(len(maps)))
    rows = math.ceil(len(maps) / columns)
    figure = Figure(figsize=(columns * 0.7, rows * 0.7 + 0.4))
    axes = figure.subplots(rows, columns, squeeze=False)
    for index, axis in enumerate(axes.flat):
        axis.axis("off")
        if index < len(maps):
            axis.imshow(maps[index].numpy(), cmap="viridis")
    figure.suptitle(title, fontsize=9)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight")
