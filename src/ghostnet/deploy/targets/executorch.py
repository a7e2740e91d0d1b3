"""ExecuTorch files (.pte) for its XNNPACK backend, and ExecuTorch on the CPU; the one runtime here that needs torch.

The file takes one image a call, for which its memory is planned; a session calls it for each image of a batch. What
XNNPACK has no operator for is left to ExecuTorch's own kernels.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostnet.deploy.targets.target import ALONE
from ghostnet.errors import InputError
from ghostnet.quiet import quiet_native, quiet_python

if TYPE_CHECKING:
    import torch
    from torch import nn

_IDENTIFIER = b"ET"  # bytes 4 and 5 of every file, a version behind them
_DELEGATE = "executorch_call_delegate"
_opened: weakref.WeakSet[ExecuTorchRunner] = weakref.WeakSet()


class ExecuTorch:
    """The target "executorch"."""

    name = "executorch"
    runtime = "ExecuTorch"
    kind = "ExecuTorch"
    extra = "mobile"
    package = "executorch"
    write_modules: tuple[str, ...] = ()
    open_module = "executorch"
    suffixes: tuple[str, ...] = (".pte",)
    writes_folder: bool = False
    precisions: tuple[str, ...] = ("fp32",)
    traces = False
    dynamic_batch = False
    system: str | None = None

    @property
    def threads_in_use(self) -> int | None:
        """The number of threads that all open files share; None while none is open."""
        if not len(_opened):
            return None
        from executorch.extension.pybindings import portable_lib

        return int(portable_lib._threadpool_get_thread_count())

    def write(
        self,
        model: nn.Module,
        path: Path,
        example: torch.Tensor,
        metadata: Mapping[str, str],  # noqa: ARG002  (the manifest holds them)
        outputs: Sequence[str] = ALONE,  # noqa: ARG002  (the format has no place for names)
    ) -> dict[str, int]:
        """Write one file.

        Raises:
            ValueError: ExecuTorch lacks a kernel, with the operator's name.
        """
        with quiet_python(), quiet_native():
            import torch
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            from ghostnet.deploy.targets.forms import expressible

            program = torch.export.export(expressible(model), (example[:1],))
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            operators = _operators(lowered.exported_program().graph_module)
            finished = lowered.to_executorch()
            from executorch.runtime import Runtime

            known = Runtime.get().operator_registry.operator_names
        for needed in finished.executorch_program.execution_plan[0].operators:
            if ".".join(filter(None, (needed.name, needed.overload))) not in known:
                raise ValueError(f"ExecuTorch has no kernel for {needed.name}")
        path.write_bytes(finished.buffer)
        return operators

    def open(self, path: Path, *, threads: int, precision: str) -> ExecuTorchRunner:  # noqa: ARG002  (fp32 only)
        """Load a file; all files of a process share its threads.

        Raises:
            InputError: a file with another number of threads is open still.
        """
        content = path.read_bytes()
        if content[4:6] != _IDENTIFIER:
            raise ValueError("it does not start as such a file does")
        with quiet_python(), quiet_native():
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime

            if portable_lib._threadpool_get_thread_count() != threads:
                if self.threads_in_use is not None:  # open files hold the threads that would go
                    raise InputError(
                        "ExecuTorch has one number of threads in a process, and a file is open with another "
                        f"({self.threads_in_use}, not {threads}); use it with one number at a time"
                    )
                portable_lib._unsafe_reset_threadpool(threads)
            try:
                runner = ExecuTorchRunner(Runtime.get().load_program(content))
            except RuntimeError as error:  # "error: 0x:23" or a like number
                raise ValueError("it is truncated or of another kind") from error
        _opened.add(runner)
        return runner


class ExecuTorchRunner:
    """A file in ExecuTorch."""

    def __init__(self, program: Any) -> None:
        self._program = program  # a method without its program ends the process
        self._method = method = program.load_method("forward")
        self._one_at_a_time = threading.Lock()  # a method has one set of memory for all threads
        batch, *size = (int(number) for number in method.metadata.input_tensor_meta(0).sizes())
        self.input_size: tuple[Any, ...] = tuple(size)
        self.batch: int | None = batch
        self.outputs = tuple(f"output_{place}" for place in range(method.metadata.num_outputs()))
        self.metadata: dict[str, str] = {}

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return copies of the outputs."""
        import torch

        if not images.flags.writeable:
            images = images.copy()  # torch warns of a tensor that could write into it
        with self._one_at_a_time:
            return [np.array(output.numpy()) for output in self._method.execute([torch.from_numpy(images)])]


def _operators(graph: Any) -> dict[str, int]:
    """Count operators: those that were handed to XNNPACK, and those around it."""
    found: Counter[str] = Counter()
    for node in graph.graph.nodes:
        if node.op == "get_attr":  # a part for XNNPACK
            found.update(_names(getattr(graph, node.target).original_module.graph))
    found.update(name for name in _names(graph.graph) if name != _DELEGATE)
    return dict(sorted(found.items()))


def _names(graph: Any) -> list[str]:
    targets = (node.target for node in graph.nodes if node.op == "call_function")
    names = (str(getattr(target, "__name__", target)) for target in targets)
    return [name.removesuffix(".default") for name in names if name != "getitem"]
