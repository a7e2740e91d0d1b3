"""`python -m ghostnet` is the command `ghostnet`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line of this process and exit, in one line also where Ctrl-C comes while it is being loaded."""
    try:
        from ghostnet.cli import main as run
    except KeyboardInterrupt:
        print("ghostnet: interrupted", file=sys.stderr)
        sys.exit(1)
    run()


if __name__ == "__main__":
    main()
