"""Saved detectors: the same kind of file as any network of ours, rebuilt from its backbone's origin and settings.

Edits of the backbone are replayed before the detector is built on it, those of the detector (`ghostify(detector)`)
afterwards.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from ghostnet import models
from ghostnet.detect.detector import Detector, create_detector
from ghostnet.detect.settings import DetectorSettings
from ghostnet.errors import InputError, first_line
from ghostnet.models.origin import damaged, rebuild
from ghostnet.models.saved import load_state_, read_saved
from ghostnet.nn.edits import apply_edits_, record_edits_, recorded_edits

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
        detector: on a backbone of the zoo, of torchvision or of timm; converted ones included, before or after the
            detector was built on them.
        path: the file, by custom ending in .safetensors.
        force: overwrite an existing file.
        info: more to keep in the header; JSON-able.

    Raises:
        InputError: the file exists and `force` is false, the backbone's origin is not known, weights not finite, or
            the detector was changed in a way that its file could not rebuild; nothing is written.
    """
    origin: Any = detector.ghostnet_origin
    if origin["backbone"] is None:
        raise InputError(
            "the detector's backbone is a network of your own class, which its file could not rebuild; "
            "save its state_dict instead"
        )
    try:
        with torch.random.fork_rng(devices=[]):
            fresh = _rebuilt(origin, recorded_edits(detector), "the detector")
        changed = _difference(detector, fresh)
    except InputError as error:
        changed = first_line(error)
    if changed is not None:
        raise InputError(
            f"the detector was changed after it was built ({changed}), which its file could not rebuild; convert it "
            "with ghostify, or save its state_dict instead"
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
    origin.setdefault("backbone", None)
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
    detector = _rebuilt(origin, record["edits"], name)
    load_state_(detector, tensors, name)
    detector.ghostnet_info = record["info"]
    return detector.eval()


def _rebuilt(origin: dict[str, Any], edits: list[dict[str, Any]], source: str) -> Detector:
    """Build a detector with fresh weights; `edits` are the detector's own, `source` says where it comes from."""
    backbone: nn.Module = rebuild(origin["backbone"], source)
    apply_edits_(backbone, origin["backbone_edits"])
    backbone.ghostnet_origin = origin["backbone"]
    record_edits_(backbone, origin["backbone_edits"])
    args = origin["args"]
    detector = create_detector(backbone, args["classes"], DetectorSettings.from_dict(args["settings"]))
    apply_edits_(detector, edits)
    record_edits_(detector, edits)
    return detector


def _difference(detector: nn.Module, fresh: nn.Module) -> str | None:
    """Say which module or tensor of two detectors differs in type or shape; None where none does.

    Settings are not compared: torchvision's modules note the sizes of the images that they saw.
    """
    ours, theirs = _parts(detector), _parts(fresh)
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            return f"{name or 'it'} is {ours.get(name, 'missing')} instead of {theirs.get(name, 'missing')}"
    return None


def _parts(detector: nn.Module) -> dict[str, Any]:
    kinds = {name: type(module).__name__ for name, module in detector.named_modules()}
    return {**kinds, **{name: tuple(value.shape) for name, value in detector.state_dict().items()}}
