"""Room `measure`: see docs/architecture.md."""
