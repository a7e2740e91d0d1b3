"""int8 for LiteRT by ai-edge-quantizer: weights per channel, activations per tensor, input and output in float."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import numpy as np

from ghostnet.deploy.quantization.last_steps import Step, behind_the_layers
from ghostnet.quiet import quiet_native, quiet_python

_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL")
_WEIGHTED = (*_LAYERS, "TRANSPOSE_CONV")


class LiteRTQuantiser:
    """Quantises one .tflite file."""

    def __init__(self, path: Path, images: np.ndarray) -> None:
        with quiet_python(), quiet_native():
            from ai_edge_litert.interpreter import Interpreter
            from ai_edge_quantizer import quantizer, recipe

            interpreter = Interpreter(str(path))
            ((name, details),) = interpreter.get_signature_list().items()
            self._interpreter, self._path = interpreter, path
            feeds = [{details["inputs"][0]: images[start : start + 1]} for start in range(len(images))]
            self._recipe = recipe.static_wi8_ai8()
            calibrating = quantizer.Quantizer(str(path), self._recipe)
            self._ranges = calibrating.calibrate({name: feeds}, num_threads=1)

    def layers(self) -> list[str]:
        """Return the names of the layers' outputs, which is how ai-edge-quantizer names operators."""
        return [step.name for step in self._steps() if step.operator in _LAYERS]

    def write(self, path: Path, *, keep: Collection[str] = (), only: str | None = None) -> None:
        """Write one file."""
        from ai_edge_quantizer import quantizer, recipe_manager

        with quiet_python(), quiet_native():
            made = quantizer.Quantizer(str(self._path), self._recipe)
            for end in ("INPUT", "OUTPUT"):  # callers give and get float
                made.update_quantization_recipe(
                    regex=".*",
                    operation_name=end,
                    algorithm_key=recipe_manager.AlgorithmName.NO_QUANTIZE,
                )
            kept = [name for name in self.layers() if name != only] if only is not None else keep
            for name in (*kept, *sorted(behind_the_layers(self._steps(), _WEIGHTED))):
                made.update_quantization_recipe(
                    regex=f"^{re.escape(name)};",
                    operation_name="*",
                    algorithm_key=recipe_manager.AlgorithmName.NO_QUANTIZE,
                )
            made.quantize(self._ranges, enable_progress_report=False).export_model(path, overwrite=True)

    def _steps(self) -> list[Step]:
        names = {tensor["index"]: tensor["name"] for tensor in self._interpreter.get_tensor_details()}
        return [
            Step(
                names[int(step["outputs"][0])],
                step["op_name"],
                tuple(map(int, step["inputs"])),
                tuple(map(int, step["outputs"])),
            )
            for step in self._interpreter._get_ops_details()
        ]
