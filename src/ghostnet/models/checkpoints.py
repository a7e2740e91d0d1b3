"""Other people's PyTorch checkpoints as state dictionaries: read without running code, prefixes taken off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ghostnet.errors import InputError

ENDINGS = (".pth", ".pt", ".th", ".bin", ".ckpt")
_PREFIXES = ("module.", "_orig_mod.")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a PyTorch checkpoint with the restricted unpickler (`weights_only=True`).

    Args:
        path: a file of `torch.save`: a state dictionary, or a dictionary that holds one as "state_dict" or "model".

    Returns:
        Tensors by name, without the prefixes that DataParallel and `torch.compile` add.

    Raises:
        InputError: missing, damaged, or more than tensors and plain values.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path} cannot be read as plain weights: damaged, or it holds code") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} holds no state dictionary of tensors")
    return {_stripped(name): value for name, value in content.items()}


def _stripped(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name
