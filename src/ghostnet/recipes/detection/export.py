"""Detectors in files that are as quick as classifiers' are: `deploy`'s rewrites for the trunk, and int8.

`detect` knows nothing of rewrites and `deploy` nothing of boxes; here they meet.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ghostnet import deploy
from ghostnet.deploy.passes import NEED_SIZES, default_passes
from ghostnet.deploy.passes.gathers import count_from_behind_
from ghostnet.deploy.quantization.calibration import MIN_IMAGES
from ghostnet.deploy.quantization.onnx import LAYERS, OnnxQuantiser
from ghostnet.deploy.quantization.quantiser import checked_weight_bits, require_quantiser
from ghostnet.deploy.quantization.search import Score, choose
from ghostnet.detect import Detector, DetectorExport, boxes_that_stay, export_detector, load_detector_file
from ghostnet.errors import InputError
from ghostnet.files import atomic_write, refuse_overwrite

TARGETS = {
    "onnxruntime": "onnx",
    "openvino": "openvino",
}  # a runtime of detectors: the key of its measured passes
LEAST_SCORE = 0.5  # of boxes that int8 has to keep; `detect predict` draws the same
_RANKING_IMAGES = 16
_TRUNK_INPUT = (3, 224, 224)


def export_rewritten(
    detector: Detector,
    path: str | os.PathLike[str],
    *,
    images: Sequence[Tensor] = (),
    runtimes: Sequence[str] = ("onnxruntime",),
    force: bool = False,
) -> DetectorExport:
    """Write a detector whose trunk is rewritten for a runtime; the file is right in the other one, too.

    Args:
        detector: as for `export_detector`; it is put into evaluation mode and otherwise untouched.
        path: as for `export_detector`.
        images: as for `export_detector`.
        runtimes: the file is checked in all of them and rewritten for the first.
        force: as for `export_detector`.

    Raises:
        InputError: as `export_detector`.
        RuntimeError: as `export_detector`.
    """
    target = TARGETS.get(next(iter(runtimes), "onnxruntime"), "onnx")  # an unknown one is refused further on
    rewrite = functools.partial(
        deploy.optimize,
        # "winograd" is for one size; padding that depends on the size is the same for all multiples of 32, which is
        # what detectors fill images up to
        passes=[name for name in default_passes(target) if name not in NEED_SIZES],
        input_size=_TRUNK_INPUT,
    )
    return export_detector(
        detector,
        path,
        images=images,
        runtimes=runtimes,
        rewrite_trunk=rewrite,
        rewrite_file=_count_gathers_from_behind,
        force=force,
    )


def _count_gathers_from_behind(proto: Any) -> None:
    import onnx

    sized = onnx.shape_inference.infer_shapes(proto)
    count_from_behind_(sized)
    del proto.graph.node[:]
    proto.graph.node.extend(sized.graph.node)


@dataclass(frozen=True)
class DetectorInt8:
    """What was written, and what int8 cost on the calibration images.

    Attributes:
        path: the file.
        bytes: its size.
        float_bytes: of the file in float32 that it was made of.
        images: calibration images.
        layers: convolutions and matrix products.
        float_layers: those that stayed in float, named as in the file, the worst first.
        boxes_that_stay: share of the boxes of both files for which the other has one of the class overlapping by half.
        mean_change: mean of `1 - IoU` plus the difference of scores; a box without a partner counts 2.
        float_export: how far the float32 file was from PyTorch.
    """

    path: str
    bytes: int
    float_bytes: int
    images: int
    layers: int
    float_layers: list[str]
    boxes_that_stay: float
    mean_change: float
    float_export: DetectorExport

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return {**asdict(self), "precision": "int8"}

    def __str__(self) -> str:
        """Return two lines for people."""
        kept = f", {len(self.float_layers)} of {self.layers} layers in float" if self.float_layers else ""
        return (
            f"{self.path}: int8, {self.bytes / 1e6:.2f} MB (float {self.float_bytes / 1e6:.2f}){kept}\n"
            f"on {self.images} calibration images: {100 * self.boxes_that_stay:.1f} % of the boxes stay"
        )


def quantize_detector(
    detector: Detector,
    path: str | os.PathLike[str],
    calibration: Sequence[Tensor],
    *,
    limits: deploy.Limits | None = None,
    least_score: float = LEAST_SCORE,
    runtimes: Sequence[str] = ("onnxruntime",),
    weight_bits: int | None = None,
    force: bool = False,
    announce: Callable[[str], None] | None = None,
) -> DetectorInt8:
    """Write a detector in int8: trunk, pyramid and heads; anchors, boxes and suppression stay in float.

    All layers are quantised first. While fewer boxes stay than the limit says, the layers that move them most stay in
    float.

    Args:
        detector: trained; it is put into evaluation mode and otherwise untouched.
        path: the ONNX file to write.
        calibration: uint8 images `(3, H, W)` like those that it will see, 16 at least; they also judge.
        limits: `min_agreement` is the share of boxes that has to stay; None takes `Limits()`.
        least_score: of boxes that are judged.
        runtimes: the float file is checked in all of them, and the one in which int8 costs most judges it.
        weight_bits: 7 or 8, as for `deploy.quantize`.
        force: overwrite an existing file.
        announce: called with a line before each slow step.

    Raises:
        InputError: as `export_detector`; too few images, none with a box, or a limit that no choice of layers meets.
        RuntimeError: as `export_detector`.
    """
    refuse_overwrite(path, force=force)
    runtimes = tuple(runtimes) or ("onnxruntime",)
    require_quantiser("onnx")
    bits = checked_weight_bits("onnx", weight_bits)
    if len(calibration) < MIN_IMAGES:
        raise InputError(
            f"{len(calibration)} calibration images are too few; give at least {MIN_IMAGES} like those to come"
        )
    tell = announce or (lambda _line: None)
    with tempfile.TemporaryDirectory() as folder, atomic_write(path) as temporary:
        tell("exporting in float")
        plain = Path(folder) / "float.onnx"
        exported = export_rewritten(detector, plain, images=calibration, runtimes=runtimes)
        inputs = [image.float().div(255).numpy() for image in calibration]
        judge = _Judge(plain, inputs, runtimes, least_score)
        tell(f"quantising with {len(inputs)} calibration images")
        chosen = choose(
            OnnxQuantiser(plain, inputs, bits, among=_rounded(plain)),
            temporary,
            score_of=judge.score,
            harm_of=judge.harm,
            limits=limits or deploy.Limits(),
            announce=tell,
        )
        size = temporary.stat().st_size
    return DetectorInt8(
        path=os.fspath(path),
        bytes=size,
        float_bytes=exported.bytes,
        images=len(calibration),
        layers=chosen.layers,
        float_layers=list(chosen.kept),
        boxes_that_stay=chosen.score.agreement or 0.0,
        mean_change=chosen.score.relative_error,
        float_export=exported,
    )


def _rounded(path: Path) -> set[str]:
    """Return the names of the nodes of a detector's file that become int8.

    These are its layers, what trunk and pyramid do with their maps, and ReLU in the heads. Sizes, which trunk and
    pyramid also compute with, come from no layer but by way of an operator `Shape`.
    """
    import onnx

    maps: set[str] = set()
    found = set()
    for node in onnx.load(str(path)).graph.node:
        if node.op_type in LAYERS or (node.op_type != "Shape" and maps.intersection(node.input)):
            maps.update(node.output)
            if node.op_type in (*LAYERS, "Relu") or "/network/backbone/" in node.name:
                found.add(node.name)
    return found


class _Judge:
    """Runs a detector's files on images and compares their boxes with the float file's."""

    def __init__(
        self, plain: Path, images: Sequence[np.ndarray], runtimes: Sequence[str], least_score: float
    ) -> None:
        self._images, self._runtimes, self._least = images, runtimes, least_score
        self._expected = self._found(plain, images, runtimes[0])
        if not any((found["scores"] >= least_score).any() for found in self._expected):
            raise InputError(
                f"nothing with a score of {least_score:g} is found in the calibration images, so that int8 cannot be "
                "judged; give images that show what the detector detects, or a lower least score"
            )

    def _found(self, path: Path, images: Sequence[np.ndarray], runtime: str) -> list[dict[str, np.ndarray]]:
        session = load_detector_file(path, runtime=runtime)
        return [session.run(image) for image in images]

    def score(self, path: Path) -> Score:
        """Return the share of boxes that stay, and how much they change, where that is least."""
        scores = [
            Score(*boxes_that_stay(self._expected, found, least_score=self._least))
            for found in (self._found(path, self._images, runtime) for runtime in self._runtimes)
        ]
        return min(scores, key=lambda score: score.agreement or 0.0)

    def harm(self, path: Path) -> float:
        """Return how much the boxes change, on a few images in the first runtime."""
        few = self._images[:_RANKING_IMAGES]
        found = self._found(path, few, self._runtimes[0])
        return boxes_that_stay(self._expected[: len(few)], found, least_score=self._least)[1]
