"""Batch-norm statistics of a changed network: measured afresh (`reestimate_batch_norm_`), or beside another one's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostnet.errors import InputError
from ghostnet.hooks import input_of
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


@torch.no_grad()
def rematch_batch_norm_(model: nn.Module, reference: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Give a changed network's norms the statistics that make up for the change, in place.

    Both networks see the same images: what these are like cancels out, so that a few do, and a norm whose statistics
    are of other images keeps them but for the change.

    Args:
        model: a network whose weights were changed, in evaluation mode; its norms are those of `reference`.
        reference: the network before, in evaluation mode.
        batches: `(N, C, H, W)` inputs.

    Returns:
        `model`.

    Example:
        >>> before, after = (nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).eval() for _ in range(2))
        >>> _ = after.load_state_dict(before.state_dict())
        >>> _ = after[0].bias.data.add_(5)
        >>> images = torch.rand(4, 1, 3, 3)
        >>> torch.allclose(rematch_batch_norm_(after, before, [images])(images), before(images), atol=1e-5)
        True
    """
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
    whole = {name: [value.double() for value in _statistics(norm)[:2]] for name, norm in norms.items()}
    sums = {name: [torch.zeros_like(values[0]) for _ in range(3)] for name, values in whole.items()}
    runs: Counter[str] = Counter()
    seen: dict[str, list[list[Tensor]]] = {name: [] for name in norms}

    def match(name: str, found: list[Tensor]) -> None:
        if not seen[name]:  # the change decided what runs
            return
        (mean, variance), eps = seen[name].pop(0), norms[name].eps
        change = [mean, found[0], torch.log((found[1] + eps) / (variance + eps))]
        runs[name] += 1
        for total, value in zip(sums[name], change, strict=True):
            total += value
        _set(norms[name], whole[name], change)  # what follows sees it

    for batch in batches:
        for values in seen.values():
            values.clear()
        with _before_norms(reference, norms, lambda name, found: seen[name].append(found)):
            reference(batch.clone())
        with _before_norms(model, norms, match):
            model(batch.clone())
    for name, count in runs.items():
        _set(norms[name], whole[name], [value / count for value in sums[name]])
    return model


def _set(norm: _BatchNorm, whole: list[Tensor], change: list[Tensor]) -> None:
    """Give a norm the statistics with which it gives what it sees now the mean and the variance that it gave before.

    Args:
        norm: changed in place.
        whole: its mean and variance before.
        change: the mean that it saw, the one that it sees, and the logarithm of the variances' quotient.
    """
    mean, variance, *_ = _statistics(norm)
    mean.copy_(change[1] - (change[2] / 2).exp() * (change[0] - whole[0]))
    variance.copy_(((whole[1] + norm.eps) * change[2].exp() - norm.eps).clamp_min(0))


@contextmanager
def _before_norms(
    model: nn.Module, names: Iterable[str], tell: Callable[[str, list[Tensor]], None]
) -> Iterator[None]:
    """Tell a function the mean and the variance that norms are about to see, float64 `(C,)` each."""

    def hook(name: str) -> Callable[..., None]:
        def told(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            maps = input_of(args, kwargs).detach().double().transpose(0, 1).flatten(1)
            tell(name, [maps.mean(1), maps.var(1, correction=0)])

        return told

    handles = [
        model.get_submodule(name).register_forward_pre_hook(hook(name), with_kwargs=True) for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _statistics(norm: _BatchNorm) -> list[Tensor]:
    return [
        value
        for value in (norm.running_mean, norm.running_var, norm.num_batches_tracked)
        if value is not None
    ]
