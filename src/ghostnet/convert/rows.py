"""The rows of a `ConversionReport`: parameters and MACs of two networks, convolution by convolution."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch import nn

from ghostnet.convert.report import ConversionReport, LayerReport
from ghostnet.errors import InputError
from ghostnet.measure import profile

_IMAGENET_SIZE = (3, 224, 224)  # tried when nobody says what the network takes


def known_input_size(model: nn.Module, known: Sequence[int] | None) -> tuple[int, ...]:
    """Return the `(C, H, W)` that counts are made for: what is known, what the zoo says, or ImageNet's size."""
    if known is not None:
        return tuple(known)
    origin = getattr(model, "ghostnet_origin", None)
    size = origin.get("input_size") if isinstance(origin, dict) else None
    if size:
        return tuple(size)
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return (3 if first is None else first.in_channels, *_IMAGENET_SIZE[1:])


class Rows:
    """Counts parameters and MACs of both networks and lays them out by convolution.

    Args:
        model: the network before.
        new_model: the network after; the same paths.
        chosen: names of the converted layers.
        input_size: `(C, H, W)`; where the network does not run on it, MACs stay unknown.
        action: what was done to the chosen layers.

    Raises:
        InputError: the first network runs on an image of this size, and the second does not.
    """

    def __init__(
        self,
        model: nn.Module,
        new_model: nn.Module,
        chosen: set[str],
        input_size: tuple[int, ...],
        *,
        action: str = "ghost",
    ) -> None:
        self.model, self.new_model = model, new_model
        self.chosen, self.action = chosen, action
        self.input_size: tuple[int, ...] | None = input_size
        self.before: Any = None
        self.after: Any = None
        try:
            self.before = profile(model, input_size)
        except InputError:  # the size was a guess
            self.input_size = None
            return
        try:
            self.after = profile(new_model, input_size)
        except InputError as error:
            raise InputError(
                f"the network ran before, and does not with these layers replaced ({error}); give `example_input`, "
                "for which layers in the way are found, or name fewer `layers`"
            ) from error

    def report(
        self,
        notes: dict[str, str | None],
        errors: dict[str, float],
        settings: dict[str, Any],
        started: float,
    ) -> ConversionReport:
        """Build the report; `started` is the clock's reading when the conversion began."""
        return ConversionReport(
            layers=tuple(self._row(name, note, errors.get(name)) for name, note in notes.items()),
            params_before=sum(parameter.numel() for parameter in self.model.parameters()),
            params_after=sum(parameter.numel() for parameter in self.new_model.parameters()),
            macs_before=None if self.before is None else self.before.macs,
            macs_after=None if self.after is None else self.after.macs,
            input_size=self.input_size,
            seconds=time.perf_counter() - started,
            settings=settings,
        )

    def _row(self, name: str, note: str | None, error: float | None) -> LayerReport:
        if name.endswith("()"):  # a functional convolution owns nothing that could be counted here
            return LayerReport(name, "kept", note, 0, 0, None, None, None)
        return LayerReport(
            name=name,
            action=self.action if name in self.chosen else "kept",
            reason=note,
            params_before=_params(self.model, name),
            params_after=_params(self.new_model, name),
            macs_before=_macs(self.before, name),
            macs_after=_macs(self.after, name),
            reconstruction_error=error,
        )


def _params(model: nn.Module, name: str) -> int:
    return sum(parameter.numel() for parameter in model.get_submodule(name).parameters())


def _macs(counted: Any, name: str) -> int | None:
    if counted is None:
        return None
    inside = name + "."
    return sum(layer.macs for layer in counted.layers if layer.name == name or layer.name.startswith(inside))
