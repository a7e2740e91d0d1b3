"""Random batch-norm statistics for a network with random weights, so that its speed is that of a trained one.

Fresh batch norms do nothing and fresh biases are zero: maps then shrink from layer to layer until they are denormal
numbers, which processors handle many times slower, and a runtime may drop what adds zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_IMAGES = 4


@torch.no_grad()
def randomise_statistics_(model: nn.Module, input_size: Sequence[int], *, seed: int = 0) -> nn.Module:
    """Give every batch norm and bias plausible random values, in place.

    Scales and shifts are drawn first; then the statistics are those of random images, each moved by up to a fifth, so
    that maps keep their size through the whole network.

    Args:
        model: a network with random weights.
        input_size: shape of one input without the batch.
        seed: of the draws; the global generator is left as it was.

    Returns:
        `model`, in eval mode.

    Example:
        >>> net = randomise_statistics_(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (3, 8, 8))
        >>> bool((net[1].running_mean != 0).all())
        True
    """
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    norms = [
        module for module in model.modules() if isinstance(module, _NORMS) and module.track_running_stats
    ]
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            module.bias.copy_(0.1 * torch.randn(module.bias.shape, generator=generator))
    for norm in norms:
        if norm.affine:
            norm.weight.copy_(0.5 + torch.rand(norm.weight.shape, generator=generator))
            norm.bias.copy_(0.3 * torch.randn(norm.bias.shape, generator=generator))
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.random.fork_rng(devices=[]):
        model(torch.randn(_IMAGES, *input_size, generator=generator))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        mean.add_(0.2 * variance.sqrt() * torch.randn(mean.shape, generator=generator))
        variance.mul_(0.8 + 0.45 * torch.rand(variance.shape, generator=generator)).clamp_(min=1e-4)
    return model.eval()
