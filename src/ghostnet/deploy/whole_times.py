"""Whole networks timed against the original in a runtime, for plans of every kind: `WholeTimes`.

Left out: which networks are worth timing (`plan_search.py`, `share_plan.py`), and single layers (`layer_times.py`).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ghostnet.checks import check_integer, is_number
from ghostnet.deploy.layer_times import Setting
from ghostnet.deploy.optimize import traced
from ghostnet.deploy.quantization.quantiser import require_quantiser
from ghostnet.deploy.targets import require_to_write, target_named
from ghostnet.errors import InputError, unknown_name
from ghostnet.nn.copies import copy_model


class WholeTimes:
    """Times candidates against the original.

    Args:
        model: the original.
        setting: where and how.
        input_size: `(C, H, W)`.

    Attributes:
        attempts: what was measured, as JSON-able values.
    """

    def __init__(self, model: nn.Module, setting: Setting, input_size: tuple[int, ...]) -> None:
        self._model, self._setting, self._size = model, setting, input_size
        self._form = form_of(model)
        self.attempts: list[dict[str, Any]] = []

    def ratio(self, network: nn.Module, what: str, facts: dict[str, Any]) -> float:
        """Return the time of a network over that of the original.

        Args:
            network: the candidate.
            what: completes "the network with ...".
            facts: of the candidate, for `attempts`.
        """
        dense = self._setting.session("the network", f"{self._size} {self._form}", self._model, self._size)
        other = self._setting.session(
            f"the network with {what}", f"{self._size} {form_of(network)}", network, self._size
        )
        found = self._setting.times({"dense": dense, "other": other}, self._size, 4 * self._setting.seconds)
        before, after = found["dense"].median_ms, found["other"].median_ms
        self.attempts.append({**facts, "dense_ms": before, "ms": after, "ratio": after / before})
        self._setting.announce(f"{what}: whole network at {after / before:.3f} of the time")
        return after / before


def form_of(network: nn.Module) -> str:
    """Return text that two networks share only if they compute the same but for the values of their weights.

    What a network prints as does not tell what its forward does with its layers; a trace does. Where there is none,
    the numbers and texts that its modules keep must do.

    Example:
        >>> form_of(nn.Sequential(nn.ReLU())) == form_of(nn.Sequential(nn.Tanh()))
        False
    """
    graph = traced(copy_model(network, share_parameters=True))
    kept = graph.code if graph is not None else [_plain_values(module) for module in network.modules()]
    shapes = [
        (name, tuple(value.shape))
        for name, value in network.state_dict().items()
        if isinstance(value, Tensor)
    ]
    return f"{network} {kept} {shapes}"


def _plain_values(module: nn.Module) -> dict[str, Any]:
    kinds = (bool, int, float, str, tuple, list)
    return {name: value for name, value in vars(module).items() if isinstance(value, kinds)}


@contextlib.contextmanager
def folder_for_exports(folder: str | Path | None) -> Iterator[Path]:
    """Give the folder that keeps exported files, made where it is missing, or one for the block where none is named."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(folder if folder is not None else scratch)
        place.mkdir(parents=True, exist_ok=True)
        yield place


def versions_of(target: str, precision: str) -> dict[str, str]:
    """Return the versions of what exports and runs."""
    packages = [target_named(target).package, require_quantiser(target) if precision == "int8" else None]
    return {package: importlib.metadata.version(package) for package in packages if package is not None}


def check_setting(target: str, precision: str, budget: float, seconds: float, threads: int) -> None:
    """Refuse what cannot be planned for.

    Raises:
        InputError: a runtime that is missing or cannot run in `precision`, or a bad number.
    """
    found = target_named(target)
    require_to_write(found)
    if precision == "int8":
        require_quantiser(target)
    elif precision not in found.precisions:
        if precision in ("fp32", "bf16"):
            raise InputError(
                f"{found.runtime} runs in {' or '.join(found.precisions)} here, not in {precision}"
            )
        raise unknown_name("precision", precision, [*found.precisions, "int8"])
    if not is_number(budget) or not 0 < budget <= 1:
        raise InputError(
            f"budget (={budget!r}) must be above 0 and at most 1: the time of the new network over the "
            "original's; for a plan of layers 1 takes every one that gains"
        )
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"seconds (={seconds}) must be above 0; 0.3 is usual")
    check_integer("threads", threads)
