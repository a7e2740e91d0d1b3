"""Room `nn`: see docs/architecture.md."""
