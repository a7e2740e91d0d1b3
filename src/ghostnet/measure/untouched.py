"""Networks that are measured and left as they were: compiled ones as they were written, buffers that come back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


def as_written(model: nn.Module) -> nn.Module:
    """Return what `torch.compile` wraps, whose layers have their own names, and any other network as it is.

    Example:
        >>> as_written(torch.compile(nn.ReLU()))
        ReLU()
    """
    wrapped: nn.Module = getattr(model, "_orig_mod", model)
    return wrapped


@contextlib.contextmanager
def restored_buffers(model: nn.Module) -> Iterator[None]:
    """Give a network its buffers and their values back after the block: some count or cache as they run.

    Example:
        >>> norm = nn.BatchNorm2d(1)
        >>> with restored_buffers(norm):
        ...     _ = norm.running_mean.fill_(5)
        >>> norm.running_mean
        tensor([0.])
    """
    held = [
        (
            module,
            dict(module._buffers),
            {name: b.clone() for name, b in module._buffers.items() if b is not None},
        )
        for module in model.modules()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, buffers, values in held:
                module._buffers.clear()
                module._buffers.update(buffers)
                for name, value in values.items():
                    buffer = buffers[name]
                    if buffer is not None and not value.is_meta and not torch.equal(buffer, value):
                        buffer.copy_(value)
