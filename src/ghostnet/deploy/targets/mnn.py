"""MNN files (.mnn, weights in float32, dynamic batch), converted from the ONNX export, and MNN on the CPU.

The package's own command `mnnconvert` is not used: it installs a logging client and reports what was converted. The
function below it does neither, and runs in a process of its own, since it prints and may end the process.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostnet.deploy.targets.target import ALONE
from ghostnet.quiet import quiet_native

if TYPE_CHECKING:
    import torch
    from torch import nn

_CONVERT = "import sys, _tools; _tools.mnnconvert(sys.argv)"  # answers True for a failure, too
# of the sizes of Winograd's units that MNN weighs, the third rounds by 3e-4 of VGG-11's outputs (without it: 2e-6)
_WINOGRAD_CANDIDATES = 3  # MNN's number of the hint
_MISSING = re.compile(r"These Op Not Support: *(?:\w+::)?(\w+)")


class Mnn:
    """The target "mnn"."""

    name = "mnn"
    runtime = "MNN"
    kind = "MNN"
    extra = "export"
    package = "MNN"
    write_modules: tuple[str, ...] = ("onnx", "onnxscript")
    open_module = "MNN"
    suffixes: tuple[str, ...] = (".mnn",)
    writes_folder: bool = False
    precisions: tuple[str, ...] = ("fp32",)
    traces = False
    dynamic_batch = True
    system: str | None = None
    threads_in_use: int | None = None

    def write(
        self,
        model: nn.Module,
        path: Path,
        example: torch.Tensor,
        metadata: Mapping[str, str],
        outputs: Sequence[str] = ALONE,
    ) -> dict[str, int]:
        """Write one file; the input's size and `metadata` go into its free text ("bizCode").

        Raises:
            ValueError: MNN lacks an operator, with PyTorch's name of it.
            RuntimeError: the converter failed.
        """
        from ghostnet.deploy.targets.onnx import exported

        text = json.dumps({"input": list(example.shape[1:]), "metadata": dict(metadata)})
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "net.onnx"
            proto = exported(model, source, example, outputs)
            source.write_bytes(proto.SerializeToString())
            command = [sys.executable, "-c", _CONVERT, "-f", "ONNX", "--modelFile", str(source)]
            done = subprocess.run(
                [*command, "--MNNModel", str(path), "--bizCode", text],
                capture_output=True,
                text=True,
                errors="replace",
            )
        missing = _MISSING.search(done.stdout + done.stderr)
        if missing:
            raise ValueError(f"MNN has no operator {_in_pytorch(missing[1], proto.graph)}")
        if done.returncode != 0 or not path.is_file():
            last = ((done.stderr or done.stdout).strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"MNN's converter ended with code {done.returncode}: {last}")
        return dict(sorted(Counter(variable.op_type for variable in _variables(path).values()).items()))

    def open(self, path: Path, *, threads: int, precision: str) -> MnnRunner:  # noqa: ARG002  (there is but one)
        """Load a file."""
        with quiet_native():
            import MNN

            try:
                # the loader's own `thread_num` goes unheard, and a network then runs on four
                settings = {"backend": "CPU", "numThread": threads}
                settings["precision"] = "high"  # else float16 on ARM
                manager = MNN.nn.create_runtime_manager((settings,))
                manager.set_hint(_WINOGRAD_CANDIDATES, 2)
                module = MNN.nn.load_module_from_file(
                    str(path),
                    [],  # all inputs and outputs, as the file names them
                    [],
                    runtime_manager=manager,
                    shape_mutable=False,
                )
            except SystemError as error:  # its binding's answer to any failure; the reason was printed
                raise ValueError("it is truncated or of another kind") from error
            return MnnRunner(module, path)


class MnnRunner:
    """A file in MNN."""

    def __init__(self, module: Any, path: Path) -> None:
        self._module = module
        self._one_at_a_time = threading.Lock()  # calls from two threads answered wrongly
        self.outputs = tuple(str(name) for name in module.get_info()["outputNames"])
        self.metadata: dict[str, str] = {}
        try:
            texts = json.loads(module.get_info()["bizCode"])
            self.metadata = {str(key): str(value) for key, value in texts["metadata"].items()}
            self.input_size: tuple[Any, ...] = tuple(int(size) for size in texts["input"])
            self.batch: int | None = None
        except (ValueError, TypeError, KeyError, AttributeError):  # a file from elsewhere
            shape = _variables(path)[module.get_info()["inputNames"][0]].shape
            self.input_size = tuple(size if size > 0 else "any" for size in shape[1:])
            self.batch = max(shape[0], 1)

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return copies of the outputs, whose memory is MNN's."""
        import MNN

        with self._one_at_a_time:
            found = self._module.onForward([MNN.expr.const(images, list(images.shape), MNN.expr.NCHW)])
            plain = [
                output if output.data_format == MNN.expr.NCHW else MNN.expr.convert(output, MNN.expr.NCHW)
                for output in found
            ]
            return [np.array(output.read()) for output in plain]


def _variables(path: Path) -> dict[str, Any]:
    """Return the results of all operators of a file by name."""
    with quiet_native():
        import MNN

        return dict(MNN.expr.load_as_dict(str(path)))


def _in_pytorch(operator: str, graph: Any) -> str:
    """Return ONNX's name of an operator and PyTorch's for the first node that has it."""
    from ghostnet.deploy.targets.onnx import in_pytorch

    return next((in_pytorch(node) for node in graph.node if node.op_type == operator), operator)
