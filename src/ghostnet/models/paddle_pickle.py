"""PaddlePaddle's .pdparams files read without running code: a pickle that may hold NumPy arrays and plain values only.

`paddle.save` pickles a dictionary of NumPy arrays under structured names, beside a table of other names. Left out:
arrays cut into slices (above 1 GB).
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ghostnet.array_pickle import ArrayUnpickler
from ghostnet.errors import InputError

_CONTAINERS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "tuple"): tuple,
    ("__builtin__", "tuple"): tuple,
}


def read_pdparams(path: str | Path) -> dict[str, Tensor]:
    """Read the weights that `paddle.save(layer.state_dict(), path)` wrote.

    Args:
        path: a .pdparams file.

    Returns:
        Tensors under Paddle's structured names ("conv1._conv.weight"), in Paddle's shapes.

    Raises:
        InputError: missing, damaged, or more than arrays and plain values.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no checkpoint {path}")
    try:
        with Path(path).open("rb") as stream:
            content = ArrayUnpickler(stream, also=_CONTAINERS).load()
    except Exception as error:  # a damaged pickle may raise nearly anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path} cannot be read as plain arrays ({reason}): damaged, or it holds code"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a dictionary of arrays")
    tensors = {str(name): _tensor(value) for name, value in content.items() if not str(name).endswith("@@")}
    if not tensors or any(value is None for value in tensors.values()):
        raise InputError(f"{path} holds no dictionary of numeric arrays")
    return {name: value for name, value in tensors.items() if value is not None}


def _tensor(value: object) -> Tensor | None:
    """Return an array, or the array of a (name, array) pair, as a tensor; None for anything else."""
    if isinstance(value, tuple) and len(value) == 2:
        value = value[1]
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        return None
    return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
