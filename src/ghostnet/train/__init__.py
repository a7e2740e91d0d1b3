"""Room `train`: see docs/architecture.md."""
