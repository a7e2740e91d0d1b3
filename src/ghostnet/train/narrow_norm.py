"""Training-mode batch norm of maps with few channels on CPUs, at full vector width.

ATen's channels_last kernels vectorise over channels: with 8 of them, half of Ghost-ResNet-20's 16, they run scalar.
The same memory is also a matrix whose rows hold k pixels each and are k C wide; its column statistics and sums, merged
over the k groups, are those of the channels. Exact up to rounding, no other batch norm than that of Ioffe and Szegedy
(2015). Left out, and computed by `nn.BatchNorm2d` itself: everything that `_pays` turns down.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ghostnet.train.native import forward_replaced, is_channels_last, on_plain_cpu

_COLUMNS = 256  # of a row at most: statistics take 0.32 ms at 32, 0.21 ms at 128 and no less at 1024
_LANES = {torch.bfloat16: 32, torch.float32: 16}  # of ATen's vectors with AVX-512; with AVX2 it has half
# Measured on one core of a Zen 4 with cold caches, time over the native kernels': 0.38-0.56 for 2-14 channels at 32x32
# and batch 128, about 1 for 16, 0.7-0.9 for 20-30; at a quarter of a million elements about 1, since the small
# operators around the kernels cost 0.3 ms. In float32, where a vector holds 16, 0.25-0.66 and about 1 for 8 channels.
# On an Intel Xeon with AMX, maps of 28x28 to 112x112 at batch 32, in bfloat16: 0.34-0.72 for 8 and 12 channels,
# 0.50-0.97 for 18-31, 0.73-0.90 for 36, 44 and 60 (which GhostNets have), about 1 and more for most others from 32 on.
_NARROW = {
    torch.bfloat16: frozenset(range(2, 32)) - {16} | {36, 44, 60},
    torch.float32: frozenset(range(2, 16)) - {8},
}
_MIN_ELEMENTS = 1 << 19


@contextmanager
def fast_narrow_norms(model: nn.Module) -> Iterator[int]:
    """Compute the batch norms of a network in training at full vector width where that pays, while the block runs.

    Only `forward` of the modules is replaced, and given back at the end whatever happens.

    Args:
        model: the network; its norms of exactly the type `nn.BatchNorm2d` take part that have weights, running
            statistics and a momentum.

    Yields:
        How many norms take part; which way one goes is decided anew for each input.

    Example:
        >>> with fast_narrow_norms(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))) as norms:
        ...     norms
        1
    """
    norms = (module for module in model.modules() if _takes_part(module))
    with forward_replaced(norms, _forward) as count:
        yield count


def narrow_batch_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Normalise by the statistics of the batch and update the running ones, as `norm(x)` does in training mode.

    Args:
        x: maps `(N, C, H, W)` in channels_last on a CPU, bfloat16 or float32; some k divides `N H W` and makes
            `k C` a multiple of 32 or 16.
        norm: weights, running statistics, momentum and epsilon, in float32.

    Returns:
        `(N, C, H, W)` in channels_last.
    """
    output: Tensor = _NarrowBatchNorm.apply(
        x, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps
    )
    assert norm.num_batches_tracked is not None  # for the type checker
    norm.num_batches_tracked.add_(1)
    return output


def _takes_part(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    return (
        type(module) is nn.BatchNorm2d
        and module.affine
        and module.track_running_stats
        and module.momentum is not None
    )


def _forward(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    return narrow_batch_norm(x, norm) if _pays(norm, x) else nn.BatchNorm2d.forward(norm, x)


def _pays(norm: nn.BatchNorm2d, x: Tensor) -> bool:
    """Say whether the maps are such that the native kernels are the slower ones."""
    if not norm.training or type(x) is not Tensor or x.dim() != 4:
        return False
    if x.dtype not in _LANES or x.numel() < _MIN_ELEMENTS or x.shape[1] not in _NARROW[x.dtype]:
        return False
    return _plain(norm, x) and _pixels(x) > 0


def _plain(norm: nn.BatchNorm2d, x: Tensor) -> bool:
    """Say whether memory and types are those that the views and kernels below take."""
    states = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    if any(state is None or state.dtype != torch.float32 for state in states) or norm.momentum is None:
        return False
    return on_plain_cpu(x, *states) and x.shape[1] == norm.num_features and is_channels_last(x)


def _pixels(x: Tensor) -> int:
    """Return how many pixels a row holds: as many as `_COLUMNS` has room for and divide `N H W`; 0 if none do."""
    lanes, channels = _LANES[x.dtype], x.shape[1]
    pixels, count = lanes // math.gcd(channels, lanes), x.numel() // channels
    if count % pixels:
        return 0
    while 2 * pixels * channels <= _COLUMNS and count % (2 * pixels) == 0:
        pixels *= 2
    return pixels


def _rows(maps: Tensor, columns: int) -> Tensor:
    """View channels_last maps as a matrix `(N H W / k, k C)`."""
    return maps.permute(0, 2, 3, 1).view(-1, columns)


def _maps(rows: Tensor, like: Tensor) -> Tensor:
    count, channels, height, width = like.shape
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


def _tiled(pixels: int, *values: Tensor) -> tuple[Tensor, ...]:
    """Repeat values of channels for each pixel of a row; `Tensor.repeat` takes 20 us longer."""
    return torch.stack(values)[:, None].expand(-1, pixels, -1).reshape(len(values), -1).unbind()


def _statistics(rows: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel, in float32."""
    kept = torch.zeros(2, rows.shape[1])  # with these in float32 the kernel's answers are, too
    found = torch.ops.aten.batch_norm_update_stats(rows, kept[0], kept[1], 0.0)
    means, variances = (value.view(pixels, -1) for value in found)
    between, mean = torch.var_mean(means, 0, correction=0)
    return mean, variances.mean(0).add_(between)


def _affine(rows: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """Return `scale (x - mean) / sqrt(variance + eps) + shift` of each column, coefficients in float32."""
    return torch.native_batch_norm(rows, scale, shift, mean, variance, False, 0.0, eps)[0]


class _NarrowBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        pixels, count = _pixels(x), x.numel() // x.shape[1]
        rows = _rows(x, pixels * x.shape[1])
        mean, variance = _statistics(rows, pixels)
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * (count / (count - 1)), momentum)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        output = torch.empty_like(
            x
        )  # written through a view: what is no view may be changed in place by a ReLU
        unused = mean.new_empty(0)
        into = (_rows(output, rows.shape[1]), unused, unused)
        scale, shift, centre, width = _tiled(pixels, weight, bias, mean, variance)
        torch.native_batch_norm(rows, scale, shift, centre, width, False, 0.0, eps, out=into)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        invstd = (variance + ctx.eps).rsqrt()
        if torch.is_grad_enabled():  # for second derivatives, which the native kernel has
            found = torch.ops.aten.native_batch_norm_backward(
                gradient, x, weight, None, None, mean, invstd, True, ctx.eps, ctx.needs_input_grad[:3]
            )
            return (*found, None, None, None, None)
        pixels, channels, count = _pixels(x), x.shape[1], x.numel() // x.shape[1]
        rows = _rows(x, pixels * channels)
        upstream = _rows(gradient.contiguous(memory_format=torch.channels_last), pixels * channels)
        centre, width = _tiled(pixels, mean, variance)
        _, *sums = torch.ops.aten.native_batch_norm_backward(
            upstream, rows, width, centre, width, None, None, False, ctx.eps, [False, True, True]
        )
        of_weight, of_bias = torch.stack(sums).view(2, pixels, channels).sum(1)
        if not ctx.needs_input_grad[0]:
            return None, of_weight, of_bias, None, None, None, None
        # scale (dy - mean(dy)) + slope (x - mean): both are rounded to the maps' type, so both go without their mean
        scale = weight * invstd
        slope = scale * invstd * of_weight / -count
        shift = scale * of_bias / -count
        zero, one = torch.zeros_like(mean), torch.ones_like(mean)
        scale, slope, shift, centre, zero, one = _tiled(pixels, scale, slope, shift, mean, zero, one)
        of_x = _affine(rows, slope, zero, centre, one, 0.0)
        of_x.add_(_affine(upstream, scale, shift, zero, one, 0.0))
        return _maps(of_x, x), of_weight, of_bias, None, None, None, None
