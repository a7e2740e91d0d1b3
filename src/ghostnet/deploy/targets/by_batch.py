"""Networks that are compiled anew for single images, because runtimes plan better when every size is known.

With an open batch OpenVINO works all shapes out in every call, and ONNX Runtime leaves its blocked layout where it
cannot tell that two maps have the same size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Compiled = TypeVar("Compiled")


class ByBatch(Generic[Compiled]):
    """One network for single images, and one for any number of them, each made when it is first needed.

    Args:
        make: called with the batch to compile for, None to leave it open.
        batch: what the file fixes it to; None where it is open.

    Example:
        >>> networks = ByBatch(lambda batch: f"for {batch}", None)
        >>> networks[1], networks[8], networks[9]
        ('for 1', 'for None', 'for None')
    """

    def __init__(self, make: Callable[[int | None], Compiled], batch: int | None) -> None:
        self._make, self._fixed = make, batch is not None
        self._made: dict[int | None, Compiled] = {}

    def put(self, count: int, compiled: Compiled) -> None:
        """Use what was made already for `count` images."""
        self._made[self._key(count)] = compiled

    def __getitem__(self, count: int) -> Compiled:
        """Return the network for `count` images."""
        key = self._key(count)
        if key not in self._made:
            self._made[key] = self._make(key)
        return self._made[key]

    def _key(self, count: int) -> int | None:
        return 1 if count == 1 and not self._fixed else None
