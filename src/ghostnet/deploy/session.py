"""Running an exported network: arrays in, arrays out, one interface for every runtime, no torch in between."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ghostnet.checks import check_integer
from ghostnet.deploy.manifest import (
    FILE_PRECISIONS,
    Manifest,
    check_files,
    manifest_path,
    read_manifest,
)
from ghostnet.deploy.targets import Runner, Target, require_to_open, target_named, target_of_file
from ghostnet.deploy.targets.target import files_of
from ghostnet.errors import InputError, unknown_name


class Session:
    """An exported network, loaded; make one with `load`.

    Attributes:
        path: the file it came from.
        files: all files that it came from.
        target: key of `deploy.TARGETS`.
        threads: threads inside one operator.
        precision: of the arithmetic; "int8" for a file that `quantize` wrote, "fp16" for one that was exported so.
        input_size: shape of one input without the batch, as the file states it.
        outputs: names of the outputs, in order.
        metadata: the texts that `export` stored.
        manifest: what `export` wrote beside the file; None for a file from elsewhere.
    """

    def __init__(
        self, runner: Runner, files: list[Path], target: Target, manifest: Manifest | None, **how: Any
    ) -> None:
        self._runner = runner
        self.path = files[0]
        self.files = files
        self.target = target.name
        self.threads: int = how["threads"]
        self.precision: str = how["precision"]
        self.manifest = manifest
        self.input_size: tuple[Any, ...] = tuple(runner.input_size)
        self.metadata: dict[str, str] = dict(manifest.metadata if manifest else runner.metadata)
        sizes = manifest.sizes() if manifest else dict.fromkeys(runner.outputs)
        self.outputs: tuple[str, ...] = tuple(sizes)
        self._sizes: list[tuple[int, ...] | None] = [*sizes.values()]

    def load_arguments(self) -> dict[str, Any]:
        """Return what `load` takes, JSON-able, to open the same file in the same setting in another process."""
        own = self.precision in FILE_PRECISIONS  # the file's, not asked for
        precision = "fp32" if own else self.precision
        return {"path": os.fspath(self.path), "threads": self.threads, "precision": precision}

    def predict(self, array: np.ndarray) -> np.ndarray:
        """Return the output for a batch.

        ncnn, LiteRT, C, Core ML and ExecuTorch files take one image a call; they are called for each image in turn.
        Several threads may call one session; those of LiteRT, MNN, C, OpenVINO and ExecuTorch answer one call after the
        other.

        Args:
            array: float32 `(N, C, H, W)`, N >= 1, normalised like the training data.

        Returns:
            The network's output, e.g. logits `(N, classes)`.

        Raises:
            InputError: the array's type or shape does not fit the file, or the file has several outputs.
        """
        if len(self.outputs) > 1:
            raise InputError(
                f"{self.path.name} has the outputs {', '.join(self.outputs)}; predict_all gives them by name"
            )
        return self.predict_all(array)[self.outputs[0]]

    def predict_all(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """Return all outputs for a batch by name, in the order in which the network returned them.

        Args:
            array: as for `predict`.

        Raises:
            InputError: the array's type or shape does not fit the file.
        """
        self._check(array)
        array = np.ascontiguousarray(array)
        found = run_in_parts(self._runner, array, self._sizes)
        return dict(zip(self.outputs, found, strict=True))

    def _check(self, array: np.ndarray) -> None:
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            found = getattr(array, "dtype", type(array).__name__)
            raise InputError(f"predict needs a float32 numpy array, not {found}; use array.astype('float32')")
        expected = self.input_size
        fits = array.ndim == 1 + len(expected) and all(
            not isinstance(wanted, int) or wanted == given
            for wanted, given in zip(expected, array.shape[1:], strict=True)
        )
        if not fits:
            sizes = ", ".join(map(str, expected))
            raise InputError(
                f"an array of shape {array.shape} does not fit; {self.path.name} takes (N, {sizes})"
            )
        batch = self._runner.batch or 1
        if len(array) == 0 or len(array) % batch:
            raise InputError(
                f"a batch of {len(array)} does not fit; {self.path.name} takes a multiple of {batch}, at least {batch}"
            )


def run_in_parts(
    runner: Runner, images: np.ndarray, sizes: Sequence[tuple[int, ...] | None], *, largest: int | None = None
) -> list[np.ndarray]:
    """Return the outputs of a loaded network for any number of images.

    Args:
        runner: from `open_files`.
        images: float32 `(N, C, H, W)`, N a multiple of the runner's batch where it has one.
        sizes: shape of each output without the batch; None where nothing states it.
        largest: images a call where the runner takes any number; None for all at once.
    """
    step = runner.batch or largest or len(images)
    parts = [runner.run(images[start : start + step]) for start in range(0, len(images), step)]
    found = parts[0] if len(parts) == 1 else [np.concatenate(each) for each in zip(*parts, strict=True)]
    # ncnn drops leading axes of length 1
    return [
        output if size is None or output.shape[1:] == size else output.reshape(len(images), *size)
        for output, size in zip(found, sizes, strict=True)
    ]


def load(path: str | os.PathLike[str], *, threads: int = 1, precision: str = "fp32") -> Session:
    """Load an exported network into its runtime on the CPU; needs numpy and that runtime, no torch.

    A C file is compiled when it is first loaded, and runs as part of this process: load those that you trust only.

    ExecuTorch's Python runtime is built on torch, and all its files in a process have one number of threads. Core ML
    chooses threads and precision itself.

    Args:
        path: a file that `export` wrote, or its manifest. The manifest beside the file tells the runtime; without
            one its ending does (.onnx, .xml, .tflite, .param, .mnn, .c, .mlpackage, .pte).
        threads: threads inside one operator, >= 1.
        precision: of the arithmetic: "fp32", or "bf16" for OpenVINO; fp16 and int8 are a file's own.

    Raises:
        InputError: no such file, a foreign, truncated or unusable one, a bad thread count or precision, or the
            runtime is not installed.

    Example:
        >>> load("net.onnx").predict(images)  # doctest: +SKIP
    """
    check_integer("threads", threads)
    main, manifest, target = identify(path)
    if precision in FILE_PRECISIONS and manifest is not None and manifest.precision == precision:
        precision = "fp32"  # what the file has needs not be asked for
    if precision not in target.precisions:
        if precision in ("fp32", "bf16"):
            allowed = " or ".join(target.precisions)
            raise InputError(f"{target.runtime} runs in {allowed} here, not in precision {precision}")
        raise unknown_name("precision", precision, target.precisions)
    require_to_open(target)
    files = files_of(target, main)
    check_files(manifest.files if manifest else {}, files)
    runner = open_files(target, main, threads=threads, precision=precision)
    if precision == "fp32" and manifest is not None:
        # what the file's operators compute in; with int8, what stayed in float is fp32
        precision = manifest.precision
    return Session(runner, files, target, manifest, threads=threads, precision=precision)


def identify(path: str | os.PathLike[str]) -> tuple[Path, Manifest | None, Target]:
    """Return the main file, its manifest if there is one, and the target, without loading the network.

    Args:
        path: an exported file or its manifest.

    Raises:
        InputError: no such file, a foreign manifest, or a file of no known runtime.
    """
    main = Path(path)
    if main.suffix == ".json":
        main = main.with_suffix("")
    if not main.exists():
        raise InputError(f"there is no file {os.fspath(main)}; write one with `ghostnet export`")
    beside = manifest_path(main)
    manifest = read_manifest(beside) if beside.is_file() else None
    return main, manifest, target_named(manifest.target) if manifest else target_of_file(main)


def open_files(target: Target, path: Path, *, threads: int, precision: str) -> Runner:
    """Load files into their runtime.

    Raises:
        InputError: the runtime cannot use them.
    """
    try:
        return target.open(path, threads=threads, precision=precision)
    except InputError:
        raise
    except Exception as error:  # the runtimes' own classes share no public base class
        raise InputError(
            f"{os.fspath(path)} is not a usable {target.kind} file: {_reason(error)}; export it again"
        ) from error


def _reason(error: Exception) -> str:
    """Return the telling line of a runtime's message; OpenVINO's first lines name places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or lines or [type(error).__name__])[0]
