"""`ghostnet export`: a file that a runtime can run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ghostnet.cli.network import SIZE_HELP, input_size_of, open_network
from ghostnet.cli.output import answer
from ghostnet.errors import unknown_name
from ghostnet.files import refuse_overwrite


def export(
    network: Annotated[str, typer.Argument(help="Name of the zoo, or a saved network.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The exported file.")],
    weights: Annotated[str | None, typer.Option(help="Packaged tag or file, for a name of the zoo.")] = None,
    target: Annotated[str, typer.Option(help="Format: onnx.")] = "onnx",
    input_size: Annotated[str | None, typer.Option("--input-size", metavar="C,H,W", help=SIZE_HELP)] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Export a network with batch norms folded, and check its outputs against PyTorch's.

    \b
    Example:
      ghostnet export ghost.safetensors -o ghost.onnx
    """
    if target != "onnx":
        raise unknown_name("export target", target, ["onnx"])
    refuse_overwrite(out, force=force)
    from ghostnet import deploy

    model = open_network(network, weights)
    size = input_size_of(model, input_size)
    report = deploy.export(model, target, out, input_size=size, force=force)
    answer(report.to_dict(), as_json=as_json, text=lambda: str(report))
