"""Room `deploy`: exact rewrites for inference, export, sessions, benchmark; see docs/architecture.md."""

from ghostnet.deploy.benchmark import BenchmarkResult, BenchmarkRow, benchmark
from ghostnet.deploy.export import TARGETS, ExportReport, export
from ghostnet.deploy.optimize import optimize
from ghostnet.deploy.session import Session, load

__all__ = [
    "TARGETS",
    "BenchmarkResult",
    "BenchmarkRow",
    "ExportReport",
    "Session",
    "benchmark",
    "export",
    "load",
    "optimize",
]
