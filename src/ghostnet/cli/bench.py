"""`ghostnet bench`: latency side by side in ONNX Runtime."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ghostnet.cli.integer import integer
from ghostnet.cli.network import IMAGENET_SIZE, SIZE_HELP, input_size_of, open_network, parse_size
from ghostnet.cli.output import answer, note
from ghostnet.errors import InputError


def bench(
    networks: Annotated[list[str], typer.Argument(help="Names of the zoo, saved networks or .onnx files.")],
    threads: Annotated[
        int, typer.Option(parser=integer, metavar="INTEGER", help="Threads of the runtime.")
    ] = 1,
    input_size: Annotated[str | None, typer.Option("--input-size", metavar="C,H,W", help=SIZE_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time networks in turn (A B A B ...) in one process; the first is what the others are compared with.

    \b
    Example:
      ghostnet bench dense.safetensors ghost.safetensors --threads 1
    """
    if threads < 1:
        raise InputError(f"--threads (={threads}) must be an integer >= 1")
    if len(set(networks)) < len(networks):
        raise InputError("the same network is given twice; each needs a name of its own")
    from ghostnet import deploy

    with tempfile.TemporaryDirectory() as folder:
        paths, size = _exported(networks, Path(folder), input_size)
        found = deploy.benchmark(paths, input_size=size, threads=threads)
    answer(found.to_dict(), as_json=as_json, text=lambda: str(found))


def _exported(
    networks: list[str], folder: Path, input_size: str | None
) -> tuple[dict[str, Path], tuple[int, int, int]]:
    """Return an ONNX file for each network, and the input size that they share."""
    from ghostnet import deploy

    size = parse_size(input_size) if input_size is not None else None
    paths: dict[str, Path] = {}
    for number, name in enumerate(networks):
        if name.endswith(".onnx"):
            if not Path(name).is_file():
                raise InputError(f"there is no file {name}")
            paths[name] = Path(name)
            own = size or _own_size(name)
        else:
            model = open_network(name)
            own = input_size_of(model, input_size)
            paths[name] = folder / f"{number}.onnx"
            note(f"exporting {name}")
            deploy.export(model, "onnx", paths[name], input_size=own, force=True)
        if size is not None and own != size:
            raise InputError(f"{name} takes {own}, another network {size}; give one --input-size for all")
        size = own
    return paths, size or IMAGENET_SIZE


def _own_size(path: str) -> tuple[int, int, int]:
    """Return the input size that an ONNX file states."""
    from ghostnet import deploy

    size = deploy.load(path).input_size
    if len(size) != 3 or not all(isinstance(number, int) for number in size):
        raise InputError(f"{path} leaves its input size open; give --input-size")
    return size[0], size[1], size[2]
