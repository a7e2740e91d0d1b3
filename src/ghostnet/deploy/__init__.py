"""Room `deploy`: see docs/architecture.md."""
