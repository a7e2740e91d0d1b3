"""Gates in an ncnn file as what ncnn has for maps of one pixel: global pooling and inner products.

pnnx writes the spatial mean of squeeze-excite as a Reduction and its layers as convolutions of a 1 x 1 map. ncnn lays
the maps out anew for the first and is slow in the second; Pooling gives a vector, on which an inner product is the same
function with the same weights in the same order. Acts on the text of the finished .param file.
"""

from __future__ import annotations

import dataclasses

_MEAN_OF_PIXELS = {"0": "3", "1": "0", "-23303": "2,1,2", "4": "1"}  # mean over axes 1 and 2, which stay
_GLOBAL_AVERAGE = ["0=1", "4=1"]
_EACH_VALUE_ALONE = ("Split", "ReLU", "HardSigmoid", "Sigmoid", "Clip", "HardSwish", "Swish", "TanH")


@dataclasses.dataclass
class _Layer:
    """A line of a .param file."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    settings: list[str]

    def setting(self, key: str, default: str = "0") -> str:
        """Return the value of one setting."""
        return dict(entry.split("=", 1) for entry in self.settings).get(key, default)

    def text(self) -> str:
        """Return the line."""
        counts = f"{len(self.inputs)} {len(self.outputs)}"
        return " ".join(
            [f"{self.kind:<24}", f"{self.name:<24}", counts, *self.inputs, *self.outputs, *self.settings]
        )


def with_inner_products(text: str) -> str:
    """Return a .param file's text in which gates from spatial means are computed on vectors.

    A mean is left as it is where something reads its chain that a vector would not serve: anything but a
    1 x 1 convolution, an activation, or the product with the maps.

    Args:
        text: the file's; the .bin file stays as it is.
    """
    lines = text.splitlines()
    layers = [_parsed(line) for line in lines[2:] if line.strip()]
    changed: set[int] = set()
    for layer in layers:
        if layer.kind == "Reduction" and all(
            layer.setting(key) == value for key, value in _MEAN_OF_PIXELS.items()
        ):
            chain = _chain(layers, layer)
            if chain is not None:
                changed.update(id(found) for found in chain)
                layer.kind, layer.settings = "Pooling", list(_GLOBAL_AVERAGE)
    for layer in layers:
        if id(layer) in changed and layer.kind == "Convolution":
            layer.kind, layer.settings = "InnerProduct", _inner_product(layer)
    return "\n".join([*lines[:2], *(layer.text() for layer in layers)]) + "\n"


def _parsed(line: str) -> _Layer:
    kind, name, inputs, outputs, *rest = line.split()
    middle = int(inputs) + int(outputs)
    return _Layer(kind, name, rest[: int(inputs)], rest[int(inputs) : middle], rest[middle:])


def _chain(layers: list[_Layer], mean: _Layer) -> list[_Layer] | None:
    """Return the layers between a mean and the products that it ends in; None where something else reads it."""
    vectors, products = set(mean.outputs), 0
    chain: list[_Layer] = []
    for layer in layers:
        read = [name for name in layer.inputs if name in vectors]
        if not read:
            continue
        if (
            layer.kind == "BinaryOp"
            and len(layer.inputs) == 2
            and len(read) == 1
            and layer.setting("0") == "2"
        ):
            products += 1
        elif layer.kind in _EACH_VALUE_ALONE or _is_pointwise(layer):
            chain.append(layer)
            vectors.update(layer.outputs)
        else:
            return None
    return chain if products else None


def _is_pointwise(layer: _Layer) -> bool:
    """Tell whether a layer is a 1 x 1 convolution without padding; heights (11, 13, …) default to widths."""
    plain = (
        layer.kind == "Convolution" and layer.setting("1") == layer.setting("11", layer.setting("1")) == "1"
    )
    padding = layer.setting("4")
    sides = [layer.setting(key, padding) for key in ("14", "15", "16")]
    int8 = layer.setting("8")
    return plain and padding == "0" and all(side == "0" for side in sides) and int8 == "0"


def _inner_product(layer: _Layer) -> list[str]:
    settings = [f"0={layer.setting('0')}", f"1={layer.setting('5')}", f"2={layer.setting('6')}"]
    return settings + [entry for entry in layer.settings if entry.split("=", 1)[0] in ("9", "-23310")]
