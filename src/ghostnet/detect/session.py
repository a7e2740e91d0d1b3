"""Running an exported detector: an image in, boxes out, in ONNX Runtime or OpenVINO, without torch in between."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ghostnet import openvino_core
from ghostnet.errors import InputError, first_line, unknown_name

RUNTIMES = ("onnxruntime", "openvino")
_Run = Callable[[np.ndarray], list[np.ndarray]]


class DetectorSession:
    """An exported detector, loaded; make one with `load_detector_file`.

    Attributes:
        path: the file it came from.
        classes: names; a label is an index into them.
    """

    def __init__(self, run: _Run, path: Path, classes: list[str]) -> None:
        self._run = run
        self.path = path
        self.classes = classes

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return `boxes` `(n, 4)`, `labels` `(n,)` and `scores` `(n,)`, the highest score first.

        Args:
            image: uint8 or float32 in [0, 1], `(3, H, W)`, RGB.

        Raises:
            InputError: another type or shape.
        """
        if not isinstance(image, np.ndarray) or image.dtype not in (np.uint8, np.float32):
            found = getattr(image, "dtype", type(image).__name__)
            raise InputError(f"a detector takes a uint8 or float32 numpy array, not {found}")
        if image.ndim != 3 or image.shape[0] != 3:
            raise InputError(f"a detector takes one image (3, H, W), not an array of shape {image.shape}")
        values = image.astype(np.float32) / 255 if image.dtype == np.uint8 else image
        boxes, labels, scores = self._run(values)
        return {"boxes": boxes.reshape(-1, 4), "labels": labels.reshape(-1), "scores": scores.reshape(-1)}


def load_detector_file(
    path: str | os.PathLike[str], *, runtime: str = "onnxruntime", threads: int = 1
) -> DetectorSession:
    """Load a file that `export_detector` wrote.

    Args:
        path: the ONNX file.
        runtime: "onnxruntime" or "openvino", both on the CPU.
        threads: threads inside one operator, >= 1.

    Raises:
        InputError: no such file, an unknown runtime, a missing package, or a file that is no exported detector.
    """
    if runtime not in RUNTIMES:
        raise unknown_name("runtime", runtime, RUNTIMES)
    if threads < 1:
        raise InputError(f"threads (={threads}) must be an integer >= 1")
    place = Path(path)
    if not place.is_file():
        raise InputError(f"there is no file {place}; write one with `ghostnet detect export`")
    require(runtime)
    open_file = _open_onnxruntime if runtime == "onnxruntime" else _open_openvino
    try:
        run, classes = open_file(place, threads)
        names = json.loads(classes)
    except Exception as error:  # the runtimes' own classes share no public base class
        reason = first_line(error)
        raise InputError(f"{place} is not an exported detector: {reason}; export it again") from error
    return DetectorSession(run, place, names)


def _open_onnxruntime(path: Path, threads: int) -> tuple[_Run, str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    classes = session.get_modelmeta().custom_metadata_map["classes"]

    def run(image: np.ndarray) -> list[np.ndarray]:
        return list(session.run(["boxes", "labels", "scores"], {"image": image}))

    return run, classes


def _open_openvino(path: Path, threads: int) -> tuple[_Run, str]:
    import onnx

    content = path.read_bytes()
    properties = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    core = openvino_core.core()
    exact = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
    }  # its own choice may be bfloat16
    compiled = core.compile_model(core.read_model(content, b""), "CPU", exact)

    def run(image: np.ndarray) -> list[np.ndarray]:
        found = compiled([image])
        return [np.asarray(found[name]) for name in ("boxes", "labels", "scores")]

    return run, properties["classes"]


def require(*packages: str) -> None:
    """Raise with the pip command unless all packages are installed.

    Raises:
        InputError: one is missing.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise InputError(f'{package} is not installed; run: pip install "ghostnet[export]" {package}')
