"""OpenVINO files (.xml and .bin beside it, weights in float32, dynamic batch) and OpenVINO on the CPU.

The arithmetic is float32, or bfloat16 where the processor has it (AVX-512 BF16, AMX); the files are the
same for both.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostnet import openvino_core
from ghostnet.deploy.targets.by_batch import ByBatch
from ghostnet.deploy.targets.target import ALONE, require_one_input
from ghostnet.errors import InputError
from ghostnet.quiet import quiet_native, quiet_python

if TYPE_CHECKING:
    import torch
    from torch import nn

_TEXTS = "ghostnet"  # key of our texts in the file's runtime information
_INFERENCE_PRECISION = {"fp32": "f32", "bf16": "bf16"}


class OpenVINO:
    """The target "openvino"."""

    name = "openvino"
    runtime = "OpenVINO"
    kind = "OpenVINO"
    extra = "export"
    package = "openvino"
    write_modules: tuple[str, ...] = ()
    open_module = "openvino"
    suffixes: tuple[str, ...] = (".xml", ".bin")
    writes_folder: bool = False
    precisions: tuple[str, ...] = ("fp32", "bf16")
    traces = True
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
        """Write both files; `metadata` goes into the .xml."""
        from ghostnet.deploy.passes.exporter_gaps import KnownForms
        from ghostnet.deploy.passes.gathers import FewByProducts
        from ghostnet.deploy.targets.openvino_winograd import finish_winograd_

        openvino = openvino_core.openvino()
        quiet = openvino_core.no_usage_reports(), quiet_python(), quiet_native()
        with quiet[0], quiet[1], quiet[2], FewByProducts(), KnownForms():
            converted = openvino.convert_model(
                model, example_input=example, input=[-1, *example.shape[1:]], share_weights=False
            )
            finish_winograd_(converted, model)
            converted.inputs[0].get_tensor().set_names({"images"})
            for output, name in zip(converted.outputs, outputs, strict=True):
                output.get_tensor().set_names({name})
            for key, text in metadata.items():
                converted.set_rt_info(text, [_TEXTS, key])
            openvino.save_model(converted, str(path), compress_to_fp16=False)
        return dict(sorted(Counter(node.get_type_name() for node in converted.get_ops()).items()))

    def open(self, path: Path, *, threads: int, precision: str) -> OpenVINORunner:
        """Compile the files for this processor."""
        core = openvino_core.core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise InputError("this processor has no bfloat16 arithmetic; use precision fp32")
        with quiet_native():
            network = core.read_model(str(path), str(path.with_suffix(".bin")))
        settings = {
            "INFERENCE_PRECISION_HINT": _INFERENCE_PRECISION[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        return OpenVINORunner(core, network, settings)


class OpenVINORunner:
    """A network in OpenVINO.

    Args:
        core: OpenVINO's.
        network: what it read from the files.
        settings: for compiling.
    """

    def __init__(self, core: Any, network: Any, settings: Mapping[str, Any]) -> None:
        self._core, self._network, self._settings = core, network, dict(settings)
        require_one_input([given.node.get_friendly_name() for given in network.inputs])
        self.outputs = tuple(_name(output) for output in network.outputs)
        shape = network.inputs[0].partial_shape
        sizes = tuple(size.get_length() if size.is_static else -1 for size in shape)
        self.input_size: tuple[Any, ...] = tuple(size if size > 0 else "any" for size in sizes[1:])
        self.batch: int | None = sizes[0] if sizes[0] > 0 else None
        self._one_at_a_time = threading.Lock()  # a request holds the images and the answers of one call
        self._requests = ByBatch(self._compiled, self.batch)
        _ = self._requests[self.batch or 1]  # a file that does not compile is refused when it is opened
        self.metadata: dict[str, str] = {}
        if network.has_rt_info([_TEXTS]):
            texts = network.get_rt_info()[_TEXTS]
            self.metadata = {key: value.astype(str) for key, value in texts.items()}

    def _compiled(self, batch: int | None) -> Any:
        network = self._network
        if batch is not None:
            network = network.clone()  # weights are shared
            images = network.inputs[0].partial_shape
            images[0] = batch
            network.reshape(images)
        with quiet_native():
            return self._core.compile_model(network, "CPU", self._settings).create_infer_request()

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return copies of the outputs; the request's own buffers are written again by the next call."""
        with self._one_at_a_time:
            request = self._requests[len(images)]
            request.infer([images], share_inputs=True)
            return [np.array(request.get_output_tensor(place).data) for place in range(len(self.outputs))]


def _name(output: Any) -> str:
    """Return an output's name; those of some files have none but their node's."""
    return str(min(output.names) if output.names else output.node.get_friendly_name())
