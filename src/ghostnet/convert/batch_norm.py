"""Batch-norm statistics of a network measured afresh: `reestimate_batch_norm_`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostnet.errors import InputError
from ghostnet.modes import evaluating


@torch.no_grad()
def reestimate_batch_norm_(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Replace all running means and variances by their exact averages over the batches, in place.

    Args:
        model: any module; its modes and momenta are as before afterwards, and dropout stays off. Batch norms that do
            not run in evaluation mode keep what they have, and so do all when the network raises an error.
        batches: `(N, C, H, W)` inputs; every batch counts the same, and a single image at the end belongs to the batch
            before it.

    Returns:
        The same model.

    Raises:
        InputError: there is no batch, or a batch norm sees a single value of each channel.

    Example:
        >>> norm = nn.BatchNorm2d(1)
        >>> round(float(reestimate_batch_norm_(norm, [torch.full((2, 1, 2, 2), 3.0)]).running_mean), 3)
        3.0
    """
    inputs = list(batches)
    if not inputs:
        raise InputError("no batches to re-estimate batch norm from; give at least one (N, C, H, W) tensor.")
    if len(inputs) > 1 and len(inputs[-1]) == 1 and inputs[-1].shape[1:] == inputs[-2].shape[1:]:
        inputs[-2:] = [torch.cat(inputs[-2:])]  # of one image and one pixel there is no variance
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    before = [[value.clone() for value in _statistics(norm)] for norm in norms]
    done = False
    try:
        with evaluating(model):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None
                norm.train()
            for batch in inputs:
                model(batch.clone())
        done = True
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            "a batch norm behind a pooling to one pixel needs at least two images a batch; give more images"
        ) from error
    finally:
        for norm, momentum, known in zip(norms, momenta, before, strict=True):
            norm.momentum = momentum
            if not done or not norm.num_batches_tracked:
                for value, earlier in zip(_statistics(norm), known, strict=True):
                    value.copy_(earlier)
    return model


def _statistics(norm: _BatchNorm) -> list[Tensor]:
    return [
        value
        for value in (norm.running_mean, norm.running_var, norm.num_batches_tracked)
        if value is not None
    ]
