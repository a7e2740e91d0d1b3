"""ONNX files (opset 18, one file, dynamic batch) and ONNX Runtime on the CPU."""

from __future__ import annotations

import contextlib
import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostnet.deploy.targets.by_batch import ByBatch
from ghostnet.deploy.targets.target import ALONE, require_one_input
from ghostnet.quiet import quiet_python

if TYPE_CHECKING:
    import torch
    from torch import nn

OPSET = 18
BATCH_AXIS = "batch"
_OPEN_BATCH = "ghostnet_open_batch"  # in a file's properties: its batch is open, so nobody has to look
_FX_OPERATOR = re.compile(r"\btarget=torch\.ops\.([\w.]+)")
_FX_NODE = "pkg.torch.onnx.fx_node"  # the exporter's note on a node
_SEVERAL = 2  # as any number above 1
_FLOAT32 = "tensor(float)"  # in ONNX Runtime's words


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
        """Write one file; `metadata` goes into its properties."""
        import onnx

        from ghostnet.deploy.optimize import passes_of
        from ghostnet.deploy.passes.gathers import count_from_behind_
        from ghostnet.deploy.passes.onnx_gates import spread_gates_
        from ghostnet.deploy.passes.onnx_places import place_by_products_

        proto = exported(model, path, example, outputs)
        batch = {_OPEN_BATCH: BATCH_AXIS}
        fixed = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value
        if fixed:  # the network's own code compares shapes, as YOLO's heads do
            proto, batch = exported(model, path, example[:1], outputs, open_batch=False), {}
        count_from_behind_(proto)
        if passes_of(model):
            place_by_products_(proto)
            spread_gates_(proto)
        onnx.helper.set_model_props(proto, {**metadata, **batch})
        for node in proto.graph.node:
            del node.metadata_props[:]  # the exporter's stack traces name paths of this machine
        onnx.checker.check_model(proto)
        path.write_bytes(proto.SerializeToString())
        return dict(sorted(Counter(node.op_type for node in proto.graph.node).items()))

    def open(self, path: Path, *, threads: int, precision: str) -> OnnxRunner:  # noqa: ARG002  (fp32 only)
        """Load a file into ONNX Runtime."""
        return OnnxRunner(path, threads)


def exported(
    model: nn.Module,
    path: Path,
    example: torch.Tensor,
    outputs: Sequence[str] = ALONE,
    *,
    open_batch: bool = True,
) -> Any:
    """Return what PyTorch's exporter makes of the network, with its notes on where each node comes from.

    Args:
        model: in eval mode.
        path: a file that is written on the way.
        example: an input `(N, C, H, W)`.
        outputs: names of what it returns, a tensor or a tuple of them.
        open_batch: leave the batch free; else it is the example's.
    """
    import onnx
    import torch

    from ghostnet.deploy.optimize import passes_of
    from ghostnet.deploy.passes.exporter_gaps import KnownForms
    from ghostnet.deploy.passes.onnx_pooling import with_global_pools_

    _read_operators_once()
    with quiet_python(), KnownForms():
        torch.onnx.export(
            model,
            (example,),
            str(path),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim(BATCH_AXIS)},) if open_batch else None,
            external_data=False,
            verbose=False,
            input_names=["images"],
            output_names=list(outputs),
        )
    proto = onnx.load(str(path))
    if passes_of(model):  # a plain export stays what PyTorch makes of it
        with_global_pools_(proto.graph)
    return proto


@functools.cache
def _read_operators_once() -> None:
    """Let the exporter keep its list of operators, whose sources it parses at each export: most of a small one's time.

    The list has no arguments and stays the same. Where a version of PyTorch has it elsewhere, nothing happens.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from torch.onnx._internal.exporter import _registration

        operators = _registration.onnxscript_apis
        operators.get_torchlib_ops = functools.cache(operators.get_torchlib_ops)


def in_pytorch(node: Any) -> str:
    """Return ONNX's name of a node's operator and, where the exporter noted it, PyTorch's."""
    notes = {note.key: note.value for note in node.metadata_props}
    found = _FX_OPERATOR.search(notes.get(_FX_NODE, ""))
    return f"{node.op_type} ({found[1]})" if found else str(node.op_type)


class _OneByOne:
    """A session for single images that takes any number of them.

    Args:
        session: ONNX Runtime's.
    """

    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, outputs: Sequence[str] | None, given: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs, as ONNX Runtime's own session does."""
        ((name, images),) = given.items()
        parts = [self._session.run(outputs, {name: image[None]}) for image in images]
        return [np.concatenate(each) for each in zip(*parts, strict=True)]


def _state_of(path: Path) -> tuple[int, ...] | None:
    """Return what tells one state of a file from another; None where there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


class OnnxRunner:
    """A file in ONNX Runtime.

    ONNX Runtime would keep the bytes of a file that it is handed, so it reads the file itself: now, and for the second
    of `ByBatch` when that is wanted. By then the file may be gone, or another network may have taken its name.

    Args:
        path: the file.
        threads: threads inside one operator.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self._path, self._threads, self._axis = path.absolute(), threads, BATCH_AXIS
        self._loaded = _state_of(self._path)
        single = self._session(1)
        require_one_input([given.name for given in single.get_inputs()])
        images = single.get_inputs()[0]
        if images.type != _FLOAT32:
            raise ValueError(f"its input {images.name} is {images.type}, not {_FLOAT32}")
        self.metadata: dict[str, str] = dict(single.get_modelmeta().custom_metadata_map)
        count: int | str = self.metadata.pop(_OPEN_BATCH, images.shape[0])
        if count == 1:  # a foreign file: was it open before it was set to 1?
            count = self._session(None).get_inputs()[0].shape[0]
        self.batch: int | None = count if isinstance(count, int) else None
        self._axis = count if isinstance(count, str) else BATCH_AXIS
        self._name = images.name
        self.outputs = tuple(given.name for given in single.get_outputs())
        self.input_size: tuple[Any, ...] = tuple(images.shape[1:])
        self._single = single
        self._sessions = ByBatch(self._session_now, self.batch)
        # an axis of another name was not set to 1, so the first session takes any number
        self._sessions.put(1 if self._axis == BATCH_AXIS else _SEVERAL, single)

    def _session_now(self, batch: int | None) -> Any:
        if _state_of(self._path) != self._loaded:
            return _OneByOne(self._single)
        return self._session(batch)

    def _session(self, batch: int | None) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        options.log_severity_level = 3
        # a session's threads would go on spinning for a while after a call, on cores that another session wants
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if batch is not None:
            options.add_free_dimension_override_by_name(self._axis, batch)
        return onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the outputs."""
        return [np.asarray(output) for output in self._sessions[len(images)].run(None, {self._name: images})]
