"""bfloat16 autocast where it is quicker than float32: `bfloat16_autocast`.

A processor or GPU without bfloat16 arithmetic imitates it, and takes many times as long.
"""

from __future__ import annotations

import functools

import torch


def bfloat16_autocast(device: torch.device, *, wanted: bool) -> torch.autocast:
    """Return the context in which a network trains: bfloat16 if it is wanted and the device has it, else float32.

    Example:
        >>> with bfloat16_autocast(torch.device("cpu"), wanted=False):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.float32
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and has_bfloat16(device.type))


@functools.cache
def has_bfloat16(kind: str) -> bool:
    """Return whether devices of this type ("cpu", "cuda", ...) multiply in bfloat16 themselves."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":  # what PyTorch's own convolutions ask before they take oneDNN's
        ask = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
        return ask is not None and bool(ask())
    return True
