"""LiteRT (TensorFlow Lite) files, written by litert-torch, and the LiteRT interpreter with XNNPACK.

The file takes one image a call, channels first as in PyTorch; a session calls it for each image of a batch.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostnet.deploy.targets.target import ALONE
from ghostnet.quiet import quiet_native, quiet_python

if TYPE_CHECKING:
    import torch
    from torch import nn

_IDENTIFIER = b"TFL3"  # bytes 4 to 8 of every file
_NOT_AN_OPERATOR = "DELEGATE"  # XNNPACK's node in the list that the interpreter gives


class LiteRT:
    """The target "litert"."""

    name = "litert"
    runtime = "LiteRT"
    kind = "LiteRT"
    extra = "litert"
    package = "ai-edge-litert"
    write_modules: tuple[str, ...] = ("litert_torch",)
    open_module = "ai_edge_litert"
    suffixes: tuple[str, ...] = (".tflite",)
    writes_folder: bool = False
    precisions: tuple[str, ...] = ("fp32",)
    traces = False
    dynamic_batch = False
    system: str | None = None
    threads_in_use: int | None = None

    def write(
        self,
        model: nn.Module,
        path: Path,
        example: torch.Tensor,
        metadata: Mapping[str, str],  # noqa: ARG002  (the manifest holds them)
        outputs: Sequence[str] = ALONE,  # noqa: ARG002  (litert-torch numbers them)
    ) -> dict[str, int]:
        """Write one file."""
        with quiet_python(), quiet_native():
            import litert_torch

            from ghostnet.deploy.targets.forms import expressible

            litert_torch.convert(expressible(model), (example[:1],)).export(str(path))
        return self.open(path, threads=1, precision="fp32").operators()

    def open(self, path: Path, *, threads: int, precision: str) -> LiteRTRunner:  # noqa: ARG002  (fp32 only)
        """Load a file into the interpreter."""
        with path.open("rb") as stream:
            if stream.read(8)[4:] != _IDENTIFIER:
                raise ValueError("it does not start as such a file does")
        with quiet_native():
            from ai_edge_litert.interpreter import Interpreter

            interpreter = Interpreter(str(path), num_threads=threads)
            interpreter.allocate_tensors()
        return LiteRTRunner(interpreter)


class LiteRTRunner:
    """A file in the interpreter."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._one_at_a_time = threading.Lock()  # its tensors are the interpreter's, one set for all threads
        images = interpreter.get_input_details()[0]
        self._input = images["index"]
        outputs = interpreter.get_output_details()
        self._places = [output["index"] for output in outputs]
        self.outputs = tuple(str(output["name"]) for output in outputs)
        batch, *size = (int(number) for number in images["shape"])
        self.input_size: tuple[Any, ...] = tuple(size)
        self.batch: int | None = batch
        self.metadata: dict[str, str] = {}

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return copies of the outputs."""
        with self._one_at_a_time:
            self._interpreter.set_tensor(self._input, images)
            self._interpreter.invoke()
            return [np.asarray(self._interpreter.get_tensor(place)) for place in self._places]

    def operators(self) -> dict[str, int]:
        """Return how often each operator occurs."""
        kinds = (step["op_name"] for step in self._interpreter._get_ops_details())
        return dict(sorted(Counter(kind for kind in kinds if kind != _NOT_AN_OPERATOR).items()))
