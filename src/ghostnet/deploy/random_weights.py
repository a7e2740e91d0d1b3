"""Random batch-norm statistics for a network with random weights, so that its speed is that of a trained one.

Fresh batch norms do nothing and fresh biases are zero: maps then shrink from layer to layer until they are denormal
numbers, which processors handle many times slower, and a runtime may drop what adds zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ghostnet.hooks import input_of

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_IMAGES = 4
_LEAST_MOMENT = 0.05  # of a layer's mean; an almost dead channel would be blown up


@torch.no_grad()
def randomise_statistics_(model: nn.Module, input_size: Sequence[int], *, seed: int = 0) -> nn.Module:
    """Give every batch norm and bias plausible random values, in place.

    Scales and shifts are drawn, shifts around 0.5. The variances are the second moments that random images give, layer
    after layer, each changed by up to a quarter, the means a draw of that size: maps keep their size through the whole
    network. (True variances with shifts around 0 would not do: behind many random layers all images look alike, and
    dividing by what little differs blows rounding errors up. Ghost-ResNet-50 in float32 was then 6e-5 from itself in
    float64, and is 1e-6 from it so.)

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
    handles = []
    for module in model.eval().modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            module.bias.copy_(0.1 * torch.randn(module.bias.shape, generator=generator))
        if isinstance(module, _NORMS) and module.track_running_stats:
            if module.affine:
                module.weight.copy_(0.5 + torch.rand(module.weight.shape, generator=generator))
                module.bias.copy_(0.5 + 0.3 * torch.randn(module.bias.shape, generator=generator))
            handles.append(module.register_forward_pre_hook(_set_statistics(generator), with_kwargs=True))
    try:
        with torch.random.fork_rng(devices=[]):
            model(torch.randn(_IMAGES, *input_size, generator=generator))
    finally:
        for handle in handles:
            handle.remove()
    return model


def _set_statistics(
    generator: torch.Generator,
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    def set_statistics(norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        maps = input_of(args, kwargs).transpose(0, 1).flatten(1)
        moments = maps.square().mean(1)
        moments.clamp_(min=_LEAST_MOMENT * moments.mean().item() + 1e-12)
        drawn = torch.randn(moments.shape, generator=generator)
        norm.get_buffer("running_mean").copy_(0.3 * moments.sqrt() * drawn)
        norm.get_buffer("running_var").copy_(
            moments * (0.8 + 0.45 * torch.rand(moments.shape, generator=generator))
        )

    return set_statistics
