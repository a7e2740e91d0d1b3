"""Room `paper`: see docs/architecture.md."""
