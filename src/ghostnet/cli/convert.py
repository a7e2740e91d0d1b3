"""`ghostnet convert`: model in, cheaper model out; what its options do is in `conversion.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ghostnet.cli.cifar10 import NORMALISATION_HELP
from ghostnet.cli.conversion import Conversion
from ghostnet.cli.integer import integer_option, share
from ghostnet.cli.network import NETWORK_HELP, SIZE_HELP, WEIGHTS_HELP


def convert(
    context: typer.Context,
    network: Annotated[str, typer.Argument(help=NETWORK_HELP)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The converted network (.safetensors).")],
    weights: Annotated[str | None, typer.Option(help=WEIGHTS_HELP)] = None,
    method: Annotated[
        str, typer.Option(help="ghost, or a pruning method: l1, channel, thinet, sss, taylor.")
    ] = "ghost",
    macs: Annotated[
        float | None,
        typer.Option(
            parser=share,
            metavar="NUMBER",
            help="Share of the MACs that stays. For ghost: measures on --calibration images what each layer costs, "
            "and gives it a ratio of its own; for pruning: 0.5 unless given.",
        ),
    ] = None,
    ratio: Annotated[
        int | None,
        integer_option(
            help="s of the paper, for all layers; 1 keeps plain convolutions.  [default: 2; with --budget and "
            "--calibration a ratio of 2, 3 or 4 for each layer]",
        ),
    ] = None,
    cheap_kernel_size: Annotated[int, integer_option(help="d of the paper; odd.")] = 3,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            help="Layer name or pattern; may be repeated. Default: all but the first. redundant[:SHARE] takes the "
            "layers with most maps to spare, by --calibration images, until they hold that share of the MACs."
        ),
    ] = None,
    init: Annotated[str, typer.Option(help="dense: fitted to the network's own weights; random.")] = "dense",
    form: Annotated[str, typer.Option(help="linear, or ghostnet (norm and activation inside).")] = "linear",
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Unlabelled images that make the fit better: a folder of your own, or cifar10; synthetic makes some "
            "that have the statistics of the network's batch norms."
        ),
    ] = None,
    keep_plain: Annotated[
        bool,
        typer.Option(
            "--keep-plain",
            help="Leave convolutions that stay plain as they are; with --calibration they are refitted to what the "
            "Ghost convolutions before them give.",
        ),
    ] = False,
    images: Annotated[
        int | None,
        integer_option(
            help="How many calibration images at most.  [default: 2048; synthetic: 256, of large ones fewer]",
        ),
    ] = None,
    data_dir: Annotated[str | None, typer.Option(help="Folder or archive of the data set.")] = None,
    normalisation: Annotated[str | None, typer.Option(help=NORMALISATION_HELP)] = None,
    input_size: Annotated[str | None, typer.Option("--input-size", metavar="C,H,W", help=SIZE_HELP)] = None,
    plan: Annotated[
        str | None,
        typer.Option(
            metavar="RUNTIME[:PRECISION]",
            help="Ghost only layers that gain there, measured on this machine: onnx, openvino:int8. For pruning: "
            "prune to the share of the time that --budget says.",
        ),
    ] = None,
    budget: Annotated[
        float,
        typer.Option(
            help="For --plan: time ratio to reach, above 0, at the least cost in accuracy, which for ghost is measured "
            "on --calibration images; 1 takes every layer that gains."
        ),
    ] = 1.0,
    plan_files: Annotated[
        Path | None,
        typer.Option(
            "--plan-files",
            help="For --plan: keep exported candidates here, for the next plan or an interrupted one.",
        ),
    ] = None,
    plan_result: Annotated[
        Path | None, typer.Option("--plan-result", help="For --plan: also write what it measured (.json).")
    ] = None,
    costs: Annotated[
        Path | None,
        typer.Option(
            "--costs",
            help="For --macs and --budget: keep what layers cost here (.json); an interrupted run goes on.",
        ),
    ] = None,
    multiple: Annotated[
        int | None,
        integer_option(
            help="For pruning: each layer keeps a multiple of so many channels, or all; 8 is often quicker at the same "
            "MACs.  [default: 1; with --plan 8]",
        ),
    ] = None,
    streams: Annotated[
        bool | None,
        typer.Option(
            "--streams/--no-streams",
            help="Layers whose maps are added, as in a residual stream, keep the same filters (Ghost convolutions: "
            "quicker in residual networks, at a little accuracy before fine-tuning) or lose the same channels "
            "(pruning by l1, taylor or sss).  [default: where it can be done; pruning: no]",
        ),
    ] = None,
    seed: Annotated[int, integer_option(help="Of the random initialisation.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Replace a network's convolutions by Ghost convolutions, or prune its channels, and save the result.

    A folder of --calibration needs no subfolders; with a subfolder for each class of the network it gives labels too.
    Without any images, --calibration synthetic does nearly as well for a network with batch norms.
    Pruning by channel or thinet looks at --calibration images, by taylor at images with labels; l1 needs none, but with
    some its batch norms make up for the cut, which saves much accuracy before any training. sss trains for two epochs
    on all of cifar10, and an interrupted one goes on from OUT.checkpoint.
    Where a plan finds that no layer gains, nothing is written and the exit code is 1.

    \b
    Example:
      ghostnet convert model.safetensors -o ghost.safetensors --calibration photos/
      ghostnet convert model.safetensors -o ghost.safetensors --calibration synthetic
      ghostnet convert model.safetensors -o ghost.safetensors --calibration photos/ --macs 0.5
      ghostnet convert model.safetensors -o ghost.safetensors --calibration cifar10 --layers redundant:0.5
      ghostnet convert model.safetensors -o ghost.safetensors --plan onnx
      ghostnet convert model.safetensors -o ghost.safetensors --calibration photos/ --plan onnx --budget 0.7
      ghostnet convert model.safetensors -o pruned.safetensors --method l1 --macs 0.5
      ghostnet convert model.safetensors -o pruned.safetensors --method l1 --plan onnx --budget 0.7
    """
    conversion = Conversion(
        network=network,
        out=out,
        weights=weights,
        method=method,
        macs=macs,
        ratio=ratio,
        cheap_kernel_size=cheap_kernel_size,
        layers=layers,
        init=init,
        form=form,
        calibration=calibration,
        keep_plain=keep_plain,
        images=images,
        data_dir=data_dir,
        normalisation=normalisation,
        input_size=input_size,
        plan=plan,
        budget=budget,
        plan_files=plan_files,
        plan_result=plan_result,
        costs=costs,
        multiple=multiple,
        streams=streams,
        seed=seed,
        force=force,
        as_json=as_json,
    )
    conversion.check(context)
    conversion.run()
