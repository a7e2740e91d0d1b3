"""The theoretical speed-up of Ghost convolutions (Eq. 4) beside the ratio that `profile` counts.

The closed form itself lives in `paper`, which this room may not import: the caller hands it in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from ghostnet.measure.profile import ROOT, profile

_GHOST_ATTRIBUTES = ("primary_conv", "intrinsic_channels", "ratio", "cheap_kernel_size", "out_channels")


@dataclasses.dataclass(frozen=True)
class TheoryRow:
    """One Ghost convolution: MACs of the dense convolution that it stands for over its own.

    Attributes:
        name: dotted path in the model.
        ratio: s of the paper.
        cheap_kernel_size: d of the paper.
        dense_macs: MACs of a dense convolution with the same shapes.
        ghost_macs: MACs that were counted, primary convolution and cheap operation.
        counted_speed_up: `dense_macs / ghost_macs`.
        theoretical_speed_up: what the caller's closed form gives, or None without one.
    """

    name: str
    ratio: int
    cheap_kernel_size: int
    dense_macs: int
    ghost_macs: int
    counted_speed_up: float
    theoretical_speed_up: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return dataclasses.asdict(self)


def is_ghost_convolution(module: nn.Module) -> bool:
    """Tell whether a module has the attributes of a Ghost convolution; no room is imported for it."""
    return all(hasattr(module, attribute) for attribute in _GHOST_ATTRIBUTES)


def theory_table(
    model: nn.Module,
    input_size: Sequence[int] = (3, 224, 224),
    *,
    closed_form: Callable[[nn.Module], float] | None = None,
) -> list[TheoryRow]:
    """Set theory beside the counted speed-up for every Ghost convolution of a model.

    Args:
        model: any module; only Ghost convolutions that run give a row.
        input_size: shape of one input without the batch.
        closed_form: called with the Ghost convolution, returns its theoretical speed-up r_s (Eq. 4).

    Raises:
        InputError: as `profile` does.

    Example:
        >>> theory_table(nn.Conv2d(3, 8, 3), (3, 8, 8))
        []
    """
    layers = profile(model, input_size).layers
    rows = []
    for path, module in model.named_modules():
        if not is_ghost_convolution(module):
            continue
        inside = {layer.name: layer.macs for layer in layers if _belongs(layer.name, path)}
        ghost_macs = sum(inside.values())
        primary_macs = inside.get(f"{path}.primary_conv" if path else "primary_conv", 0)
        if not primary_macs:
            continue
        dense_macs = primary_macs * _number(module, "out_channels") // _number(module, "intrinsic_channels")
        rows.append(
            TheoryRow(
                name=path or ROOT,
                ratio=_number(module, "ratio"),
                cheap_kernel_size=_number(module, "cheap_kernel_size"),
                dense_macs=dense_macs,
                ghost_macs=ghost_macs,
                counted_speed_up=dense_macs / ghost_macs,
                theoretical_speed_up=None if closed_form is None else closed_form(module),
            )
        )
    return rows


def _belongs(layer_name: str, path: str) -> bool:
    return not path or layer_name == path or layer_name.startswith(path + ".")


def _number(module: nn.Module, attribute: str) -> int:
    value: Any = getattr(module, attribute)
    return int(value)
