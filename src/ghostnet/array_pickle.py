"""Pickles read without running code: `ArrayUnpickler`, for files that hold NumPy arrays and plain values only.

Numbers, strings, lists and dictionaries need no global; an array needs the few below. Every other global is refused
before it is called.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import IO, Any

import numpy as np


def _empty_array(*_arguments: object) -> np.ndarray:
    """Stand in for NumPy's own constructor, which would let a file ask for any amount of memory."""
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _encoded(text: str, encoding: str) -> bytes:
    """Stand in for `_codecs.encode`, by which protocol 2 writes bytes; only that use is allowed."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"its pickle asks for the encoding {encoding!r}, which is refused")
    return text.encode("latin1")


_ARRAYS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encoded,
}


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler to which nothing exists but what arrays are made of.

    Args:
        stream: what is read.
        also: further globals by module and name, and what stands for each.
        encoding: of Python 2's strings, as for `pickle.Unpickler`.

    Example:
        >>> ArrayUnpickler(io.BytesIO(pickle.dumps({"a": np.arange(3)}, 4))).load()
        {'a': array([0, 1, 2])}
    """

    def __init__(
        self, stream: IO[bytes], *, also: Mapping[tuple[str, str], Any] | None = None, encoding: str = "ASCII"
    ) -> None:
        super().__init__(stream, encoding=encoding)
        self._allowed = {**_ARRAYS, **(also or {})}

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Return what stands for a global.

        Raises:
            pickle.UnpicklingError: it is not among those allowed.
        """
        if (module_name, global_name) not in self._allowed:
            raise pickle.UnpicklingError(f"its pickle asks for {module_name}.{global_name}, which is refused")
        return self._allowed[module_name, global_name]
