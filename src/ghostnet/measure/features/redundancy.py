"""A redundancy score for every convolution of a network: which layers would ghosting hurt least?

Ghosting a layer keeps n/s of its maps and makes each other map from one that stays (Eq. 2 and 3). With the fit errors
of all pairs known (`pairs`), the score is the share of the maps' variance that the best such choice leaves
unexplained: the mean over all maps of 1 - R², with 0 for those that stay. Maps are taken as the convolutions put them
out, and a constant is fitted too, because a batch norm follows. A lower score means a layer with more to spare.

Left out: how much the network's answer depends on the layer, and the fits' gain from training afterwards.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from ghostnet.checks import check_integer
from ghostnet.errors import InputError
from ghostnet.hooks import input_of
from ghostnet.measure.features.capture import run_hooked
from ghostnet.measure.features.pairs import PairFits, fit_pairs
from ghostnet.measure.ghost_convolutions import is_ghost_convolution
from ghostnet.measure.macs import macs_of
from ghostnet.measure.untouched import as_written


@dataclasses.dataclass(frozen=True)
class LayerRedundancy:
    """What ghosting one convolution would lose before any training.

    Attributes:
        name: dotted path of the convolution.
        channels: maps that it puts out.
        map_size: `(H, W)` of one map.
        macs: multiply-accumulates of one image.
        ghost_error: mean share of a map's variance that is lost at `ratio`, 0 to 1 - 1/s.
        alike: share of maps that another map gives with a relative error of at most 0.1.
    """

    name: str
    channels: int
    map_size: tuple[int, int]
    macs: int
    ghost_error: float
    alike: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Redundancy:
    """The scores of a network.

    Attributes:
        layers: in the order in which they run.
        ratio: s that the scores are for.
        cheap_kernel_size: d that the scores are for.
        skipped: convolutions without a score, each with the reason.
    """

    layers: list[LayerRedundancy]
    ratio: int
    cheap_kernel_size: int
    skipped: dict[str, str]

    def ranked(self) -> list[LayerRedundancy]:
        """Return the layers, the one that ghosting would hurt least first."""
        return sorted(self.layers, key=lambda layer: layer.ghost_error)

    def least_hurt(self, macs_share: float) -> list[str]:
        """Return the most redundant layers that together hold a share of the scored MACs: `layers` for `ghostify`.

        Args:
            macs_share: above 0 and at most 1; layers are added until it is reached.

        Raises:
            InputError: a share out of its range.

        Example:
            >>> found = redundancy(nn.Conv2d(3, 8, 3), torch.rand(2, 3, 8, 8))
            >>> len(found.least_hurt(1.0))
            1
        """
        if isinstance(macs_share, bool) or not 0 < macs_share <= 1:
            raise InputError(f"`macs_share` (={macs_share!r}) must be above 0 and at most 1")
        wanted, reached, names = macs_share * sum(layer.macs for layer in self.layers), 0, []
        for layer in self.ranked():
            if reached >= wanted:
                break
            names.append(layer.name)
            reached += layer.macs
        return names

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return {**dataclasses.asdict(self), "layers": [layer.to_dict() for layer in self.layers]}


def redundancy(
    model: nn.Module, images: Tensor, *, ratio: int = 2, cheap_kernel_size: int = 3, most_channels: int = 2048
) -> Redundancy:
    """Score every convolution of a network by how much of its maps others of them give.

    Maps are scored while the network runs and none is kept, so that memory does not grow with depth.

    Args:
        model: any network; it is left as it was.
        images: `(N, C, H, W)`, as the network wants them; four to sixteen are enough.
        ratio: s, >= 2.
        cheap_kernel_size: d, an odd integer >= 1.
        most_channels: wider layers are skipped.

    Raises:
        InputError: a ratio below 2, an even d, no convolution, or images that the network does not take.

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator object at ...>
        >>> found = redundancy(nn.Conv2d(1, 4, 1), torch.rand(2, 1, 8, 8))
        >>> round(found.layers[0].ghost_error, 6)  # every map is a multiple of the one input
        0.0
    """
    check_integer("`ratio`", ratio, least=2, ending="; at 1 nothing is made from other maps")
    model = as_written(model)
    inside_ghosts = tuple(
        f"{name}." if name else "" for name, module in model.named_modules() if is_ghost_convolution(module)
    )
    layers: dict[str, LayerRedundancy] = {}
    skipped: dict[str, str] = {}

    def scoring(name: str) -> Any:
        def hook(module: nn.Conv2d, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            if name in layers or name in skipped:
                return  # a shared layer's first run stands for it
            reason = _why_not(module, output, ratio, most_channels)
            if reason:
                skipped[name] = reason
            else:
                layers[name] = _scored(
                    name, module, input_of(args, kwargs), output, (ratio, cheap_kernel_size)
                )

        return hook

    handles = [
        module.register_forward_hook(scoring(name or "(model)"), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and not name.startswith(inside_ghosts or ("\0",))
    ]
    if not handles:
        raise InputError("the network has no plain convolution to score; a Ghost network's are done already")
    run_hooked(model, images, handles)
    return Redundancy(list(layers.values()), ratio, cheap_kernel_size, skipped)


def _why_not(module: nn.Conv2d, output: Tensor, ratio: int, most_channels: int) -> str:
    channels = output.shape[1]
    if channels < 2 * ratio:
        return f"{channels} maps are too few for ratio {ratio}"
    if channels > most_channels:
        return f"{channels} maps are more than {most_channels}"
    if module.groups == module.in_channels and module.groups > 1:
        return "depthwise already"
    if output.shape[0] * output.shape[2] * output.shape[3] < 2:
        return "one position a map: give more images"
    return ""


def _scored(
    name: str, module: nn.Conv2d, given: Tensor, output: Tensor, ghosting: tuple[int, int]
) -> LayerRedundancy:
    ratio, cheap_kernel_size = ghosting
    fits = fit_pairs(output, cheap_kernel_size, bias=True)
    varies = fits.relative.isfinite().any(0)
    best = fits.relative.min(0).values
    arguments = (given[:1], module.weight, None, None, None, None, False)
    macs = macs_of(torch.ops.aten.convolution.default, arguments, output[:1])
    return LayerRedundancy(
        name=name,
        channels=output.shape[1],
        map_size=(output.shape[2], output.shape[3]),
        macs=int(macs or 0),
        ghost_error=ghost_error(fits, ratio),
        alike=float(((best <= 0.1) | ~varies).double().mean()),
    )


def ghost_error(fits: PairFits, ratio: int = 2) -> float:
    """Return the mean share of variance that a layer loses when n - n/s of its maps are made from the others.

    Each map that stays serves up to s - 1 others, as in Eq. 3. The choice is greedy, the best pair first, so the value
    is that of a choice which can be had, not a bound.

    Args:
        fits: from `fit_pairs`, with `bias=True` for shares of the variance.
        ratio: s, >= 2.

    Returns:
        0 (nothing lost) to 1 - 1/s (all that is made from others is lost).
    """
    channels = len(fits.variance)
    # a constant map costs nothing as a target and serves nobody
    costs = torch.nan_to_num(fits.relative, posinf=0.0).clamp_max(1.0)
    constant = ~fits.relative.isfinite().any(0)
    costs[constant] = 1.0
    costs[:, constant] = 0.0
    costs.fill_diagonal_(torch.inf)
    left = channels - -(-channels // ratio)  # n - m maps are made from others
    capacity, role = [ratio - 1] * channels, [0] * channels  # role 1: stays, 2: is made from another
    total, heads, most_heads = 0.0, 0, channels - left
    order = costs.flatten().argsort(stable=True)[: channels * (channels - 1)].tolist()
    for place in order:
        if left == 0:
            break
        source, target = divmod(place, channels)
        fresh = role[source] == 0
        if role[source] == 2 or role[target] != 0 or capacity[source] == 0 or (fresh and heads == most_heads):
            continue
        role[source], role[target] = 1, 2
        heads += fresh
        capacity[source] -= 1
        left -= 1
        total += float(costs[source, target])
    return total / channels
