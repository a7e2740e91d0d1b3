"""Pruning that chooses channels by what the next layer's output loses and repairs that layer by least squares.

Channel pruning (CP, He et al. 2017; [18] in the paper): LASSO over channels, then the next layer's weights by least
squares. ThiNet (Luo et al. 2017; [39]): greedy removal, then one factor a channel by least squares. Layers are
treated in execution order, on the inputs that the network pruned so far gives them, towards the dense outputs;
behind an addition the target also makes up for the shortcut's error, as in CP's residual enhancement.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ghostnet.convert.observe import observe
from ghostnet.convert.pruning.contributions import (
    Moments,
    Samples,
    by_channel,
    draw_samples,
    moments_of,
    relative_error,
)
from ghostnet.convert.pruning.job import PruneJob
from ghostnet.convert.pruning.sites import PruneSite
from ghostnet.errors import InputError

Choose = Callable[[Moments, int], list[int]]
Repair = Callable[[Samples, Moments, Tensor, list[int]], Tensor]
_RIDGE = (
    1e-4  # of the mean power of the inputs; keeps least squares near the dense weights where data are few
)
_SWEEPS = 100
_BISECTIONS = 30


def prune_channel(job: PruneJob) -> dict[str, Tensor]:
    """Channel pruning with LASSO and least squares; the same share of every layer.

    Differs from the paper: it prunes early layers more than late ones, by shares set by hand.
    """
    return _layer_by_layer(job, lasso_channels, least_squares)


def prune_thinet(job: PruneJob) -> dict[str, Tensor]:
    """ThiNet; the same share of every layer, as in the paper.

    Differs from the paper: no training between the layers, and every output at a sampled position counts, not one.
    """
    return _layer_by_layer(job, greedy_channels, scaled_channels)


@torch.no_grad()
def _layer_by_layer(job: PruneJob, choose: Choose, repair: Repair) -> dict[str, Tensor]:
    counts = {name: len(kept) for name, kept in job.budget.uniform().items()}
    generator = torch.Generator().manual_seed(job.seed)
    observer = observe(job.model, job.pruned, job.batches)
    kept: dict[str, Tensor] = {}
    # a layer that is pruned and repaired (VGG) is repaired first: sites are in the execution order of their readers
    for site in job.sites:
        (reader,) = site.readers
        pairs = None if site.reader_unit is None else observer.pairs(site.reader_unit)
        if pairs is None:
            raise InputError(f"{reader} could not be observed on the calibration images; use method 'l1'")
        kept[site.name], job.errors[reader] = _prune_site(
            job, site, counts[site.name], draw_samples(pairs, *_reader(job, site), generator), choose, repair
        )
    return kept


def _reader(job: PruneJob, site: PruneSite) -> tuple[torch.nn.Module, int]:
    return job.pruned.get_submodule(site.readers[0]), site.channels


def _prune_site(
    job: PruneJob, site: PruneSite, count: int, samples: Samples, choose: Choose, repair: Repair
) -> tuple[Tensor, float]:
    """Write the repaired weights, zero where channels go, into the reader; return what stays, and the error."""
    layer, channels = _reader(job, site)
    target: Tensor = layer.weight  # type: ignore[assignment]
    weight = by_channel(target, channels)
    moments = moments_of(samples, weight)
    chosen = list(range(channels)) if count == channels else sorted(choose(moments, count))
    repaired = torch.zeros_like(weight)
    repaired[chosen] = repair(samples, moments, weight, chosen)
    target.copy_(repaired.permute(2, 0, 1).reshape(target.shape).to(target.dtype))
    gone = torch.tensor(sorted({*range(channels)} - {*chosen}))
    for path in site.squeezes:  # they are cut alike: what follows is to see the network as it will be
        job.pruned.get_submodule(path).weight[:, torch.isin(site.inputs[path], gone)] = 0  # type: ignore[operator]
    return torch.tensor(chosen), relative_error(samples, repaired)


def lasso_channels(moments: Moments, count: int) -> list[int]:
    """Choose channels by LASSO, min over b of `1/2 |Y - sum b_c Z_c|^2 + penalty |b|_1`, with a rising penalty.

    Args:
        moments: of the contributions.
        count: how many channels stay.

    Returns:
        Their indices.
    """
    gram, product = moments.gram.cpu().numpy(), moments.product.cpu().numpy()
    low, high = 0.0, float(np.abs(product).max()) or 1.0
    best = np.ones(len(product))
    factors = np.ones(len(product))
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        factors = _coordinate_descent(gram, product, middle, factors)
        left = int(np.count_nonzero(factors))
        if left >= count:
            low, best = middle, factors.copy()
        else:
            high = middle
        if left == count:
            break
    strength = np.abs(best) * np.sqrt(np.diag(gram).clip(min=0.0))
    return [int(index) for index in np.argsort(-strength, kind="stable")[:count]]


def _coordinate_descent(
    gram: np.ndarray, product: np.ndarray, penalty: float, start: np.ndarray
) -> np.ndarray:
    factors, power = start.copy(), np.diag(gram)
    residual = product - gram @ factors
    for _ in range(_SWEEPS):
        largest = 0.0
        for channel in np.flatnonzero(power > 0):
            old = factors[channel]
            pull = residual[channel] + power[channel] * old
            new = np.sign(pull) * max(0.0, abs(pull) - penalty) / power[channel]
            if new != old:
                residual -= gram[:, channel] * (new - old)
                factors[channel] = new
                largest = max(largest, abs(new - old))
        if largest < 1e-4:
            break
    factors[power <= 0] = 0.0
    return factors


def greedy_channels(moments: Moments, count: int) -> list[int]:
    """Choose by removing, one at a time, the channel that keeps the removed ones' summed contribution smallest.

    Args:
        moments: of the contributions.
        count: how many channels stay.

    Returns:
        Their indices.
    """
    gram = moments.gram
    cost = gram.diagonal().clone()
    left = list(range(len(gram)))
    while len(left) > count:
        removed = min(left, key=lambda channel: float(cost[channel]))
        left.remove(removed)
        cost += 2 * gram[removed]
    return left


def least_squares(samples: Samples, _moments: Moments, weight: Tensor, chosen: list[int]) -> Tensor:
    """Return the weights `(chosen, values, outputs)` nearest to the wanted outputs, drawn a little to the old ones."""
    kept = weight[chosen]
    inputs = samples.patches[:, chosen].flatten(1)
    missing = samples.wanted - inputs @ kept.flatten(0, 1)
    second = inputs.T @ inputs / len(inputs)
    second.diagonal().add_(_RIDGE * second.diagonal().mean().clamp_min(1e-12))
    change = torch.linalg.solve(second, inputs.T @ missing / len(inputs))
    return kept + change.view_as(kept)


def scaled_channels(_samples: Samples, moments: Moments, weight: Tensor, chosen: list[int]) -> Tensor:
    """Return the old weights `(chosen, values, outputs)`, each channel's times the factor that serves best."""
    gram = moments.gram[chosen][:, chosen].clone()
    ridge = _RIDGE * gram.diagonal().mean().clamp_min(1e-12)
    right = moments.product[chosen] + ridge  # the ridge draws the factors to 1
    gram.diagonal().add_(ridge)
    return weight[chosen] * torch.linalg.solve(gram, right)[:, None, None]
