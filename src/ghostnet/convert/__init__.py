"""Room `convert`: see docs/architecture.md."""
