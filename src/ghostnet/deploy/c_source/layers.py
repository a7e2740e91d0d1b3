"""What a network in C is made of: layers that read and write named maps, one image at a time.

A map is `(C, H, W)`; `(C,)` counts as `(C, 1, 1)`. In memory the channels of a pixel lie side by side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

LANES = 8  # floats of a vector in kernels/base.c
Size = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Activation:
    """What is done to each value of a layer's result; the names and meanings are those of `kernels/values.c`."""

    kind: str = "NONE"
    low: float = 0.0
    high: float = 0.0


IDENTITY = Activation()


@dataclasses.dataclass
class Convolution:
    """`(C, H, W) -> (O, H', W')`, cross-correlation as in PyTorch.

    Attributes:
        weight: `(O, C / groups, kernel height, kernel width)`.
        bias: `(O,)`.
        padding: top, left, bottom, right.
        add: a map that is added before the activation.
    """

    source: str
    result: str
    weight: np.ndarray
    bias: np.ndarray
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    add: str | None = None
    activation: Activation = IDENTITY


@dataclasses.dataclass
class Pool:
    """Maximum or average over windows."""

    source: str
    result: str
    is_max: bool
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    counts_outside: bool = False
    activation: Activation = IDENTITY


@dataclasses.dataclass
class Elementwise:
    """`activation(a kind b)`; an operand of one pixel or one channel is spread over the others.

    Attributes:
        kind: as in `kernels/values.c`; "FIRST" is the first operand alone.
        second: a map, a constant `(C,)` or `(1,)`, or None.
        index: which channel of the first operand each channel takes; None: as they lie.
    """

    kind: str
    source: str
    second: str | np.ndarray | None
    result: str
    activation: Activation = IDENTITY
    index: np.ndarray | None = None


@dataclasses.dataclass
class Concatenation:
    """Maps of one size behind one another along the channels."""

    sources: list[str]
    result: str


@dataclasses.dataclass
class Channels:
    """Some channels of a map, in some order; channel -1 is zeros."""

    source: str
    result: str
    index: np.ndarray


@dataclasses.dataclass
class Sampling:
    """Some rows and columns of a map, in some order, each as often as it is named."""

    source: str
    result: str
    rows: np.ndarray
    columns: np.ndarray


@dataclasses.dataclass
class Interpolation:
    """Rows and columns that lie between those of a map.

    Attributes:
        rows: of each row, the one before it, the one behind it, and the share of the latter, `(3, H')`.
        columns: the same of each column.
    """

    source: str
    result: str
    rows: np.ndarray
    columns: np.ndarray


@dataclasses.dataclass
class Interleaving:
    """`(h * w * C, H, W) -> (C, H', W')`: each pixel becomes a block of pixels, rows of it one behind the other.

    Attributes:
        block: h and w. H' and W' may be less than the blocks give.
    """

    source: str
    result: str
    block: tuple[int, int]


@dataclasses.dataclass
class Softmax:
    """Softmax over the channels of each pixel, or its logarithm."""

    source: str
    result: str
    is_log: bool


@dataclasses.dataclass
class Border:
    """A map inside a larger one of one value. Padding: top, left, bottom, right."""

    source: str
    result: str
    padding: tuple[int, int, int, int]
    value: float = 0.0


@dataclasses.dataclass
class Planes:
    """A map as `(C * H * W,)` in PyTorch's order."""

    source: str
    result: str


Layer = (
    Convolution
    | Pool
    | Elementwise
    | Concatenation
    | Channels
    | Sampling
    | Interpolation
    | Interleaving
    | Softmax
    | Border
    | Planes
)


@dataclasses.dataclass
class Network:
    """Layers in an order in which they can run.

    Attributes:
        images: name of the network's input.
        scores: names of the maps that it answers with, in order.
        outputs: the shape of each output without the batch, by the output's name.
        sizes: of all maps by name.
    """

    layers: list[Layer]
    images: str
    scores: list[str]
    outputs: dict[str, tuple[int, ...]]
    sizes: dict[str, Size]

    def readers(self) -> dict[str, list[Layer]]:
        """Return the layers that read each map, among them one for each time that the network answers with it."""
        found: dict[str, list[Layer]] = {}
        for name in self.scores:
            found.setdefault(name, []).append(Planes(name, ""))
        for layer in self.layers:
            for name in sources(layer):
                found.setdefault(name, []).append(layer)
        return found


def sources(layer: Layer) -> Iterable[str]:
    """Return the names of the maps that a layer reads, once for each time."""
    if isinstance(layer, Concatenation):
        return list(layer.sources)
    names = [layer.source]
    if isinstance(layer, Convolution) and layer.add is not None:
        names.append(layer.add)
    if isinstance(layer, Elementwise) and isinstance(layer.second, str):
        names.append(layer.second)
    return names
