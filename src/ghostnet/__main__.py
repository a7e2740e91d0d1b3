"""`python -m ghostnet` is the command `ghostnet`."""

from __future__ import annotations

from ghostnet.cli import main

if __name__ == "__main__":
    main()
