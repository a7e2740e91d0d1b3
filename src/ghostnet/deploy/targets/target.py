"""What a runtime must offer, and what all of them share: requirements, quiet tools, the file name's rule."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ghostnet.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn


ALONE = ("logits",)  # names of the outputs of a network that returns one tensor
_SYSTEMS = {"Darwin": "macOS"}


class NotRunHereError(RuntimeError):
    """What stands in for a runtime that is not here does not know something, which the message names."""


class Runner(Protocol):
    """A loaded network of one runtime.

    Attributes:
        input_size: shape of one input without the batch; a name or -1 where the file leaves it open.
        batch: images that one call takes; None where any number is.
        outputs: names of the outputs as the file has them, in order.
        metadata: texts that the file itself carries.
    """

    input_size: tuple[Any, ...]
    batch: int | None
    outputs: tuple[str, ...]
    metadata: dict[str, str]

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the network's outputs for `(N, C, H, W)` float32, N being `batch` where that is given."""
        ...


class Target(Protocol):
    """A runtime: how its files are written, and how they are opened.

    Attributes:
        name: what users type.
        runtime: what people call it.
        kind: what people call its files.
        extra: the pip extra of ghostnet that brings what writing needs.
        package: the pip package that opening needs, and nothing else.
        write_modules: modules that must be importable to write.
        open_module: the module that must be importable to open.
        suffixes: endings of the files; the first is the one that users name, the others lie beside it.
        writes_folder: whether what users name is a folder.
        precisions: what the arithmetic may be, first the default.
        traces: whether writing runs the network once and records what happens, so that a branch would be lost.
        dynamic_batch: whether its files take any number of images.
        system: the one operating system that it runs on, as `platform.system()` calls it; None where any will do.
        threads_in_use: the number of threads of the files that are open, where all of a process share one; None where
            each file has its own, or none is open.
    """

    name: str
    runtime: str
    kind: str
    extra: str
    package: str
    write_modules: tuple[str, ...]
    open_module: str
    suffixes: tuple[str, ...]
    writes_folder: bool
    precisions: tuple[str, ...]
    traces: bool
    dynamic_batch: bool
    system: str | None

    @property
    def threads_in_use(self) -> int | None: ...

    def write(
        self,
        model: nn.Module,
        path: Path,
        example: torch.Tensor,
        metadata: Mapping[str, str],
        outputs: Sequence[str] = ALONE,
    ) -> dict[str, int]:
        """Write the network's files and return how often each operator occurs in them.

        Args:
            model: returns a tensor, or a tuple of them.
            path: of the main file.
            example: two images or more.
            metadata: texts to keep, where the file has a place for them.
            outputs: names of the tensors, where the file has a place for them.
        """
        ...

    def open(self, path: Path, *, threads: int, precision: str) -> Runner:
        """Load the files; whatever the runtime raises means that they are of no use to it."""
        ...


def require_to_write(target: Target) -> None:
    """Raise with the pip command unless all that writing needs is installed.

    Raises:
        InputError: a module is missing.
    """
    for module in (*target.write_modules, target.open_module):
        if not is_installed(module):
            raise InputError(f'{module} is not installed; run: pip install "ghostnet[{target.extra}]"')


def runs_here(target: Target) -> bool:
    """Whether this operating system has the runtime."""
    return target.system in (None, platform.system())


def require_to_open(target: Target) -> None:
    """Raise unless the runtime can run here, with the pip command where it is not installed.

    Raises:
        InputError: it is missing, or of another operating system.
    """
    if not runs_here(target):
        raise InputError(
            f"{target.runtime} runs on {_SYSTEMS.get(target.system or '', target.system)} only; "
            "files for it can be written here, and must be run there"
        )
    if not is_installed(target.open_module):
        raise InputError(
            f"{target.runtime} is not installed (module {target.open_module}); "
            f"run: pip install {target.package}"
        )


def is_installed(module: str) -> bool:
    """Whether a module, which may be inside a package, can be imported; it is not."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package of a dotted name is missing
        return False


def require_one_input(names: Sequence[str]) -> None:
    """Refuse a file from elsewhere that takes more than the images.

    Args:
        names: of the file's inputs.

    Raises:
        ValueError: they are not one.
    """
    if len(names) != 1:
        raise ValueError(f"it has {len(names)} inputs ({', '.join(names)}) where one is taken, the images")


def files_of(target: Target, path: Path) -> list[Path]:
    """Return every file of an export, the named one first.

    A single file may be called anything, since its manifest tells the runtime; of several, the others are found by
    their endings.

    Raises:
        InputError: `path` does not end as it must.
    """
    if path.suffix != target.suffixes[0] and len(target.suffixes) > 1:
        raise InputError(
            f"{path} must end in {target.suffixes[0]} for {target.runtime}; "
            f"use {path.with_suffix(target.suffixes[0])}"
        )
    return [path, *(path.with_suffix(suffix) for suffix in target.suffixes[1:])]
