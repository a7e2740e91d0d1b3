"""Ten real images with boxes, and small detectors."""

import json
from pathlib import Path

import pytest
import torch

from ghostnet.data import read_coco
from ghostnet.detect import create_detector, light_settings
from ghostnet.models import create_model

CELLS = Path(__file__).parent / "cells"
CLASSES = ["Platelets", "RBC", "WBC"]


@pytest.fixture(scope="session")
def cells():
    return read_coco(CELLS / "cells.json")


@pytest.fixture
def content():
    return json.loads((CELLS / "cells.json").read_text())


@pytest.fixture
def small_detector():
    """Return a maker of light detectors on GhostNet 0.5x with random weights that find something."""

    def make(kind, **changes):
        torch.manual_seed(0)
        settings = {"min_size": 128, "max_size": 192, "freeze_batch_norm": False, **changes}
        return create_detector(create_model("ghostnet_050"), CLASSES, light_settings(kind, **settings))

    return make
