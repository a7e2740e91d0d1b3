"""Running an exported file: arrays in, arrays out, no torch in between (ONNX Runtime on the CPU)."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np

from ghostnet.errors import InputError


class Session:
    """An exported network, loaded; make one with `load`.

    Attributes:
        path: the file it came from.
        input_size: shape of one input without the batch, as the file states it.
        metadata: the texts that `export` stored.
    """

    def __init__(self, runtime: Any, path: Path) -> None:
        self._runtime = runtime
        self._input = runtime.get_inputs()[0]
        self.path = path
        self.input_size: tuple[Any, ...] = tuple(self._input.shape[1:])
        self.metadata: dict[str, str] = dict(runtime.get_modelmeta().custom_metadata_map)

    def predict(self, array: np.ndarray) -> np.ndarray:
        """Return the outputs for a batch.

        Args:
            array: float32 `(N, C, H, W)`, normalised like the training data.

        Returns:
            The network's output, e.g. logits `(N, classes)`.

        Raises:
            InputError: the array's type or shape does not fit the file.
        """
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            found = getattr(array, "dtype", type(array).__name__)
            raise InputError(f"predict needs a float32 numpy array, not {found}; use array.astype('float32')")
        expected = self.input_size
        fits = array.ndim == 1 + len(expected) and all(
            not isinstance(wanted, int) or wanted == given
            for wanted, given in zip(expected, array.shape[1:], strict=True)
        )
        if not fits:
            raise InputError(
                f"an array of shape {array.shape} does not fit; {self.path.name} takes (N, *{expected})"
            )
        outputs = self._runtime.run(None, {self._input.name: array})
        return np.asarray(outputs[0])


def load(path: str | os.PathLike[str], *, threads: int = 1) -> Session:
    """Load an exported ONNX file into ONNX Runtime on the CPU.

    Args:
        path: a file that `export` wrote.
        threads: threads inside one operator, >= 1.

    Raises:
        InputError: no such file, not an ONNX file, a bad thread count, or onnxruntime is not installed.

    Example:
        >>> load("net.onnx").predict(images)  # doctest: +SKIP
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads (={threads!r}) must be an integer >= 1")
    if not Path(path).is_file():
        raise InputError(f"there is no file {os.fspath(path)}; write one with `ghostnet export`")
    if importlib.util.find_spec("onnxruntime") is None:
        raise InputError('onnxruntime is not installed; run: pip install "ghostnet[export]"')
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        runtime = onnxruntime.InferenceSession(
            Path(path).read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's own classes share no public base class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{os.fspath(path)} is not a usable ONNX file: {reason}; export it again") from error
    return Session(runtime, Path(path))
