"""Calibration images for whoever has none: `synthetic_images`, drawn, then moved until the network knows them.

A trained network's batch norms remember mean and variance of every channel they saw. Images whose maps have the same
ones calibrate nearly as well as real ones ("ZeroQ", Cai et al. 2020, which begins with noise; here with `dead_leaves`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ghostnet.convert.calibration import check_images_fit
from ghostnet.convert.dead_leaves import dead_leaves
from ghostnet.errors import InputError
from ghostnet.hooks import input_of
from ghostnet.nn.copies import copy_model
from ghostnet.progress import Progress

_RATE = 0.05  # of Adam's first step; images have a standard deviation of 1
_BETAS = (0.5, 0.9)
_BATCH_PIXELS = 2**20  # of images that are moved together: their norms' statistics are those of the batch


def synthetic_images(
    model: nn.Module,
    count: int = 256,
    *,
    input_size: Sequence[int] = (3, 224, 224),
    steps: int = 50,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """Make images that stand in for a network's calibration images, where there are none.

    Dead leaves, moved by gradient descent until mean and variance of every map before a batch norm are what that norm
    remembers. A network without batch norms gets the leaves as they are.

    Args:
        model: the trained network; not changed.
        count: images, >= 1.
        input_size: `(C, H, W)`.
        steps: of Adam, for each batch; 0 leaves the leaves as they are.
        seed: of the leaves.
        progress: show a bar on standard error.

    Returns:
        `(count, C, H, W)`, normalised, on the model's device and in the type of its parameters.

    Raises:
        InputError: a count, size or number of steps out of range, or a network that does not run on such images or
            gives NaN.

    Example:
        >>> dense = ghostnet.load("resnet9_050")  # doctest: +SKIP
        >>> images = synthetic_images(dense, input_size=(3, 32, 32))  # doctest: +SKIP
        >>> ghost, report = ghostnet.ghostify(dense, calibration=images)  # doctest: +SKIP
    """
    size = tuple(input_size)
    whole = all(type(number) is int for number in (count, steps, *size))
    if not whole or count < 1 or steps < 0 or len(size) != 3 or min(size) < 1:
        raise InputError(
            f"`count` (={count!r}) must be an integer >= 1, `steps` (={steps!r}) one >= 0, and `input_size` (={size}) "
            "three of them, (C, H, W)"
        )
    generator = torch.Generator().manual_seed(seed)
    parameter = next(model.parameters(), torch.zeros(()))
    images = dead_leaves(count, size, generator).to(parameter.device)
    check_images_fit(model, images[:1].to(parameter.dtype), name="input_size")
    if not steps or not any(_remembers(module) for module in model.modules()):
        return images.to(parameter.dtype)
    each = max(1, min(256, _BATCH_PIXELS // (size[1] * size[2])))
    batches = images.split(-(-count // -(-count // each)))
    bar = Progress("synthetic images", total=steps * len(batches), unit="steps", enabled=progress)
    with bar, torch.inference_mode(mode=False), torch.enable_grad():
        frozen = copy_model(model).eval().requires_grad_(False).float()
        moved = torch.cat([_moved(frozen, batch.clone(), steps, generator, bar) for batch in batches])
    if not moved.isfinite().all():
        raise InputError(
            "no images have the statistics of this network's batch norms: it gives NaN or infinity on them"
        )
    return moved.to(parameter.dtype)


def _moved(model: nn.Module, images: Tensor, steps: int, generator: torch.Generator, bar: Progress) -> Tensor:
    """Move images until their maps have the mean and variance that the model's norms remember."""
    distances: list[Tensor] = []

    def note_distance(norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        maps = input_of(args, kwargs)
        if maps.dim() == 4:
            distances.append(_distance(norm, maps))

    change, scale = torch.zeros_like(images, requires_grad=True), _pink(images)
    hooks = [
        m.register_forward_pre_hook(note_distance, with_kwargs=True) for m in model.modules() if _remembers(m)
    ]
    adam = torch.optim.Adam([change], _RATE, _BETAS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for step in range(steps):
        distances.clear()
        down, right = torch.randint(-2, 3, (2,), generator=generator).tolist()
        moved = _changed(images, change, scale).roll(
            (down, right), (2, 3)
        )  # what serves at one place only is noise
        model(moved.flip(3) if step % 2 else moved)
        if not distances:
            break
        distance = torch.stack(distances).mean()
        adam.zero_grad()
        distance.backward()
        adam.step()
        schedule.step()
        bar.update(1, f"distance {distance.item():.3f}")
    for hook in hooks:
        hook.remove()
    return _changed(images, change, scale).detach()


def _pink(images: Tensor) -> Tensor:
    """Return weights, one over the frequency, that make of white noise some of variance 1 and of photographs' spectrum.

    Steps in it go as far in large structures as in single pixels, and there is far less noise in what comes out.
    """
    height, width = images.shape[2:]
    across = torch.fft.rfftfreq(width)[None]
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], across).clamp_min(1 / max(height, width))
    weights = 1 / frequency
    twice = torch.where((across > 0) & (across < 0.5), 2.0, 1.0)  # columns that stand for their mirrors too
    variance = (weights.square() * twice).sum() / (height * width)
    return (weights / variance.sqrt()).to(images)


def _changed(images: Tensor, change: Tensor, scale: Tensor) -> Tensor:
    return images + torch.fft.irfft2(torch.fft.rfft2(change) * scale, s=change.shape[2:])


def _remembers(module: nn.Module) -> bool:
    """Tell whether a module is a norm with running statistics, frozen ones of torchvision's among them."""
    mean, variance = (getattr(module, name, None) for name in ("running_mean", "running_var"))
    return isinstance(mean, Tensor) and isinstance(variance, Tensor)


def _distance(norm: nn.Module, maps: Tensor) -> Tensor:
    """Return how far maps are from what a norm remembers: the KL divergence of normal distributions, a channel.

    Its logarithm, so that a channel that has been dead since training does not outweigh all others.
    """
    epsilon = float(getattr(norm, "eps", 1e-5))
    mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3), unbiased=False)
    known_mean, known_variance = (getattr(norm, name) for name in ("running_mean", "running_var"))
    wanted = known_variance + epsilon
    ratio = (variance + epsilon) / wanted
    divergence = (ratio + (mean - known_mean).square() / wanted - 1 - ratio.log()) / 2
    return divergence.log1p().mean()
