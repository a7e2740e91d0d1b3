"""`ghostnet export`: files that a runtime can run, checked against PyTorch, and a manifest beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostnet.cli.idle import refuse_idle
from ghostnet.cli.int8 import USUAL_BITS, Int8Job, check_int8
from ghostnet.cli.integer import integer_option
from ghostnet.cli.network import (
    NETWORK_HELP,
    RGB,
    SIZE_HELP,
    WEIGHTS_HELP,
    input_size_of,
    open_network,
    refuse_source,
    told,
)
from ghostnet.cli.output import answer
from ghostnet.errors import InputError, unknown_name
from ghostnet.files import refuse_overwrite

if TYPE_CHECKING:
    from torch import nn

    from ghostnet.data import Preprocessing

# The names are repeated here so that `--help` and a wrong name are answered without numpy or torch.
TARGET_NAMES = ("onnx", "openvino", "litert", "ncnn", "mnn", "c", "coreml", "executorch")
_TARGET_HELP = (
    "onnx (.onnx), openvino (.xml, .bin), litert (.tflite), ncnn (.param, .bin), mnn (.mnn), "
    "c (.c, .bin), coreml (.mlpackage) or executorch (.pte)."
)
_PASSES_HELP = "Names of the rewrites, with commas; default: the runtime's own set."


def export(
    context: typer.Context,
    network: Annotated[str, typer.Argument(help=NETWORK_HELP)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The exported file; <file>.json tells of it.")],
    weights: Annotated[str | None, typer.Option(help=WEIGHTS_HELP)] = None,
    target: Annotated[str, typer.Option(help=_TARGET_HELP)] = "onnx",
    input_size: Annotated[str | None, typer.Option("--input-size", metavar="C,H,W", help=SIZE_HELP)] = None,
    strides: Annotated[
        str | None,
        typer.Option(
            metavar="STRIDES",
            help="Write a backbone: the maps at these strides, such as 8,16,32, in place of the scores of classes.",
        ),
    ] = None,
    passes: Annotated[str | None, typer.Option(metavar="NAMES", help=_PASSES_HELP)] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Export as it is, without rewrites.")] = False,
    precision: Annotated[
        str, typer.Option(help="fp32, fp16 (c, coreml) or int8 (onnx, openvino, litert, c).")
    ] = "fp32",
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|cifar10|synthetic",
            help="For int8: images of the kind to be seen, or made ones. C needs none, and says what it costs on them.",
        ),
    ] = None,
    calibration_images: Annotated[
        int, integer_option("--calibration-images", help="How many of them.")
    ] = 512,
    max_drop: Annotated[
        float, typer.Option("--max-drop", help="For int8: points of top-1 that labelled images may lose.")
    ] = 1.0,
    min_agreement: Annotated[
        float,
        typer.Option("--min-agreement", help="For int8: share of unlabelled images with the same answer."),
    ] = 0.95,
    max_error: Annotated[
        float,
        typer.Option(
            "--max-error",
            help="For int8 of several outputs or of --strides: largest error of one, as a share of its norm.",
        ),
    ] = 0.2,
    fine_tune_epochs: Annotated[
        float | None,
        typer.Option(
            "--fine-tune-epochs",
            help="For int8: first fine-tune with rounding on the --calibration data, where int8 costs too much.",
        ),
    ] = None,
    weight_bits: Annotated[
        int | None,
        integer_option(
            "--weight-bits",
            help=f"For int8: 7 or 8, with --fine-tune-epochs 2 to 8.  {USUAL_BITS}",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Export a network with exact rewrites for a runtime, and check its outputs against PyTorch's.

    \b
    Example:
      ghostnet export ghost.safetensors -o ghost.onnx
      ghostnet export ghost.safetensors -o ghost.xml --target openvino
      ghostnet export ghost.safetensors -o ghost-int8.onnx --precision int8 --calibration photos/
      ghostnet export resnet9_050 -o net-int8.onnx --precision int8 --calibration cifar10 --fine-tune-epochs 1
      ghostnet export ghost.safetensors -o ghost-int8.c --target c --precision int8
      ghostnet export ghostnet_100 --weights mine.pth -o backbone.onnx --strides 8,16,32
      ghostnet export ghost.safetensors -o backbone.onnx --strides 8,16,32 --precision int8 --calibration photos/
    """
    if target not in TARGET_NAMES:
        raise unknown_name("export target", target, TARGET_NAMES)
    integer_arithmetic = ("calibration_images", "max_drop", "min_agreement", "max_error")
    judged = calibration is not None or target != "c"
    refuse_idle(
        context,
        (precision == "int8", "--precision int8", integer_arithmetic),
        (judged, "--calibration", integer_arithmetic),
        (strides is None, "classes, which --strides leaves out", ("max_drop", "min_agreement")),
    )
    if plain:
        _refuse_rewrites(passes, fine_tune_epochs)
    check_int8(precision, calibration, target, fine_tune_epochs, weight_bits)
    if strides is not None and fine_tune_epochs:
        raise InputError(
            "--fine-tune-epochs trains the scores of classes, which --strides leaves out; give one of them"
        )
    refuse_source(out, network, weights, calibration)
    refuse_overwrite(out, force=force, folders=True)
    from ghostnet import deploy

    model = open_network(network, weights)
    size = input_size_of(model, input_size)
    names = None if passes is None else [name.strip() for name in passes.split(",") if name.strip()]
    wanted = _preprocessing(model, size, from_files=calibration is not None)
    written: dict[str, Any] = {
        "input_size": size,
        "optimized": not plain,
        "force": force,
        "metadata": _origin(network, weights),
        "preprocessing": _facts(wanted, size),
    }
    report: deploy.ExportReport | deploy.QuantizeReport
    if strides is not None:
        model, written["output_names"] = _backbone(model, strides)
    if calibration is None:
        report = deploy.export(model, target, out, passes=names, precision=precision, **written)
    else:
        limits = deploy.Limits(max_drop, min_agreement, max_error)
        job = Int8Job(
            target, out, calibration, calibration_images, names, limits, fine_tune_epochs, weight_bits
        )
        report = job.write(model, wanted, written)
    answer(report.to_dict(), as_json=as_json, text=lambda: str(report))


def _refuse_rewrites(passes: str | None, fine_tune_epochs: float | None) -> None:
    """Raise where a plain export is to be rewritten."""
    if fine_tune_epochs is not None:
        raise InputError(
            "--fine-tune-epochs folds batch norms and --plain rewrites nothing; give one of them"
        )
    if passes is not None:
        raise InputError("--passes names rewrites and --plain leaves all out; give one of them")


def _backbone(model: nn.Module, strides: str) -> tuple[nn.Module, list[str]]:
    """Return a network's maps at some strides as a network, and a name for each."""
    from ghostnet.models import feature_pyramid

    try:
        wanted = [int(stride) for stride in strides.split(",")]
    except ValueError as error:
        raise InputError(f"--strides (={strides!r}) must be numbers with commas, such as 8,16,32") from error
    return feature_pyramid(model, strides=wanted), [f"stride_{stride}" for stride in wanted]


def _origin(network: str, weights: str | None) -> dict[str, str]:
    """Return what the manifest says of where the network comes from."""
    return {"network": told(network), **({"weights": Path(weights).name} if weights else {})}


def _preprocessing(model: nn.Module, size: tuple[int, int, int], *, from_files: bool) -> Preprocessing:
    """Return how the network wants its images, as `predict` would prepare them.

    Raises:
        InputError: image files are to be read, which become squares, and it takes others.
    """
    from ghostnet.cli.images import preprocessing_for

    _, height, width = size
    if from_files and height != width:
        raise InputError(
            f"--calibration prepares images as squares, and the input is {height}x{width} pixels (height, width); "
            "calibrate with ghostnet.deploy.quantize in Python on arrays"
        )
    return preprocessing_for(model, image_size=height, from_files=from_files)


def _facts(wanted: Preprocessing, size: tuple[int, int, int]) -> dict[str, Any] | None:
    """Return what the manifest says of images; None where they are not RGB: nobody knows how it wants them."""
    channels, height, width = size
    facts = wanted.to_dict()
    if height != width:
        del facts["image_size"]  # the side of a square
    return facts if channels == RGB else None
