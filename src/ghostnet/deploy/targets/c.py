"""C files (.c and weights in a .bin beside it) that need nothing but a C compiler, and their compilation on this CPU.

A program computes one image; a session calls it for each image of a batch.
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import tempfile
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostnet.deploy.targets.target import ALONE

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ghostnet.deploy.c_source.text import Program

_FLOATS = ctypes.POINTER(ctypes.c_float)
_LARGE = 1 << 21  # bytes of a large page: weights are read from end to end, and small pages cost look-ups


class CSource:
    """The target "c".

    Args:
        weights: "fp16" keeps the weights of products in float16: half the file, and half of what memory is asked for,
            while all arithmetic stays in float32. "int8" computes convolutions of much work in bytes.
    """

    name = "c"
    runtime = "C"
    kind = "C"
    extra = "export"
    package = "ghostnet"
    write_modules: tuple[str, ...] = ("onnx", "onnxscript")
    open_module = "ctypes"
    suffixes: tuple[str, ...] = (".c", ".bin")
    writes_folder: bool = False
    precisions: tuple[str, ...] = ("fp32",)
    traces = False
    dynamic_batch = False
    system: str | None = None
    threads_in_use: int | None = None

    def __init__(self, *, weights: str = "fp32") -> None:
        self._precision = weights

    def write(
        self,
        model: nn.Module,
        path: Path,
        example: torch.Tensor,
        metadata: Mapping[str, str],
        outputs: Sequence[str] = ALONE,
    ) -> dict[str, int]:
        """Write both files; `metadata` goes into the program.

        Raises:
            ValueError: a layer has no kernel.
            InputError: a layer has a weight too large for float16.
        """
        return write_program(
            program_of_graph(graph_of(model, example, outputs), metadata, self._precision), path
        )

    def open(self, path: Path, *, threads: int, precision: str) -> CRunner:  # noqa: ARG002  (fp32 only)
        """Compile a program, unless that was done, and load it.

        Raises:
            InputError: there is no compiler, or none for several threads.
        """
        from ghostnet.deploy.c_source.compiler import built

        if "network_run" not in path.read_text(encoding="utf-8", errors="replace"):
            raise ValueError("it has no function network_run")
        return CRunner(built(path, threads=threads > 1), path.with_suffix(".bin"), threads)


def graph_of(model: nn.Module, example: torch.Tensor, outputs: Sequence[str] = ALONE) -> Any:
    """Return a network as an ONNX graph for one image."""
    from ghostnet.deploy.targets.onnx import exported

    with tempfile.TemporaryDirectory() as folder:
        return exported(model, Path(folder) / "net.onnx", example[:1], outputs, open_batch=False)


def program_of_graph(
    graph: Any, metadata: Mapping[str, str], precision: str, keep: Collection[str] = ()
) -> Program:
    """Return what `graph_of` made as a program; the arguments are those of `text.program_of`.

    Raises:
        ValueError: a layer has no kernel.
        InputError: a weight is too large for float16.
    """
    from ghostnet.deploy.c_source.onnx_graph import NoSuchLayerError
    from ghostnet.deploy.c_source.onnx_layers import network_of
    from ghostnet.deploy.c_source.text import program_of
    from ghostnet.deploy.targets.onnx import in_pytorch

    try:
        return program_of(network_of(graph), metadata, precision=precision, keep=keep)
    except NoSuchLayerError as error:
        raise ValueError(f"C has no operator {in_pytorch(error.node)}: {error}") from error


def write_program(program: Program, path: Path) -> dict[str, int]:
    """Write a program and its weights beside it, and return how often it calls each kernel."""
    path.write_text(program.text, encoding="utf-8")
    program.weights.astype("<f4").tofile(path.with_suffix(".bin"))
    return program.kernels


class CRunner:
    """A compiled program."""

    batch: int | None = 1

    def __init__(self, library: Path, weights: Path, threads: int) -> None:
        program = ctypes.CDLL(str(library))
        self._run, self._threads = program.network_run_on, threads
        self._run.argtypes, self._run.restype = [ctypes.c_int, *[_FLOATS] * 4], None
        about = json.loads(ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(program, "network_about"))))
        self.input_size: tuple[Any, ...] = tuple(about["input"])
        self._shapes = [(1, *shape) for shape in about["outputs"].values()]
        self.outputs = tuple(about["outputs"])
        self.metadata: dict[str, str] = about["metadata"]
        floats, work = (
            ctypes.c_size_t.in_dll(program, f"network_{name}").value for name in ("weights", "work")
        )
        if not weights.is_file() or weights.stat().st_size != 4 * floats:
            raise ValueError(f"the weights in {weights.name} are missing or truncated")
        self._weights, self._work = _aligned(floats), _aligned(work)
        if floats:
            with weights.open("rb") as stream:
                stream.readinto(self._weights.data.cast("B"))
        self._kept = tuple(array.ctypes.data_as(_FLOATS) for array in (self._weights, self._work))
        self._one_at_a_time = threading.Lock()  # calls share the working memory

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for one image."""
        ends = np.cumsum([math.prod(shape) for shape in self._shapes])
        output = np.empty(ends[-1], np.float32)
        with self._one_at_a_time:
            self._run(
                self._threads, *self._kept, *(each.ctypes.data_as(_FLOATS) for each in (images, output))
            )
        parts = np.split(output, ends[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]


def _aligned(floats: int) -> np.ndarray:
    """Return memory for that many floats, in large pages where the system has them."""
    size = 4 * floats + _LARGE
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    skipped = -whole.ctypes.data % _LARGE
    return whole[skipped : skipped + 4 * floats].view(np.float32)
