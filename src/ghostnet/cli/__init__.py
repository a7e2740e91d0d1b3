"""The command `ghostnet`: one file a verb, the answer on stdout, progress on stderr, exit 0, 1 or 2."""

from ghostnet.cli.app import main, run

__all__ = ["main", "run"]
