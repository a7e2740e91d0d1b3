"""Core ML packages (.mlpackage, a folder; ML programs for iOS 15 and macOS 12 on), and Core ML where it is: on macOS.

coremltools writes packages anywhere, but only macOS runs them. Elsewhere a package is checked by computing the program
that it holds with PyTorch (`coreml_program.py`). A package takes one image a call, since the Neural Engine plans for
known sizes; a session calls it for each image of a batch.
"""

from __future__ import annotations

import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostnet.deploy.targets.target import ALONE, Runner
from ghostnet.errors import InputError
from ghostnet.quiet import quiet_native, quiet_python

if TYPE_CHECKING:
    import torch
    from torch import nn

_TOOLS_OWN = "com.github.apple."  # keys of the texts that coremltools adds
_HANDLES = "executorch_debug_handle_mapping.json"  # is of use to ExecuTorch's own debugger alone
_MISSING = re.compile(r"(?:convert function for op '|Unsupported fx node [^,]*, kind )(\w+)")


class CoreML:
    """The target "coreml".

    Args:
        half: weights and arithmetic in float16, which is all that the Neural Engine has.
    """

    name = "coreml"
    runtime = "Core ML"
    kind = "Core ML"
    extra = "mobile"
    package = "coremltools"
    write_modules: tuple[str, ...] = ()
    open_module = "coremltools"
    suffixes: tuple[str, ...] = (".mlpackage",)
    writes_folder: bool = True
    precisions: tuple[str, ...] = ("fp32",)
    traces = False
    dynamic_batch = False
    system: str | None = "Darwin"
    threads_in_use: int | None = None

    def __init__(self, *, half: bool = False) -> None:
        self._half = half

    def write(
        self,
        model: nn.Module,
        path: Path,
        example: torch.Tensor,
        metadata: Mapping[str, str],
        outputs: Sequence[str] = ALONE,
    ) -> dict[str, int]:
        """Write one package; `metadata` goes into its texts.

        Raises:
            InputError: the name has another ending, which Core ML does not open.
            ValueError: coremltools lacks an operator, with PyTorch's name of it.
        """
        if path.suffix != self.suffixes[0]:
            raise InputError(f"{path.name} must end in {self.suffixes[0]} for Core ML")
        with quiet_python(), quiet_native():
            import coremltools
            import torch

            program = torch.export.export(model, (example[:1],)).run_decompositions({})
            arithmetic = coremltools.precision.FLOAT16 if self._half else coremltools.precision.FLOAT32
            try:
                package = coremltools.convert(
                    program,
                    convert_to="mlprogram",
                    compute_precision=arithmetic,
                    minimum_deployment_target=coremltools.target.iOS15,
                    inputs=[coremltools.TensorType("images", shape=(1, *example.shape[1:]))],
                    outputs=[coremltools.TensorType(name, dtype=np.float32) for name in outputs],
                    skip_model_load=True,
                )
            except Exception as error:
                missing = _MISSING.search(str(error))
                if missing is None:
                    raise
                raise ValueError(f"Core ML has no operator aten::{missing[1]}") from error
            package.user_defined_metadata.update(metadata)
            package.save(str(path))
        (path / _HANDLES).unlink(missing_ok=True)
        main = package.get_spec().mlProgram.functions["main"]
        kinds = (step.type for step in main.block_specializations[main.opset].operations)
        return dict(sorted(Counter(kind for kind in kinds if kind != "const").items()))

    def open(self, path: Path, *, threads: int, precision: str) -> Runner:  # noqa: ARG002  (Core ML decides)
        """Load a package into Core ML, or, elsewhere than on macOS, its program into PyTorch."""
        with quiet_python(), quiet_native():
            import coremltools

            spec = coremltools.utils.load_spec(str(path))
            if platform.system() != self.system:
                from ghostnet.deploy.targets.coreml_program import Program

                return Program(path, spec)
            return CoreMLRunner(coremltools.models.MLModel(str(path)), spec)


class CoreMLRunner:
    """A package in Core ML, which chooses between processor, GPU and Neural Engine itself."""

    def __init__(self, model: Any, spec: Any) -> None:
        self._model = model
        images = spec.description.input[0]
        self._input = images.name
        self.outputs = tuple(output.name for output in spec.description.output)
        batch, *size = (int(number) for number in images.type.multiArrayType.shape)
        self.input_size: tuple[Any, ...] = tuple(size)
        self.batch: int | None = batch
        texts = spec.description.metadata.userDefined
        self.metadata = {key: text for key, text in texts.items() if not key.startswith(_TOOLS_OWN)}

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the outputs."""
        found = self._model.predict({self._input: images})
        return [np.asarray(found[name]) for name in self.outputs]
