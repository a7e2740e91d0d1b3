"""What a runtime's quantiser must offer, and which there are."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import numpy as np

from ghostnet.deploy.processor import usual_weight_bits
from ghostnet.errors import InputError, unknown_name


class Quantiser(Protocol):
    """A float export and its calibration images, ready to be written as int8 in several variants."""

    def layers(self) -> list[str]:
        """Return the names, in this file, of its convolutions and matrix products, in execution order."""
        ...

    def write(self, path: Path, *, keep: Collection[str] = (), only: str | None = None) -> None:
        """Write int8 files.

        Args:
            path: the main file.
            keep: layers that stay in float.
            only: the single layer to quantise; None quantises all but `keep`.
        """
        ...


# target: (module of this package, class, import name, pip package); of C, whose quantiser is a part of its export, none
_QUANTISERS = {
    "onnx": ("onnx", "OnnxQuantiser", "onnxruntime.quantization", "onnxruntime onnx"),
    "openvino": ("openvino", "OpenVINOQuantiser", "nncf", "nncf"),
    "litert": ("litert", "LiteRTQuantiser", "ai_edge_quantizer", "ai-edge-quantizer"),
}
INT8_TARGETS = (*_QUANTISERS, "c")
TRAINED_TARGETS = ("onnx", "openvino")  # their converters take the rounding of PyTorch's graph as it is


def require_quantiser(target: str) -> str | None:
    """Return the pip package that quantises for a target; None where it is this one.

    Raises:
        InputError: the target has no int8 here, or what it needs is not installed (with the pip command).
    """
    from ghostnet.deploy.targets import TARGETS
    from ghostnet.deploy.targets.target import is_installed

    if target in TARGETS and target not in INT8_TARGETS:
        raise InputError(
            f"{TARGETS[target].runtime} has no int8 here; the targets with int8 are {', '.join(INT8_TARGETS)}"
        )
    if target not in INT8_TARGETS:
        raise unknown_name("int8 target", target, INT8_TARGETS)
    if target not in _QUANTISERS:
        return None
    _, _, module, package = _QUANTISERS[target]
    if not is_installed(module):
        raise InputError(
            f"{module.partition('.')[0]} is not installed, which int8 for {TARGETS[target].runtime} needs; "
            f"run: pip install {package}"
        )
    return package.split()[0]


def checked_weight_bits(target: str, weight_bits: int | None) -> int:
    """Return how many bits weights get: 7 or 8, by this processor where nothing is said.

    Raises:
        InputError: another number, or 7 for LiteRT or C, whose kernels have no overflow.
    """
    only = target in ("litert", "c")
    if weight_bits is None:
        return 8 if only else usual_weight_bits()
    if isinstance(weight_bits, bool) or weight_bits not in (7, 8) or (only and weight_bits == 7):
        allowed = f"8 for {target}" if only else "7 or 8; fewer need fine-tuning"
        raise InputError(f"weight_bits (={weight_bits!r}) must be {allowed}")
    return weight_bits


def quantiser_for(target: str, path: Path, images: np.ndarray, weight_bits: int) -> Quantiser:
    """Return the target's quantiser for a float export at `path`."""
    import importlib

    module, name, _, _ = _QUANTISERS[target]
    made: Quantiser = getattr(importlib.import_module(f"ghostnet.deploy.quantization.{module}"), name)(
        path, images, *([] if target == "litert" else [weight_bits])
    )
    return made
