"""The runtimes that a network can be exported to, one file each; `TARGETS` is the registry.

A further runtime is one more file with a class like `target.Target` and one more entry here. Nothing here
imports torch or a runtime before it is needed: a device that only runs networks has neither torch nor the
other runtimes.
"""

from __future__ import annotations

from pathlib import Path

from ghostnet.deploy.targets.c import CSource
from ghostnet.deploy.targets.coreml import CoreML
from ghostnet.deploy.targets.executorch import ExecuTorch
from ghostnet.deploy.targets.litert import LiteRT
from ghostnet.deploy.targets.mnn import Mnn
from ghostnet.deploy.targets.ncnn import Ncnn
from ghostnet.deploy.targets.onnx import Onnx
from ghostnet.deploy.targets.openvino import OpenVINO
from ghostnet.deploy.targets.target import Runner, Target, require_to_open, require_to_write
from ghostnet.errors import InputError, unknown_name

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (Onnx(), OpenVINO(), LiteRT(), Ncnn(), Mnn(), CSource(), CoreML(), ExecuTorch())
}
# whose files may be in less than float32 without calibration, by precision
NARROW: dict[str, dict[str, Target]] = {
    "fp16": {"c": CSource(weights="fp16"), "coreml": CoreML(half=True)},
    "int8": {"c": CSource(weights="int8")},
}

__all__ = [
    "NARROW",
    "TARGETS",
    "Runner",
    "Target",
    "require_to_open",
    "require_to_write",
    "target_named",
    "target_of_file",
]


def target_named(name: str, precision: str = "fp32") -> Target:
    """Return the target of that name, in a form that writes files of that precision.

    Raises:
        InputError: there is none, with near names, or it has no such precision.
    """
    if name not in TARGETS:
        raise unknown_name("export target", name, TARGETS)
    if precision == "fp32":
        return TARGETS[name]
    if precision not in NARROW:
        raise unknown_name("precision", precision, ("fp32", *NARROW))
    if name in NARROW[precision]:
        return NARROW[precision][name]
    without = " without calibration images (`deploy.quantize` takes them)" if precision == "int8" else ""
    raise InputError(
        f"{TARGETS[name].runtime} has no {precision} here{without}; "
        f"the targets with {precision} are {', '.join(NARROW[precision])}"
    )


def target_of_file(path: Path) -> Target:
    """Return the target whose files end like `path`.

    Raises:
        InputError: no target writes such files.
    """
    for target in TARGETS.values():
        if path.suffix.lower() == target.suffixes[0]:
            return target
    known = ", ".join(f"{target.suffixes[0]} ({target.runtime})" for target in TARGETS.values())
    raise InputError(f"{path} is no file of a known runtime; the endings are {known}")
