"""int8 for ONNX Runtime: quantise-dequantise pairs around operators, weights per channel, activations per tensor.

The ranges of all tensors are taken once and used for every variant of the file.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ghostnet.deploy.passes.onnx_gates import gather_gates_
from ghostnet.deploy.quantization.last_steps import Step, behind_the_layers
from ghostnet.quiet import quiet_native, quiet_python

LAYERS = ("Conv", "Gemm", "MatMul")
_WEIGHTED = (*LAYERS, "ConvTranspose")  # what has weights to round
_ACTIVATIONS = ("Relu", "Clip")
_BATCH = 16  # calibration keeps every intermediate map of a batch


class OnnxQuantiser:
    """Quantises one .onnx file.

    Args:
        path: the file, with one input.
        images: `(N, C, H, W)`, or inputs as the file takes them, one after the other.
        weight_bits: 7 or 8.
        among: names of the nodes that may be quantised; None takes all.
    """

    def __init__(
        self,
        path: Path,
        images: np.ndarray | Sequence[np.ndarray],
        weight_bits: int,
        among: Collection[str] | None = None,
    ) -> None:
        import onnx
        from onnxruntime.quantization import CalibrationMethod
        from onnxruntime.quantization.calibrate import create_calibrator
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        self._narrow = weight_bits < 8
        self._operators = sorted({*QLinearOpsRegistry, *QDQRegistry})
        with tempfile.TemporaryDirectory() as folder, quiet_python(), quiet_native():
            model = onnx.load(str(path))
            if gather_gates_(model):
                path = Path(folder) / "gathered.onnx"
                onnx.save(model, path)
            calibrator = create_calibrator(
                path,
                self._operators,
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=CalibrationMethod.MinMax,
            )
            for given in _batches(images):  # the calibrator keeps all outputs until they are merged
                calibrator.collect_data(_Reader(calibrator.infer_session, given))
            self._ranges = calibrator.compute_data()
            self._model = onnx.shape_inference.infer_shapes(model)
            behind = behind_the_layers(map(_step, model.graph.node), _WEIGHTED, _ACTIVATIONS)
            self._left = [
                node.name
                for node in model.graph.node
                if _has_no_scales(node)
                or node.name in behind
                or (among is not None and node.name not in among)
            ]

    def layers(self) -> list[str]:
        """Return the nodes' names."""
        left = set(self._left)
        return [
            node.name for node in self._model.graph.node if node.op_type in LAYERS and node.name not in left
        ]

    def write(self, path: Path, *, keep: Collection[str] = (), only: str | None = None) -> None:
        """Write one file."""
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        with quiet_python():
            quantizer = QDQQuantizer(
                copy.deepcopy(self._model),
                True,  # per channel
                self._narrow,  # weights of 7 bits
                QuantType.QInt8,
                QuantType.QUInt8,
                self._ranges,
                [only] if only is not None else [],
                [*keep, *self._left],
                self._operators,
                {"QuantizeBias": True},
            )
            quantizer.quantize_model()
        path.write_bytes(quantizer.model.model.SerializeToString())


def _has_no_scales(node: Any) -> bool:
    """Tell whether a layer stays in float: ONNX Runtime gives a bias of several groups the scales of one."""
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return node.op_type == "ConvTranspose" and groups > 1 and len(node.input) > 2


def _step(node: Any) -> Step:
    return Step(node.name, node.op_type, tuple(node.input), tuple(node.output))


def _batches(images: np.ndarray | Sequence[np.ndarray]) -> Iterable[np.ndarray]:
    if not isinstance(images, np.ndarray):
        return images
    return (images[start : start + _BATCH] for start in range(0, len(images), _BATCH))


class _Reader:
    """Gives a calibrator its batch once."""

    def __init__(self, session: Any, images: np.ndarray) -> None:
        name = session.get_inputs()[0].name
        self._feeds: Iterator[dict[str, np.ndarray]] = iter([{name: images}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next feed, None after the last."""
        return next(self._feeds, None)
