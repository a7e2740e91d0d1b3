"""Room `deploy`: exact rewrites for inference, export, sessions, benchmark; see docs/architecture.md."""

from ghostnet.deploy.optimize import optimize

__all__ = ["optimize"]
