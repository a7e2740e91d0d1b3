"""Saved detectors: the same kind of file as any network of ours, rebuilt from its backbone's origin and settings."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from ghostnet import models
from ghostnet.detect.detector import Detector, create_detector
from ghostnet.detect.settings import DetectorSettings
from ghostnet.errors import InputError
from ghostnet.models.origin import damaged, rebuild
from ghostnet.models.saved import load_state_, read_saved
from ghostnet.nn.edits import apply_edits_

_LIBRARY = "ghostnet.detect"


def save_detector(
    detector: Detector,
    path: str | os.PathLike[str],
    *,
    force: bool = True,
    info: dict[str, Any] | None = None,
) -> None:
    """Write a detector so that `load_detector` rebuilds it.

    Args:
        detector: on a backbone of the zoo, of torchvision or of timm, converted ones included.
        path: the file, by custom ending in .safetensors.
        force: overwrite an existing file.
        info: more to keep in the header; JSON-able.

    Raises:
        InputError: the file exists and `force` is false, the backbone's origin is not known, or weights not finite.
    """
    if detector.ghostnet_origin["backbone"] is None:  # type: ignore[index]
        raise InputError(
            "the detector's backbone is a network of your own class, which its file could not rebuild; "
            "save its state_dict instead"
        )
    models.save(detector, path, force=force, info=info)


def load_detector(path: str | os.PathLike[str], *, classes: int | None = None) -> Detector:
    """Rebuild a saved detector in evaluation mode; its `info` is in the attribute `ghostnet_info`.

    Args:
        path: a file of `save_detector`.
        classes: how many classes it must tell apart; None takes what it has.

    Raises:
        InputError: no such file, a file that holds no detector, or another number of classes.
    """
    name = os.fspath(path)
    record, tensors = read_saved(name)
    origin = record["origin"] or {}
    if origin.get("library") != _LIBRARY:
        raise InputError(f"{name} holds a classifier, no detector; train one with `ghostnet detect train`")
    names: Any = origin["args"].get("classes")
    settings: Any = origin["args"].get("settings")
    edits: Any = origin.get("backbone_edits")
    for part, value, kind in (
        ("classes", names, list),
        ("settings", settings, dict),
        ("backbone's edits", edits, list),
    ):
        if not isinstance(value, kind):
            raise damaged(name, part, value)
    if classes is not None and classes != len(names):
        raise InputError(
            f"{name} was trained on {len(names)} classes ({', '.join(names[:5])}{', …' if len(names) > 5 else ''}), "
            f"not {classes}; train a detector on yours, or evaluate on a set with these classes"
        )
    backbone: nn.Module = rebuild(origin.get("backbone"), name)
    apply_edits_(backbone, edits)
    backbone.ghostnet_origin = origin.get("backbone")  # type: ignore[assignment]
    backbone.ghostnet_edits = edits
    detector = create_detector(backbone, names, DetectorSettings.from_dict(settings))
    load_state_(detector, tensors, name)
    detector.ghostnet_info = record["info"]
    return detector.eval()
