"""Room `deploy`: exact rewrites for inference, export, sessions, benchmark; see docs/architecture.md."""

from ghostnet.deploy.benchmark import BenchmarkResult, BenchmarkRow, benchmark
from ghostnet.deploy.export import TARGETS, ExportReport, export
from ghostnet.deploy.optimize import optimize
from ghostnet.deploy.session import Session, load
from ghostnet.deploy.tune import TuneResult, TuneRow, tune

__all__ = [
    "TARGETS",
    "BenchmarkResult",
    "BenchmarkRow",
    "ExportReport",
    "Session",
    "TuneResult",
    "TuneRow",
    "benchmark",
    "export",
    "load",
    "optimize",
    "tune",
]
