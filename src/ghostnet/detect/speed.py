"""Detectors to time: light ones with random weights, so that backbones can be compared before any training.

Batch norms get random statistics, since those of a fresh network distort timings; scores stay below the threshold, so
that suppression has nothing to do in any of them.
"""

from __future__ import annotations

import torch
from torch import nn

from ghostnet.detect.detector import Detector, create_detector
from ghostnet.detect.settings import KINDS, light_settings
from ghostnet.errors import InputError, unknown_name
from ghostnet.models import create_model

_CLASSES = 80  # COCO's


def fresh_detector(name: str) -> Detector:
    """Return a light detector with random weights, in evaluation mode.

    Args:
        name: "KIND:BACKBONE", for example "retinanet:ghostnet_110".

    Raises:
        InputError: another form, or an unknown detector or backbone.
    """
    kind, separator, backbone = name.partition(":")
    if not separator:
        raise InputError(
            f"{name!r} is no exported file and not KIND:BACKBONE, such as retinanet:ghostnet_110"
        )
    if kind not in KINDS:
        raise unknown_name("detector", kind, KINDS)
    classes = [f"class {number}" for number in range(_CLASSES)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        detector = create_detector(
            create_model(backbone), classes, light_settings(kind, freeze_batch_norm=False)
        )
        for module in detector.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
                nn.init.uniform_(module.weight, 0.4, 0.8)
    return detector.eval()
