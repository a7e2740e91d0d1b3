"""Room `deploy`: exact rewrites for inference, export, sessions, benchmark; see docs/architecture.md.

Names are loaded on first use: `load` works where only numpy and a runtime are installed, the others need torch.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ghostnet.deploy.benchmark import BenchmarkResult, BenchmarkRow, benchmark
    from ghostnet.deploy.export import ExportReport, export
    from ghostnet.deploy.lineup import Candidate
    from ghostnet.deploy.manifest import Manifest
    from ghostnet.deploy.optimize import optimize
    from ghostnet.deploy.plan import plan
    from ghostnet.deploy.planned import Plan, PlannedLayer
    from ghostnet.deploy.quantization.fake import FakeQuantized, fake_quantized
    from ghostnet.deploy.quantization.quantize import QuantizeReport, quantize
    from ghostnet.deploy.quantization.search import Limits
    from ghostnet.deploy.random_weights import randomise_statistics_
    from ghostnet.deploy.session import Session, load
    from ghostnet.deploy.share_plan import SharePlan, plan_share
    from ghostnet.deploy.targets import TARGETS
    from ghostnet.deploy.tune import TuneResult, TuneRow, tune

_HOME = {
    "TARGETS": "targets",
    "BenchmarkResult": "benchmark",
    "BenchmarkRow": "benchmark",
    "Candidate": "lineup",
    "ExportReport": "export",
    "FakeQuantized": "quantization.fake",
    "Limits": "quantization.search",
    "Manifest": "manifest",
    "Plan": "planned",
    "PlannedLayer": "planned",
    "QuantizeReport": "quantization.quantize",
    "Session": "session",
    "SharePlan": "share_plan",
    "TuneResult": "tune",
    "TuneRow": "tune",
    "benchmark": "benchmark",
    "export": "export",
    "fake_quantized": "quantization.fake",
    "load": "session",
    "optimize": "optimize",
    "plan": "plan",
    "plan_share": "share_plan",
    "quantize": "quantization.quantize",
    "randomise_statistics_": "random_weights",
    "tune": "tune",
}

__all__ = [
    "TARGETS",
    "BenchmarkResult",
    "BenchmarkRow",
    "Candidate",
    "ExportReport",
    "FakeQuantized",
    "Limits",
    "Manifest",
    "Plan",
    "PlannedLayer",
    "QuantizeReport",
    "Session",
    "SharePlan",
    "TuneResult",
    "TuneRow",
    "benchmark",
    "export",
    "fake_quantized",
    "load",
    "optimize",
    "plan",
    "plan_share",
    "quantize",
    "randomise_statistics_",
    "tune",
]


class _Room(types.ModuleType):
    """A package in which `export` stays the function when the file `export.py` is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOME and isinstance(value, types.ModuleType):
            return  # the import system binds each file to its package; the file stays in sys.modules
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


sys.modules[__name__].__class__ = _Room
