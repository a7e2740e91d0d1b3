"""Whether two networks answer the same, whatever their answers are made of: `agree`, `agree_on_any`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ghostnet.modes import restored_modes
from ghostnet.nn.sizes import values_in

_TOLERANCE = 1e-3  # of the largest value of an answer, in float32
_TOLERANCE_OF_HALVES = 5e-2


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


def probes(example: Tensor) -> list[Tensor]:
    """Return what two networks are compared on: one image of an example `(N, C, H, W)`, and noise of its shape."""
    noise = torch.rand(example[:1].shape, generator=torch.Generator().manual_seed(0))
    return [example[:1], noise.to(example)]


def answers_to(model: nn.Module, images: list[Tensor]) -> list[Any]:
    """Return a network's answers in evaluation mode; its modules keep their own modes, the images their values."""
    with restored_modes(model), same_random_numbers(images[0].device):
        model.eval()
        return [model(one.clone()) for one in images]


def agree_on_any(expected: list[Any], found: list[Any], dtype: torch.dtype) -> bool:
    """Tell whether two networks gave one of the images the same answer, up to what `dtype` rounds in many layers.

    Args:
        expected: from `answers_to`.
        found: likewise.
        dtype: of the images.
    """
    tolerance = _TOLERANCE if dtype in (torch.float32, torch.float64) else _TOLERANCE_OF_HALVES
    return any(agree(one, other, tolerance) for one, other in zip(expected, found, strict=True))
