"""`ghostnet export`: files that a runtime can run, checked against PyTorch, and a manifest beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostnet.cli.network import SIZE_HELP, input_size_of, open_network
from ghostnet.cli.output import answer
from ghostnet.errors import InputError, unknown_name
from ghostnet.files import refuse_overwrite

if TYPE_CHECKING:
    from torch import nn

# The names are repeated here so that `--help` and a wrong name are answered without numpy or torch.
TARGET_NAMES = ("onnx", "openvino", "litert", "ncnn")
_TARGET_HELP = "onnx (.onnx), openvino (.xml, .bin), litert (.tflite) or ncnn (.param, .bin)."
_PASSES_HELP = "Names of the rewrites, with commas; default: the runtime's own set."


def export(
    network: Annotated[str, typer.Argument(help="Name of the zoo, or a saved network.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The exported file; <file>.json tells of it.")],
    weights: Annotated[str | None, typer.Option(help="Packaged tag or file, for a name of the zoo.")] = None,
    target: Annotated[str, typer.Option(help=_TARGET_HELP)] = "onnx",
    input_size: Annotated[str | None, typer.Option("--input-size", metavar="C,H,W", help=SIZE_HELP)] = None,
    passes: Annotated[str | None, typer.Option(metavar="NAMES", help=_PASSES_HELP)] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Export as it is, without rewrites.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Export a network with exact rewrites for a runtime, and check its outputs against PyTorch's.

    \b
    Example:
      ghostnet export ghost.safetensors -o ghost.onnx
      ghostnet export ghost.safetensors -o ghost.xml --target openvino
    """
    if target not in TARGET_NAMES:
        raise unknown_name("export target", target, TARGET_NAMES)
    if passes is not None and plain:
        raise InputError("--passes names rewrites and --plain leaves all out; give one of them")
    refuse_overwrite(out, force=force)
    from ghostnet import deploy

    model = open_network(network, weights)
    size = input_size_of(model, input_size)
    report = deploy.export(
        model,
        target,
        out,
        input_size=size,
        passes=None if passes is None else [name.strip() for name in passes.split(",") if name.strip()],
        optimized=not plain,
        force=force,
        metadata={"network": Path(network).name, **({"weights": Path(weights).name} if weights else {})},
        preprocessing=_preprocessing(model, size[1]),
    )
    answer(report.to_dict(), as_json=as_json, text=lambda: str(report))


def _preprocessing(model: nn.Module, image_size: int) -> dict[str, Any]:
    """Return how the network wants its images, as `predict` would prepare them."""
    from ghostnet.cli.images import preprocessing_for

    return preprocessing_for(model, image_size=image_size).to_dict()
