"""Room `recipes`: see docs/architecture.md."""
