"""Ghost networks: turn a trained CNN into one that is measurably faster, or start from a light one.

Implements and extends "GhostNet: More Features from Cheap Operations" (CVPR 2020). Importing this package is
cheap: every name below is loaded on first use, and torch with it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ghostnet import convert, data, deploy, detect, measure, models, nn, paper, recipes, report, train
    from ghostnet.convert import ConversionReport, ghostify
    from ghostnet.errors import InputError
    from ghostnet.measure import profile
    from ghostnet.models import create_model, list_models, load, save
    from ghostnet.train import evaluate

__version__ = "0.1.0"

_HOME = {
    "create_model": "ghostnet.models",
    "list_models": "ghostnet.models",
    "load": "ghostnet.models",
    "save": "ghostnet.models",
    "ghostify": "ghostnet.convert",
    "ConversionReport": "ghostnet.convert",
    "profile": "ghostnet.measure",
    "evaluate": "ghostnet.train",
    "InputError": "ghostnet.errors",
}
_ROOMS = (
    "convert",
    "data",
    "deploy",
    "detect",
    "measure",
    "models",
    "nn",
    "paper",
    "recipes",
    "report",
    "train",
)

__all__ = [  # noqa: RUF022  (names first, then rooms)
    "ConversionReport",
    "InputError",
    "create_model",
    "evaluate",
    "ghostify",
    "list_models",
    "load",
    "profile",
    "save",
    "convert",
    "data",
    "deploy",
    "detect",
    "measure",
    "models",
    "nn",
    "paper",
    "recipes",
    "report",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"ghostnet.{name}")
    raise AttributeError(f"module 'ghostnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_ROOMS])
