"""What lies beside an exported network as `<file>.json`: what it takes and gives, and how it came about.

A device needs it to prepare images and to name classes; `load` needs it to tell a truncated file from a whole
one. No path and no host name is in it, and its files are named by their endings alone, so they may be renamed
together.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ghostnet.deploy.targets.target import ALONE
from ghostnet.errors import InputError
from ghostnet.files import sha256_of_file, size_in_bytes

SCHEMA = 2
FILE_PRECISIONS = (
    "fp16",
    "int8",
)  # what the weights in a file are; fp32 and bf16 are chosen when it is opened
# rewrites whose rounding error a narrower arithmetic would not bear
FLOAT32_PASSES = frozenset({"winograd", "winograd_products"})


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The record of one export.

    Attributes:
        target: key of `deploy.TARGETS`.
        files: `bytes` and `sha256` of each file by its ending.
        input: `shape` (first entry "N" where the batch is free), `dtype`, `layout`.
        output: `shape` and `dtype`; of several outputs the first's.
        precision: of the weights in the files.
        preprocessing: `mean`, `std`, `image_size`, … as the network was trained; None where that is not known.
        classes: names in the order of the outputs; None where they are not known.
        passes: names of the rewrites that made the network; None for a plain export and for one that cannot be traced.
        optimized: whether rewrites were applied at all.
        parity: `relative_error` against PyTorch, its `tolerance`, the `batches` that were compared, and `by`, what
            computed the file's outputs; `relative_error` is None where nothing here could.
        versions: of what wrote the files.
        metadata: texts of the user's.
        schema: of this record.
        quantisation: what int8 cost on how many calibration images, and the layers that stayed in float; None for
            float files.
        outputs: `name`, `shape` and `dtype` of each output, in order, where the network returned a list or dictionary;
            None where it returned a tensor.
    """

    target: str
    files: dict[str, dict[str, Any]]
    input: dict[str, Any]
    output: dict[str, Any]
    precision: str
    preprocessing: dict[str, Any] | None
    classes: list[str] | None
    passes: list[str] | None
    optimized: bool
    parity: dict[str, Any]
    versions: dict[str, str]
    metadata: dict[str, str]
    schema: int = SCHEMA
    quantisation: dict[str, Any] | None = None
    outputs: list[dict[str, Any]] | None = None

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each output without the batch by name, in order."""
        outputs = [{"name": ALONE[0], **self.output}] if self.outputs is None else self.outputs
        return {output["name"]: tuple(output["shape"][1:]) for output in outputs}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return dataclasses.asdict(self)

    def write(self, path: Path) -> None:
        """Write it; the caller takes care of what was there."""
        path.write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def plain_value(name: str, value: Any) -> Any:
    """Return a value as JSON has it: arrays and tensors as lists and numbers.

    Args:
        name: of the value, for the message.
        value: text, a number, None, an array, a tensor, or a list or mapping of such.

    Raises:
        InputError: something else is in it.

    Example:
        >>> plain_value("mean", (0.5, 0.5))
        [0.5, 0.5]
    """
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain_value(f"{name}[{key!r}]", entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(name, entry) for entry in value]
    if hasattr(value, "tolist"):  # an array, a tensor, or a number of such a type
        return plain_value(name, value.tolist())
    raise InputError(
        f"{name} holds a {type(value).__name__}, which a manifest cannot; give texts, numbers or lists of them"
    )


def float32_passes(names: Sequence[str] | None) -> list[str]:
    """Return the rewrites among `names` that need float32."""
    return [name for name in names or () if name in FLOAT32_PASSES]


def without_float32_passes(names: Sequence[str]) -> list[str]:
    """Return the rewrites among `names` that any arithmetic bears."""
    return [name for name in names if name not in FLOAT32_PASSES]


def manifest_path(path: Path) -> Path:
    """Return where the manifest of an exported file lies."""
    return path.with_name(path.name + ".json")


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        InputError: the file is not one, or a newer version wrote it.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["schema"] > SCHEMA:
            raise InputError(f"{path} is a manifest of a newer ghostnet (schema {found['schema']}); update")
        manifest = Manifest(**found)
        [(entry["bytes"], entry["sha256"]) for entry in manifest.files.values()]
        shapes = [manifest.input["shape"][1:], manifest.output["shape"][1:], *manifest.sizes().values()]
        [int(size) for shape in shapes for size in shape]
        if not isinstance(manifest.metadata, dict):
            raise TypeError("metadata")
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} is not a manifest that `ghostnet export` wrote; export again or move it away"
        ) from error
    return manifest


def describe_files(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Return what `Manifest.files` holds for these files."""
    return {path.suffix: {"bytes": size_in_bytes(path), "sha256": sha256_of_file(path)} for path in paths}


def check_files(files: Mapping[str, Mapping[str, Any]], paths: Sequence[Path]) -> None:
    """Raise unless every file is there and as long as its manifest says.

    The lengths are compared and not the hashes: that is free, and a copy that stopped halfway shows in them.

    Raises:
        InputError: a file is missing or has another length.
    """
    for path in paths:
        stated = files.get(path.suffix, {}).get("bytes")
        if not path.exists():
            raise InputError(f"there is no file {path}; it belongs beside {paths[0].name}")
        if stated is not None and size_in_bytes(path) != stated:
            raise InputError(
                f"{path} has {size_in_bytes(path)} bytes where its manifest says {stated}: "
                "it is truncated or was replaced; export it again"
            )
