"""Writing a network for a runtime, with proof that the files compute the same.

Targets are entries of `targets.TARGETS`. An export is the target's files and a manifest beside them; files whose
parity is above the tolerance are never left on disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ghostnet
from ghostnet.deploy.answers import Answer, Listed, answer_of, refuse_input_name
from ghostnet.deploy.compare import does_not_run, random_input, relative_error, takes_no_negative_values_
from ghostnet.deploy.manifest import (
    Manifest,
    describe_files,
    float32_passes,
    manifest_path,
    plain_value,
    without_float32_passes,
)
from ghostnet.deploy.optimize import optimize, passes_of
from ghostnet.deploy.passes import default_passes
from ghostnet.deploy.passes.winograd import refuse_winograd
from ghostnet.deploy.places import places_for
from ghostnet.deploy.session import open_files
from ghostnet.deploy.targets import TARGETS, Target, require_to_write, target_named
from ghostnet.deploy.targets.target import NotRunHereError, files_of, runs_here
from ghostnet.deploy.unsupported import explained, refuse_data_dependent
from ghostnet.errors import InputError
from ghostnet.files import DiskFullError, atomic_group, size_in_bytes
from ghostnet.image_facts import IMAGE_FACTS
from ghostnet.nn.copies import copy_model, with_plain_weights_
from ghostnet.nn.eager import eager_module

_SEVERAL = 3  # images that files which take any number are compared at
_TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.2}


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What was written: where, how large, and how far it is from the PyTorch network.

    Attributes:
        path: the finished file that users name.
        target: key of `TARGETS`.
        bytes: size of all files but the manifest.
        relative_error: largest output difference over the largest output, random input, over `batches`; None where
            nothing here could compute the file's outputs.
        input_size: shape of one input without the batch.
        outputs: shape of each output without the batch, by name.
        operators: how often each operator occurs in the graph.
        files: every file that was written, the manifest last.
        batches: batch sizes that were compared.
        checked_by: what computed the file's outputs: the runtime, or what stands in for one of another system; why
            there are none where nothing did.
    """

    path: str
    target: str
    bytes: int
    relative_error: float | None
    input_size: tuple[int, ...]
    outputs: dict[str, tuple[int, ...]]
    operators: dict[str, int]
    files: list[str]
    batches: list[int]
    checked_by: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Return one line for people."""
        found = f"{self.path}: {self.target}, {self.bytes / 1e6:.2f} MB, {sum(self.operators.values())} operators, "
        several = ""
        if len(self.outputs) > 1:
            sizes = (f"{name} {'x'.join(map(str, size))}" for name, size in self.outputs.items())
            several = f"\noutputs: {', '.join(sizes)}"
        if self.relative_error is None:
            return f"{found}parity {self.checked_by}{several}"
        how = "" if self.checked_by == TARGETS[self.target].runtime else f" (computed by {self.checked_by})"
        return f"{found}relative error against PyTorch {self.relative_error:.1e}{how}{several}"


def export(
    model: nn.Module,
    target: str,
    path: str | os.PathLike[str],
    *,
    input_size: Sequence[int] = (3, 224, 224),
    passes: Sequence[str] | None = None,
    optimized: bool = True,
    precision: str = "fp32",
    tolerance: float | None = None,
    force: bool = False,
    metadata: Mapping[str, str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> ExportReport:
    """Write `model` for a runtime, check the files against PyTorch, and write a manifest beside them.

    Args:
        model: a module that takes images `(N, C, H, W)` and returns a floating tensor, or a list or dictionary of such,
            with the batch as their first axis; it is untouched. Weights in half or double precision are written in
            float32.
        target: a key of `TARGETS`: "onnx", "openvino", "litert", "ncnn", "mnn", "c", "coreml", "executorch".
        path: the file to write, with the target's ending; OpenVINO (.xml), ncnn (.param) and C (.c) keep their weights
            in a .bin beside it, and Core ML's (.mlpackage) is a folder. The manifest is `<path>.json`.
        input_size: shape of one input without the batch.
        passes: names of the rewrites for `optimize`; None takes the target's own set.
        optimized: apply rewrites at all.
        precision: of weights and arithmetic in the file: "fp32", "fp16" for "coreml" and for "c" (weights alone), or
            "int8" for "c", which needs no calibration; `quantize` writes int8 for the others.
        tolerance: largest allowed relative error, > 0; None takes 1e-4, for fp16 2e-2, for int8 0.2.
        force: overwrite existing files.
        metadata: texts to keep, such as the origin of the weights; other values are kept as text.
        preprocessing: how images are prepared (`mean`, `std`, `image_size`, …); None takes what the network's own
            `ghostnet_info` says.
        classes: names of a classifier's classes in order, one each; None takes the network's own.
        output_names: of the tensors that the model returns, in order, as the file and `Session.predict` name them; None
            takes a dictionary's keys, and "output_0", "output_1", … for a list.

    Returns:
        An `ExportReport` with the error that was measured.

    Raises:
        InputError: unknown target, missing extra, wrong ending, existing file, a place that cannot be written, facts
            that fit no manifest or another number of outputs, or a model that cannot run or that the target cannot
            express.
        RuntimeError: the error is above `tolerance`. Nothing is written in any of these cases.

    Example:
        >>> export(nn.Conv2d(3, 4, 3), "onnx", "net.onnx", input_size=(3, 8, 8))  # doctest: +SKIP
    """
    chosen = target_named(target, precision)
    tolerance = _TOLERANCES[precision] if tolerance is None else tolerance
    if not tolerance > 0:
        raise InputError(f"tolerance (={tolerance}) must be above 0; 1e-4 suits float32")
    if passes is not None and not optimized:
        raise InputError("passes are given but optimized is false; leave out one of them")
    require_to_write(chosen)
    if precision != "fp32":
        passes = narrow_passes(model, target, passes, precision=precision, optimized=optimized)
    files = places_for(chosen, Path(path), force=force)
    sizes = tuple(input_size)
    eager = eager_copy(model)
    answer = _first_run(eager, sizes, output_names)
    refuse_input_name(answer.names)
    facts = _image_facts(model, preprocessing, classes, answer)
    texts = {str(name): str(value) for name, value in (metadata or {}).items()}
    with writable(files[0]) as folder:
        network = optimize(eager, target=target, passes=passes, input_size=sizes) if optimized else eager
        temporary = folder / files[0].name
        operators = _write(chosen, (network, eager), temporary, sizes, texts, answer)
        parity = _parity(eager, chosen, temporary, sizes, tolerance)
        batch = "N" if _SEVERAL in parity["batches"] else 1  # a network's own code may fix it
        written = files_of(chosen, temporary)
        manifest = Manifest(
            target=target,
            files=describe_files(written),
            input={"shape": [batch, *sizes], "dtype": "float32", "layout": "NCHW"},
            output={"shape": [batch, *next(iter(answer.sizes.values()))], "dtype": "float32"},
            outputs=None if answer.alone else _described(answer, batch),
            precision=precision,
            **facts,
            passes=passes_of(network),
            optimized=optimized,
            parity=parity,
            versions=_versions(chosen),
            metadata=texts,
        )
        manifest.write(manifest_path(temporary))
        size = sum(size_in_bytes(file) for file in written)
    names = [os.fspath(file) for file in (*files, manifest_path(files[0]))]
    found = parity["relative_error"], sizes, answer.sizes, operators, names, parity["batches"], parity["by"]
    return ExportReport(os.fspath(path), target, size, *found)


def eager_copy(model: nn.Module) -> nn.Module:
    """Return a copy that can be written: for inference, in float32 on the CPU, every weight a plain one."""
    return with_plain_weights_(copy_model(eager_module(model, "export")).eval().cpu().float())


def narrow_passes(
    model: nn.Module, target: str, passes: Sequence[str] | None, *, precision: str, optimized: bool
) -> Sequence[str] | None:
    """Return `passes`, or the target's own set without those that need float32, for files of another precision.

    Raises:
        InputError: such a pass is named, or made the network.
    """
    exact = float32_passes(passes) or float32_passes(passes_of(model))
    if exact:
        raise InputError(
            f"pass {exact[0]!r} needs float32, which {precision} files do not have; leave it out"
        )
    if passes is not None or not optimized:
        return passes
    return without_float32_passes(default_passes(target))


@contextlib.contextmanager
def writable(path: Path) -> Iterator[Path]:
    """Open the temporary folder of the files; a place that cannot be written is the user's to change.

    Args:
        path: the file to be there at the end of the block, with those beside it.

    Raises:
        InputError: it cannot be written.

    Example:
        >>> with writable(Path("net.xml")) as folder:  # doctest: +SKIP
        ...     (folder / "net.xml").write_text("<net/>")
    """
    try:
        with atomic_group(path) as folder:
            yield folder
    except DiskFullError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot write {path}: {reason}; name another place") from error


def _write(
    target: Target,
    networks: tuple[nn.Module, nn.Module],
    path: Path,
    input_size: tuple[int, ...],
    texts: Mapping[str, str],
    answer: Answer,
) -> dict[str, int]:
    """Write the files of the first network; a failure names a layer of the second, which is the user's."""
    network, eager = networks
    refuse_winograd(network, target.name, target.runtime)
    example = random_input(eager, (2, *input_size))
    if target.traces:
        refuse_data_dependent(network, example, target.runtime)
    try:
        listed = network if answer.alone else Listed(network)
        return target.write(listed, path, example, texts, answer.names)
    except (InputError, OSError):
        raise
    except Exception as error:
        raise explained(error, eager, example, target.runtime) from error


def _run(
    model: nn.Module, input_size: tuple[int, ...], *, batch: int, names: Sequence[str] | None = None
) -> Answer:
    try:
        answer = answer_of(model, random_input(model, (batch, *input_size)), names)
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise does_not_run(input_size, error) from error
    if not all(torch.isfinite(tensor).all() for tensor in answer):
        raise _NotFiniteError(
            "the network answers random images with NaN or infinity, normal ones and ones from 0 to 1; "
            "its weights may be damaged, or it takes values of another range, which it should make of these itself"
        )
    return answer


class _NotFiniteError(InputError):
    """A network's answer to random images holds NaN or infinity."""


def _first_run(model: nn.Module, input_size: tuple[int, ...], names: Sequence[str] | None) -> Answer:
    """Return the answer to two random images; a network that needs values from 0 to 1 is marked so."""
    try:
        return _run(model, input_size, batch=2, names=names)
    except _NotFiniteError:
        takes_no_negative_values_(model)
        return _run(model, input_size, batch=2, names=names)


def _described(answer: Answer, batch: int | str) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": [batch, *size], "dtype": "float32"} for name, size in answer.sizes.items()
    ]


def _parity(
    model: nn.Module, target: Target, path: Path, input_size: tuple[int, ...], tolerance: float
) -> dict[str, Any]:
    """Compare the files with PyTorch at 1 image, and at 3 where the files take any number.

    A runtime of another operating system has a stand-in, which may lack operators; then nothing is compared.

    Raises:
        RuntimeError: the shapes differ, or the error is above the tolerance.
    """
    runner = open_files(target, path, threads=target.threads_in_use or 1, precision="fp32")
    several = target.dynamic_batch and runner.batch is None
    batches, errors = [1, _SEVERAL] if several else [1], []
    for batch in batches:
        expected = _run(model, input_size, batch=batch)
        try:
            found = runner.run(random_input(model, (batch, *input_size)).numpy())
        except NotRunHereError as missing:
            why = f"not checked here ({missing} is not known): check it where {target.runtime} runs"
            return {"relative_error": None, "tolerance": tolerance, "batches": [], "by": why}
        wanted = [tuple(tensor.shape) for tensor in expected]
        if [output.size for output in found] != [math.prod(shape) for shape in wanted]:
            shapes = ", ".join(str(output.shape) for output in found)
            raise RuntimeError(
                f"the {target.name} file gives {shapes} where PyTorch gives {', '.join(map(str, wanted))}; "
                "nothing is kept"
            )
        errors += [
            relative_error(tensor, torch.from_numpy(output.reshape(shape)))
            for tensor, output, shape in zip(expected, found, wanted, strict=True)
        ]
    if not max(errors) <= tolerance:
        raise RuntimeError(
            f"the {target.name} file differs from PyTorch by {max(errors):.1e} "
            f"(tolerance {tolerance:.1e}); nothing is kept"
        )
    by = target.runtime if runs_here(target) else f"PyTorch from the file's program, not by {target.runtime}"
    return {"relative_error": max(errors), "tolerance": tolerance, "batches": batches, "by": by}


def _image_facts(
    model: nn.Module,
    preprocessing: Mapping[str, Any] | None,
    classes: Sequence[str] | None,
    answer: Answer,
) -> dict[str, Any]:
    """Return `preprocessing` and `classes` for the manifest: what was given, else what the network carries.

    Raises:
        InputError: values that a manifest cannot hold, or not one name for each output.
    """
    known = getattr(model, "ghostnet_info", None) or {}
    own = {key: known[key] for key in IMAGE_FACTS if key in known}
    facts = own if preprocessing is None else dict(preprocessing)
    if classes is not None and not answer.alone:
        raise InputError("classes are of a network that returns one tensor; leave them out")
    (size, *_) = answer.sizes.values()
    outputs = size[0] if size else 1
    names = known.get("classes") if classes is None and answer.alone else classes
    if isinstance(names, str):
        raise InputError(f"classes (={names!r}) must be a list of names, one for each output, not one text")
    names = None if names is None else [str(name) for name in names]
    if names is not None and len(names) != outputs:
        if classes is not None:
            raise InputError(
                f"{len(names)} classes are named and the network has {outputs} outputs; name each"
            )
        names = None  # those of an earlier head
    return {"preprocessing": plain_value("preprocessing", facts) or None, "classes": names}


def _versions(target: Target) -> dict[str, str]:
    found = {
        "ghostnet": ghostnet.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for package in (target.package, *target.write_modules):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
