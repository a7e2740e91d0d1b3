"""Functions that exporters refuse or write wrongly, called in a way that they know while a network is traced.

PyTorch's ONNX exporter refuses `clamp` with one integer and one float bound, as in `x.clamp(0, 1.5)`. It, and the
reader of OpenVINO, write LogSigmoid as the logarithm of a sigmoid, which is minus infinity from -104 on, and Softplus
as a choice between two values, for which C has no kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ghostnet.deploy.passes.stand_ins import StandIns

_OF_TENSORS = (Tensor.clamp, Tensor.clamp_, Tensor.clip, Tensor.clip_)
_CLAMPS = (torch.clamp, torch.clamp_, torch.clip, torch.clip_, *_OF_TENSORS)


class KnownForms(StandIns):
    """While a network is traced, bounds of `clamp` are floats; Softplus and LogSigmoid cannot overflow."""

    def called(self, func: Callable[..., Any], args: Sequence[Any], given: dict[str, Any]) -> Any:
        """Call the function in a form that exporters know."""
        maps = args[0] if args else given.get("input")
        if isinstance(maps, Tensor) and maps.is_floating_point():
            if func in _CLAMPS:
                return func(
                    *args[:1], *map(_float, args[1:]), **{key: _float(value) for key, value in given.items()}
                )
            if func is F.logsigmoid:
                return -_softplus(-maps)
            if func is F.softplus:
                beta = args[1] if len(args) > 1 else given.get("beta", 1.0)
                return _softplus(maps * beta) / beta if beta != 1 else _softplus(maps)
        return super().called(func, args, given)


def _softplus(maps: Tensor) -> Tensor:
    return torch.relu(maps) + torch.log1p(torch.exp(-torch.abs(maps)))


def _float(bound: Any) -> Any:
    return float(bound) if isinstance(bound, int) and not isinstance(bound, bool) else bound
