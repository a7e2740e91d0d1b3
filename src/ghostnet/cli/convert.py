"""`ghostnet convert`: model in, cheaper model out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostnet.cli.cifar10 import NORMALISATION_HELP, calibration_images, check_data_name, normalisation_of
from ghostnet.cli.integer import integer
from ghostnet.cli.network import SIZE_HELP, input_size_of, open_network
from ghostnet.cli.output import answer, note
from ghostnet.errors import unknown_name
from ghostnet.files import refuse_overwrite

if TYPE_CHECKING:
    from torch import Tensor, nn


def convert(
    network: Annotated[str, typer.Argument(help="Name of the zoo, or a saved network.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The converted network (.safetensors).")],
    weights: Annotated[str | None, typer.Option(help="Packaged tag or file, for a name of the zoo.")] = None,
    ratio: Annotated[
        int,
        typer.Option(parser=integer, metavar="INTEGER", help="s of the paper; 1 keeps plain convolutions."),
    ] = 2,
    cheap_kernel_size: Annotated[
        int, typer.Option(parser=integer, metavar="INTEGER", help="d of the paper; odd.")
    ] = 3,
    layers: Annotated[
        list[str] | None,
        typer.Option(help="Layer name or pattern; may be repeated. Default: all but the first."),
    ] = None,
    init: Annotated[str, typer.Option(help="dense: fitted to the network's own weights; random.")] = "dense",
    form: Annotated[str, typer.Option(help="linear, or ghostnet (norm and activation inside).")] = "linear",
    calibration: Annotated[
        str | None, typer.Option(help="Data set of unlabelled images that make the fit better: cifar10.")
    ] = None,
    images: Annotated[
        int, typer.Option(parser=integer, metavar="INTEGER", help="How many calibration images.")
    ] = 2048,
    data_dir: Annotated[str | None, typer.Option(help="Folder or archive of the data set.")] = None,
    normalisation: Annotated[str | None, typer.Option(help=NORMALISATION_HELP)] = None,
    input_size: Annotated[str | None, typer.Option("--input-size", metavar="C,H,W", help=SIZE_HELP)] = None,
    seed: Annotated[
        int, typer.Option(parser=integer, metavar="INTEGER", help="Of the random initialisation.")
    ] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Replace a network's convolutions by Ghost convolutions and save the result.

    \b
    Example:
      ghostnet convert model.safetensors -o ghost.safetensors --calibration cifar10
    """
    if init not in ("dense", "random"):
        raise unknown_name("init", init, ["dense", "random"])
    if calibration is not None:
        check_data_name(calibration)
    refuse_overwrite(out, force=force)
    from ghostnet import models
    from ghostnet.convert import RandomInit, ghostify

    model = open_network(network, weights, trained=init == "dense")
    batches = None
    if calibration is not None:
        batches = calibration_images(data_dir, images, normalisation_of(model, normalisation))
    ghost, report = ghostify(
        model,
        ratio=ratio,
        cheap_kernel_size=cheap_kernel_size,
        layers=layers or None,
        init=RandomInit(seed) if init == "random" else init,
        calibration=batches,
        example_input=_example(input_size_of(model, input_size)),
        form=form,
    )
    models.save(ghost, out, force=force, info=_info(network, model))
    note(f"wrote {out}")
    answer({"out": str(out), **report.to_dict()}, as_json=as_json, text=lambda: str(report))


def _info(network: str, model: nn.Module) -> dict[str, Any]:
    """Return what the new file says of itself: where it comes from, and how its pixels are normalised."""
    known = getattr(model, "ghostnet_info", None) or {}
    kept = {key: known[key] for key in ("mean", "std", "classes") if key in known}
    return {"converted_from": Path(network).name, **kept}


def _example(size: tuple[int, int, int]) -> Tensor:
    import torch

    return torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
