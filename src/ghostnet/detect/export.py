"""A detector as one ONNX file with everything in it: scaling, network, anchors and non-maximum suppression.

The file takes one image of any size, `image` float32 `(3, H, W)` in [0, 1], and gives `boxes`, `labels` and `scores` in
pixels of that image. It is written by PyTorch's tracing exporter: the newer one (`dynamo=True`) stops at the branches
of torchvision's suppression, whose sizes depend on the image (torch 2.14, torchvision 0.29). The file has no branch:
of the one that torchvision takes where nothing is found OpenVINO answers with memory that nobody wrote.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghostnet.detect.agreement import Agreement, agreement
from ghostnet.detect.detector import Detector
from ghostnet.detect.session import RUNTIMES, load_detector_file, require
from ghostnet.detect.tracing import traceable_torchvision
from ghostnet.errors import unknown_name
from ghostnet.files import atomic_write, refuse_overwrite
from ghostnet.nn.copies import copy_model
from ghostnet.quiet import quiet_python

OPSET = 18
NAMES = ("boxes", "labels", "scores")
PLAIN = (0.5, 0.0, 1.0)  # brightness of images without anything on them
LEAST_IOU = 0.99
MOST_SCORE = 1e-3


@dataclass(frozen=True)
class DetectorExport:
    """What was written and how far it is from PyTorch.

    Attributes:
        path: the file.
        bytes: its size.
        images: how many images both were run on, without the plain one.
        agreement: by runtime ("onnxruntime", "openvino"), see `Agreement`.
    """

    path: str
    bytes: int
    images: int
    agreement: dict[str, Agreement]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return asdict(self)


class _OneImage(nn.Module):
    """A detector on one image, with a tuple of tensors as the graph's outputs."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found = self.detector([image])[0]
        return tuple(found[name] for name in NAMES)


def export_detector(
    detector: Detector,
    path: str | os.PathLike[str],
    *,
    images: Sequence[Tensor] = (),
    runtimes: Sequence[str] = ("onnxruntime",),
    rewrite_trunk: Callable[[nn.Module], nn.Module] | None = None,
    rewrite_file: Callable[[Any], object] | None = None,
    force: bool = False,
) -> DetectorExport:
    """Write a detector to ONNX and check the file against PyTorch, on a plain image too where it finds nothing on one.

    Args:
        detector: on the CPU; it is put into evaluation mode.
        path: the file to write.
        images: uint8 `(3, H, W)` to check it on; none checks on random noise in two sizes.
        runtimes: "onnxruntime", "openvino" or both.
        rewrite_trunk: gives a quicker network of the same maps for the backbone's trunk, which takes images
            `(1, 3, H, W)` and returns a list; None writes it as it is. `recipes.detection.export_rewritten` gives one.
        rewrite_file: changes the finished `onnx.ModelProto` in place, before it is checked.
        force: overwrite an existing file.

    Raises:
        InputError: an unknown runtime, a missing package, an existing file, or an image that is too long and thin.
        RuntimeError: a box differs by more than an overlap of 0.99 or a score by more than 0.001; nothing is kept.
    """
    refuse_overwrite(path, force=force)
    for runtime in runtimes:
        if runtime not in RUNTIMES:
            raise unknown_name("runtime", runtime, RUNTIMES)
    require("onnx", *runtimes)
    size = (detector.settings.min_size, detector.settings.min_size + 32)
    checked = [image.float() / 255 for image in images] or [
        torch.rand(3, *shape, generator=torch.Generator().manual_seed(0)) for shape in (size, size[::-1])
    ]
    for image in checked:
        detector.settings.check_image(*image.shape[1:])  # tracing could not
    network = _OneImage(_rewritten(detector.eval().cpu(), rewrite_trunk)).eval()
    count = len(checked)
    found: dict[str, Agreement] = {}
    with atomic_write(path) as temporary:
        _write(network, temporary, checked[0], detector.classes, rewrite_file)
        checked, expected = _answered(detector, checked)
        for runtime in runtimes:
            session = load_detector_file(temporary, runtime=runtime)
            found[runtime] = agreement(
                expected,
                [session.run(image.numpy()) for image in checked],
                least_score=detector.settings.score_threshold + MOST_SCORE,
            )
            if not found[runtime].within(LEAST_IOU, MOST_SCORE):
                noise = (
                    "" if images else " (noise says nothing to some detectors: give images to check it on)"
                )
                raise RuntimeError(
                    f"the file differs from PyTorch in {runtime}: {found[runtime]}; nothing is kept{noise}"
                )
        size_in_bytes = temporary.stat().st_size
    return DetectorExport(os.fspath(path), size_in_bytes, count, found)


@torch.inference_mode()
def _answered(detector: Detector, images: list[Tensor]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Return the images and PyTorch's answers, and a plain image more where there is one without any box.

    Another plain image is of no use: equal boxes all over it come in any order.
    """
    answers = [detector([image])[0] for image in images]
    for brightness in PLAIN:
        plain = torch.full_like(images[0], brightness)
        nothing = detector([plain])[0]
        if not len(nothing["scores"]):
            return [*images, plain], [*answers, nothing]
    return images, answers


def _rewritten(detector: Detector, rewrite: Callable[[nn.Module], nn.Module] | None) -> Detector:
    if rewrite is None:
        return detector
    changed: Any = copy_model(detector)
    backbone = changed.network.backbone
    backbone.body = rewrite(backbone.body)
    return changed


def _write(
    network: nn.Module,
    path: Path,
    example: Tensor,
    classes: Sequence[str],
    rewrite: Callable[[Any], object] | None,
) -> None:
    import onnx

    axes: dict[str, dict[int, str]] = {"image": {1: "height", 2: "width"}}
    axes |= {name: {0: "detections"} for name in NAMES}
    with quiet_python(), traceable_torchvision():
        torch.onnx.export(
            network,
            (example,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=list(NAMES),
            dynamic_axes=axes,
        )
    proto = onnx.load(str(path))
    onnx.helper.set_model_props(proto, {"classes": json.dumps(list(classes))})
    for node in proto.graph.node:
        node.ClearField("doc_string")  # the exporter's stack traces name paths of this machine
    if rewrite is not None:
        rewrite(proto)
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())
