"""ONNX files (opset 18, one file, dynamic batch) and ONNX Runtime on the CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostnet.quiet import quiet_python

if TYPE_CHECKING:
    import torch
    from torch import nn

OPSET = 18


class Onnx:
    """The target "onnx"."""

    name = "onnx"
    runtime = "ONNX Runtime"
    kind = "ONNX"
    extra = "export"
    package = "onnxruntime"
    write_modules: tuple[str, ...] = ("onnx", "onnxscript")
    open_module = "onnxruntime"
    suffixes: tuple[str, ...] = (".onnx",)
    precisions: tuple[str, ...] = ("fp32",)
    traces = False
    dynamic_batch = True

    def write(
        self, model: nn.Module, path: Path, example: torch.Tensor, metadata: Mapping[str, str]
    ) -> dict[str, int]:
        """Write one file; `metadata` goes into its properties."""
        import onnx

        proto = exported(model, path, example)
        onnx.helper.set_model_props(proto, dict(metadata))
        for node in proto.graph.node:
            del node.metadata_props[:]  # the exporter's stack traces name paths of this machine
        onnx.checker.check_model(proto)
        path.write_bytes(proto.SerializeToString())
        return dict(sorted(Counter(node.op_type for node in proto.graph.node).items()))

    def open(self, path: Path, *, threads: int, precision: str) -> OnnxRunner:  # noqa: ARG002  (fp32 only)
        """Load a file into ONNX Runtime."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        return OnnxRunner(
            onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        )


def exported(model: nn.Module, path: Path, example: torch.Tensor) -> Any:
    """Return what PyTorch's exporter makes of the network, with its notes on where each node comes from.

    Args:
        model: in eval mode.
        path: a file that is written on the way.
        example: an input `(N, C, H, W)`; the batch stays free.
    """
    import onnx
    import torch

    from ghostnet.deploy.optimize import passes_of
    from ghostnet.deploy.passes.onnx_pooling import with_global_pools_

    with quiet_python():
        torch.onnx.export(
            model,
            (example,),
            str(path),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
        )
    proto = onnx.load(str(path))
    if passes_of(model):  # a plain export stays what PyTorch makes of it
        with_global_pools_(proto.graph)
    return proto


class OnnxRunner:
    """A file in ONNX Runtime."""

    def __init__(self, session: Any) -> None:
        self._session = session
        images = session.get_inputs()[0]
        self._name = images.name
        self.input_size: tuple[Any, ...] = tuple(images.shape[1:])
        self.batch: int | None = images.shape[0] if isinstance(images.shape[0], int) else None
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the first output."""
        return np.asarray(self._session.run(None, {self._name: images})[0])
