"""What a measured number depends on: processor, cores, threads and versions. Names no host and no path."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

_LIBRARIES = ("torch", "torchvision", "numpy", "onnx", "onnxruntime")


def environment() -> dict[str, Any]:
    """Describe the machine and the software that a measurement was taken on.

    Returns:
        JSON-able values: `python`, one version per installed library, `platform`, `cpu`, `cores` (that this
        process may use), `vectors` (the widest extension that PyTorch finds, such as "AVX512"), `threads` (of torch)
        and `gpu` (a name or None).

    Example:
        >>> environment()["cores"] >= 1
        True
    """
    found: dict[str, Any] = {"python": platform.python_version()}
    for library in _LIBRARIES:
        version = _version(library)
        if version is not None:
            found[library] = version
    found["platform"] = f"{platform.system()} {platform.machine()}"
    found["cpu"] = _cpu_model()
    found["cores"] = _usable_cores()
    found["vectors"] = torch.backends.cpu.get_cpu_capability()
    found["threads"] = torch.get_num_threads()
    found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return found


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
