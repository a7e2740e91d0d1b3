"""Whether two networks answer the same, whatever their answers are made of: `agree`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ghostnet.nn.sizes import values_in


@contextmanager
def same_random_numbers(device: torch.device) -> Iterator[None]:
    """Draw the same random numbers in each such block, and leave the generators as they were.

    Args:
        device: of the tensors in the block.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


def agree(expected: Any, found: Any, tolerance: float) -> bool:
    """Tell whether two answers have the same parts, with tensors that differ by rounding alone.

    Args:
        expected: a tensor, or whatever holds tensors (tuples, dictionaries, data classes, ...).
        found: likewise.
        tolerance: of a difference, as a share of the expected tensor's largest value.

    Example:
        >>> agree((torch.ones(2), "a"), (torch.ones(2) + 1e-6, "a"), 1e-4)
        True
    """
    one, other = list(values_in(expected)), list(values_in(found))
    return len(one) == len(other) and all(
        _agree(first, second, tolerance) for first, second in zip(one, other, strict=True)
    )


def _agree(one: Any, other: Any, tolerance: float) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return type(one) is type(other) and one == other
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    scale = float(one.abs().max()) if one.numel() else 0.0
    return torch.allclose(one.double(), other.double(), rtol=0, atol=tolerance * scale, equal_nan=True)
