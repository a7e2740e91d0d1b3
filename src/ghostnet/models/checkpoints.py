"""Other people's checkpoints as state dictionaries: read without running code, prefixes taken off."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ghostnet.errors import InputError

ENDINGS = (".pth", ".pt", ".th", ".bin", ".ckpt", ".pth.tar")
# where training scripts keep the weights among other things
_HOLDERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
_PREFIXES = ("module.", "_orig_mod.")
_WRAPPER = "model."  # the attribute in which Lightning's modules, among others, keep the network


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a PyTorch checkpoint with the restricted unpickler (`weights_only=True`).

    Args:
        path: a file of `torch.save`: a state dictionary, or a dictionary that holds one as "state_dict", "model",
            "model_state_dict", "net", "network" or "weights".

    Returns:
        Tensors by name, without the prefixes that DataParallel and `torch.compile` add, and without "model." where all
        have it.

    Raises:
        InputError: missing, damaged, or more than tensors and plain values.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        # training scripts often store their options beside the weights; a Namespace holds values and runs nothing
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*TorchScript archive")  # our line says it
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as plain weights: damaged, or it holds code (a whole network, say: save "
            "model.state_dict() instead)"
        ) from error
    for key in _HOLDERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        found = (
            ", ".join(map(repr, list(content)[:8])) if isinstance(content, dict) else type(content).__name__
        )
        raise InputError(
            f"{path} holds no state dictionary of tensors, by itself or as one of {', '.join(_HOLDERS)}; "
            f"it holds {found}"
        )
    state = {_stripped(name): value for name, value in content.items()}
    if state and all(name.startswith(_WRAPPER) for name in state):
        return {_stripped(name.removeprefix(_WRAPPER)): value for name, value in state.items()}
    return state


def _stripped(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def read_npz(path: str | Path) -> dict[str, Tensor]:
    """Read the arrays of a .npz file; arrays of objects, which are pickles, are refused.

    Raises:
        InputError: missing, damaged, or not numeric.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(np.array(archive[name])) for name in archive.files}
    except Exception as error:
        raise InputError(f"{path} cannot be read as numeric arrays: damaged, or it holds code") from error
