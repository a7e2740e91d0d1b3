"""Writing a network for a runtime, with proof that the file computes the same.

Targets are entries of `TARGETS`; today "onnx" (opset 18, one file, dynamic batch, checked in ONNX Runtime).
A file whose parity is above the tolerance is never left on disk.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ghostnet.deploy.optimize import optimize, random_input, relative_error
from ghostnet.deploy.session import load
from ghostnet.errors import InputError, unknown_name
from ghostnet.files import atomic_write, refuse_overwrite

OPSET = 18


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What was written: where, how large, and how far it is from the PyTorch network.

    Attributes:
        path: the finished file.
        target: "onnx".
        bytes: file size.
        relative_error: largest output difference over the largest output, random input, batches of 1 and 3.
        input_size: shape of one input without the batch.
        operators: how often each operator occurs in the graph.
    """

    path: str
    target: str
    bytes: int
    relative_error: float
    input_size: tuple[int, ...]
    operators: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Return one line for people."""
        return (
            f"{self.path}: {self.target}, {self.bytes / 1e6:.2f} MB, "
            f"{sum(self.operators.values())} operators, "
            f"relative error against PyTorch {self.relative_error:.1e}"
        )


def _write_onnx(
    model: nn.Module, path: Path, example: torch.Tensor, metadata: Mapping[str, str]
) -> dict[str, int]:
    import onnx

    with _quiet():
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
    onnx.helper.set_model_props(proto, dict(metadata))
    for node in proto.graph.node:
        del node.metadata_props[:]  # the exporter's stack traces name paths of this machine
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())
    operators: dict[str, int] = {}
    for node in proto.graph.node:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    return dict(sorted(operators.items()))


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep the exporter's chatter off the console; its errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


TARGETS: dict[str, Callable[[nn.Module, Path, torch.Tensor, Mapping[str, str]], dict[str, int]]] = {
    "onnx": _write_onnx,
}


def export(
    model: nn.Module,
    target: str,
    path: str | os.PathLike[str],
    *,
    input_size: Sequence[int] = (3, 224, 224),
    optimized: bool = True,
    tolerance: float = 1e-4,
    force: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> ExportReport:
    """Write `model` to one file for a runtime and check the file against PyTorch.

    Args:
        model: a module that takes images `(N, C, H, W)` and returns one tensor; it is untouched.
        target: a key of `TARGETS`: "onnx".
        path: the file to write.
        input_size: shape of one input without the batch.
        optimized: apply the exact rewrites of `optimize` first.
        tolerance: largest allowed relative error, > 0.
        force: overwrite an existing file.
        metadata: texts to store in the file, such as the origin of the weights.

    Returns:
        An `ExportReport` with the error that was measured.

    Raises:
        InputError: unknown target, missing extra, existing file, or a model that cannot run or be exported.
        RuntimeError: the error is above `tolerance`; nothing is written then.

    Example:
        >>> export(nn.Conv2d(3, 4, 3), "onnx", "net.onnx", input_size=(3, 8, 8))  # doctest: +SKIP
    """
    if target not in TARGETS:
        raise unknown_name("export target", target, TARGETS)
    if not tolerance > 0:
        raise InputError(f"tolerance (={tolerance}) must be above 0; 1e-4 suits float32")
    require_extra("onnx", "onnxscript", "onnxruntime")
    refuse_overwrite(path, force=force)
    sizes = tuple(input_size)
    eager = copy.deepcopy(model).eval().cpu()
    _run(eager, sizes, batch=2)
    network = optimize(eager, input_size=sizes) if optimized else eager
    with atomic_write(path) as temporary:
        try:
            operators = TARGETS[target](network, temporary, random_input(eager, (2, *sizes)), metadata or {})
        except OSError:
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"the model cannot be exported to {target}: {reason}; remove data-dependent code"
            ) from error
        error_found = _parity(eager, temporary, sizes)
        if not error_found <= tolerance:
            raise RuntimeError(
                f"the {target} file differs from PyTorch by {error_found:.1e} "
                f"(tolerance {tolerance:.1e}); nothing is kept"
            )
        size = temporary.stat().st_size
    return ExportReport(os.fspath(path), target, size, error_found, sizes, operators)


def require_extra(*modules: str) -> None:
    """Raise with the pip command unless all `modules` of the extra `export` are installed.

    Raises:
        InputError: one is missing.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise InputError(f'{module} is not installed; run: pip install "ghostnet[export]"')


def _run(model: nn.Module, input_size: tuple[int, ...], *, batch: int) -> torch.Tensor:
    try:
        with torch.no_grad():
            output = model(random_input(model, (batch, *input_size)))
    except (RuntimeError, ValueError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"the model does not run with input_size {input_size}: {reason}") from error
    if not isinstance(output, torch.Tensor):
        raise InputError(f"the model returns {type(output).__name__}; export needs one tensor")
    return output


def _parity(model: nn.Module, path: Path, input_size: tuple[int, ...]) -> float:
    session = load(path)
    errors = []
    for batch in (1, 3):
        found = torch.from_numpy(session.predict(random_input(model, (batch, *input_size)).numpy()))
        errors.append(relative_error(_run(model, input_size, batch=batch), found))
    return max(errors)
