"""`ghostnet detect export`: a detector as one ONNX file, in float or in int8; and how the verbs open detectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ghostnet.checks import check_integer
from ghostnet.cli.calibration import spread
from ghostnet.cli.idle import refuse_idle
from ghostnet.cli.images import image_files
from ghostnet.cli.int8 import USUAL_BITS
from ghostnet.cli.integer import integer_option
from ghostnet.cli.network import refuse_source
from ghostnet.cli.output import answer, note
from ghostnet.errors import InputError, unknown_name
from ghostnet.files import refuse_overwrite

if TYPE_CHECKING:
    from torch import Tensor

    from ghostnet.detect import Detector, ExportedDetector

_PRECISIONS = ("fp32", "int8")


def open_detector(name: str) -> Detector | ExportedDetector:
    """Open a saved detector, or an exported one in ONNX Runtime.

    Raises:
        InputError: there is none, or the name is one of the zoo, whose networks are backbones.
    """
    if name.lower().endswith(".onnx"):
        from ghostnet import detect as room

        return room.ExportedDetector(room.load_detector_file(name))
    return _open_saved(name)


def _open_saved(name: str) -> Detector:
    from ghostnet import detect as room
    from ghostnet import models

    if not Path(name).is_file() and name.partition(".")[0] in models.list_models():
        raise InputError(
            f"{name} is a backbone, not a saved detector; `ghostnet detect train` makes a detector on one"
        )
    return room.load_detector(name)


def export(
    context: typer.Context,
    detector: Annotated[str, typer.Argument(help="Saved detector.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The ONNX file to write.")],
    images: Annotated[
        list[Path] | None, typer.Option(help="Image or folder to check the file on; default: noise.")
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="onnxruntime, openvino; may be given twice. The file is rewritten for the first."),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Export as it is, without rewrites.")] = False,
    precision: Annotated[str, typer.Option(help="fp32 or int8.")] = "fp32",
    calibration: Annotated[
        Path | None, typer.Option(help="For int8: a folder of images of the kind to be seen.")
    ] = None,
    calibration_images: Annotated[
        int, integer_option("--calibration-images", help="How many of them.")
    ] = 100,
    min_agreement: Annotated[
        float, typer.Option("--min-agreement", help="For int8: share of the boxes that has to stay.")
    ] = 0.95,
    least_score: Annotated[
        float, typer.Option("--least-score", help="For int8: of boxes that are looked at.")
    ] = 0.5,
    weight_bits: Annotated[
        int | None,
        integer_option(
            "--weight-bits",
            help=f"For int8: 7 or 8.  {USUAL_BITS}",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a detector as one ONNX file, suppression included, checked against PyTorch box by box.

    The file takes one RGB image of any size, float32 (3, H, W) in [0, 1]. The trunk is rewritten for the runtime, as
    `ghostnet export` rewrites classifiers.

    \b
    Example:
      ghostnet detect export runs/bccd_light-seed0.safetensors -o cells.onnx --images photos/ --runtime openvino
      ghostnet detect export runs/bccd_light-seed0.safetensors -o cells8.onnx --precision int8 --calibration photos/
    """
    if out.suffix.lower() != ".onnx":
        raise InputError(f"{out} must end in .onnx, which is what is written; use {out.with_suffix('.onnx')}")
    if detector.lower().endswith(".onnx"):
        raise InputError(
            f"{detector} is an exported file already; name the saved detector (.safetensors) that it was made of"
        )
    if precision not in _PRECISIONS:
        raise unknown_name("precision of detectors", precision, _PRECISIONS)
    rounding = ("calibration", "calibration_images", "min_agreement", "least_score", "weight_bits")
    refuse_idle(
        context,
        (precision == "int8", "--precision int8", rounding),
        (
            precision == "fp32",
            "--precision fp32; int8 is rewritten, and checked on its --calibration",
            ("plain", "images"),
        ),
    )
    refuse_source(out, detector)
    refuse_overwrite(out, force=force)
    runtimes = tuple(runtime or ("onnxruntime",))
    if precision == "int8":
        if calibration is None:
            raise InputError("int8 needs images to calibrate on: give --calibration FOLDER")
        check_integer("--calibration-images", calibration_images)
        listed = image_files([calibration])
        files = [listed[index] for index in spread(len(listed), calibration_images)]
        from ghostnet import deploy
        from ghostnet.recipes import detection

        report = detection.quantize_detector(
            _open_saved(detector),
            out,
            _decoded(files),
            limits=deploy.Limits(min_agreement=min_agreement),
            least_score=least_score,
            runtimes=runtimes,
            weight_bits=weight_bits,
            force=force,
            announce=note,
        )
        answer(report.to_dict(), as_json=as_json, text=lambda: str(report))
        return
    files = image_files(images) if images else []
    from ghostnet import detect as room
    from ghostnet.recipes import detection

    write = room.export_detector if plain else detection.export_rewritten
    done = write(_open_saved(detector), out, images=_decoded(files), runtimes=runtimes, force=force)
    lines = [f"{done.path}: {done.bytes / 1e6:.2f} MB, checked on {done.images} images"]
    lines += [f"{name}: {found}" for name, found in done.agreement.items()]
    if not any(found.boxes for found in done.agreement.values()):
        note("nothing was found in them, so no box was compared: give --images that show what it detects")
    answer(done.to_dict(), as_json=as_json, text=lambda: "\n".join(lines))


def _decoded(files: list[Path]) -> list[Tensor]:
    from ghostnet.data import read_image

    return [read_image(file.read_bytes, str(file)) for file in files]
