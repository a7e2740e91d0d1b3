"""An exported file in the place of a network, so that `eval` and `predict` take files of every runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ghostnet.errors import InputError
from ghostnet.files import size_in_bytes

if TYPE_CHECKING:
    from torch import nn


def open_exported(path: str, weights: str | None) -> nn.Module:
    """Return an exported file as a module on the CPU: it runs in its own runtime, with one thread.

    What the manifest says of images and classes is in `ghostnet_info`; `exported_facts` holds runtime, precision,
    bytes and what quantisation did.

    Raises:
        InputError: weights are given too, the file cannot be used, takes images that are no squares, or its answer is
            no classifier's.
    """
    if weights is not None:
        raise InputError(f"{path} holds its weights already; leave out --weights")
    import torch

    from ghostnet import deploy

    refuse_detector(path)
    session = deploy.load(path)
    if len(session.outputs) > 1:
        raise InputError(
            f"{path} has the outputs {', '.join(session.outputs)} and is no classifier; "
            "ghostnet.deploy.load in Python runs it"
        )

    sides = session.input_size[-2:]
    if len(set(sides)) > 1 and all(isinstance(side, int) for side in sides):
        raise InputError(
            f"{path} takes images of {'x'.join(map(str, sides))} pixels (height, width), and image files become "
            "squares; ghostnet.deploy.load in Python runs it on arrays"
        )

    class Exported(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(session.predict(images.contiguous().numpy()))

    network = Exported().eval()
    if all(isinstance(size, int) for size in session.input_size):
        network.ghostnet_origin = {"library": session.target, "input_size": list(session.input_size)}  # type: ignore[assignment]
    facts = {
        "runtime": session.target,
        "precision": session.precision,
        "bytes": sum(size_in_bytes(file) for file in session.files),
    }
    if session.manifest is not None:
        known = {**(session.manifest.preprocessing or {}), "classes": session.manifest.classes}
        network.ghostnet_info = {key: value for key, value in known.items() if value}  # type: ignore[assignment]
        facts |= {"versions": session.manifest.versions, "quantisation": session.manifest.quantisation}
    network.exported_facts = facts  # type: ignore[assignment]
    return network


def refuse_detector(path: str) -> None:
    """Raise where an ONNX file is an exported detector, which answers with boxes.

    Raises:
        InputError: it is.
    """
    if not path.lower().endswith(".onnx") or Path(f"{path}.json").is_file() or not Path(path).is_file():
        return
    try:
        import onnx

        outputs = [output.name for output in onnx.load(path, load_external_data=False).graph.output]
    except Exception:  # whoever opens the file says what is wrong with it
        return
    if outputs == ["boxes", "labels", "scores"]:
        raise InputError(
            f"{path} is an exported detector; use ghostnet detect bench, detect eval or detect predict"
        )
