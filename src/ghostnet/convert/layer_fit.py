"""The fit of one converted layer in closed form (paper section 3.1, linear form): `LayerFit`.

Refit, matching, alternation, then the batch norm. Images come from `observe`, their moments from `moments`, least
squares from `fit`, the choice of pairs from `matching`.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostnet.convert import fit
from ghostnet.convert.graph import NORMS_OF_MAPS
from ghostnet.convert.matching import match
from ghostnet.convert.moments import (
    MapMoments,
    Moments,
    map_windows,
    patch_moments,
    white_map_windows,
    white_moments,
)
from ghostnet.convert.observe import Pairs
from ghostnet.convert.patches import patch_columns
from ghostnet.convert.ridge import chosen_ridge, least_squares
from ghostnet.errors import InputError
from ghostnet.nn import GhostConv2d

_MOST_PARTNERS = 10  # candidates for each map whose pair is tried with alternation
_RIDGE_SLOTS = 8  # primary filters from which the ridge is chosen
_PAIR_BUDGET = 8e10  # multiplications of all these trials in one layer


@dataclass(frozen=True)
class FitOptions:
    """How a layer is fitted.

    Attributes:
        rounds: of alternation between primary and cheap filters.
        ridge: relative to the mean power of the inputs.
        max_gram: columns of the largest Gram matrix of whole windows; larger layers are fitted on their output maps.
        max_refit: columns of the largest Gram matrix for the refit alone; larger layers keep their dense filters.
        groups: how many such fits share the time of one layer.
        in_order: the first targets are the primary ones, the others the ghosts in turn (`streams`); else they are
            matched.
    """

    rounds: int = 6
    ridge: float = 1e-6
    max_gram: int = 1700
    max_refit: int = 4700
    groups: int = 1
    in_order: bool = False


class LayerFit:
    """The fit of one layer, or of one group of a grouped one; `run` writes the weights.

    Attributes:
        lost, power: after `run`, the squared error of the outputs and their power, as their batch norm weights them.

    Args:
        convolution: the dense layer.
        ghost: the one to be fitted; changed in place.
        norm: the batch norm behind it, changed in place where there are images.
        pairs: inputs and wanted outputs, or None for a fit from the weights alone.
        options: how.
        known: keeps what does not depend on the ratio, for further fits of the same layer on the same pairs.
    """

    def __init__(
        self,
        convolution: nn.Conv2d,
        ghost: GhostConv2d,
        norm: nn.Module | None,
        pairs: Pairs | None,
        options: FitOptions,
        known: dict[Any, Any] | None = None,
    ) -> None:
        self.known = {} if known is None else known
        self.lost = self.power = 0.0
        self.ghost, self.options = ghost, options
        # float64 least squares with decisions in between: done on the CPU, wherever the network lies
        self.convolution = copy.deepcopy(convolution).cpu()
        self.pairs = None if pairs is None else [(inputs.cpu(), wanted.cpu()) for inputs, wanted in pairs]
        self.norm = norm if isinstance(norm, NORMS_OF_MAPS) else None
        self.cheap = cheap_convolution(ghost)
        self.size = self.cheap.kernel_size[0]
        self.sources = ghost_sources(ghost)
        self.centred = pairs is not None and (self.norm is not None or ghost.primary_conv.bias is not None)

    def run(self) -> float:
        """Fit, write, and return the relative error."""
        large = patch_columns(self.convolution, self.size) > self.options.max_gram
        if large or self.convolution.groups > 1:
            self._on_maps()
        else:
            self._on_patches()
        return math.sqrt(self.lost / max(self.power, 1e-30))

    def _on_patches(self) -> None:
        """Fit primary and cheap filters in turn to the moments of input patches."""
        moments = self._moments()
        weights = self._weights(moments.target_power)
        filters = self._refit(moments, weights)
        windows, against = moments.windows(filters)
        costs = fit.fit_errors(moments.target_power, windows, against) * weights
        own = self._own(moments, filters) * weights
        heads, ghosts = self._matched(costs, own)
        ridge = self._ridge(moments, filters, fit.Groups(heads, ghosts, self.sources, weights))
        lowered = self._after_one_round(moments, filters, costs, own, weights, ridge)
        if lowered is not costs:
            heads, ghosts = self._matched(lowered, own)
        groups = fit.Groups(heads, ghosts, self.sources, weights)
        primary = filters[heads]
        for turn in range(self.options.rounds + 1):
            cheap = fit.best_cheap(moments, primary, self.sources, ghosts)
            if turn == self.options.rounds:
                break
            last = turn == self.options.rounds - 1
            primary = fit.best_primary(moments, primary, cheap, groups, ridge, rough=not last)
        self._write(moments, primary, cheap, groups, moments.windows(primary))

    def _matched(self, costs: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Return the target of each primary and of each ghost slot."""
        if self.options.in_order:
            slots = torch.arange(len(own))
            return slots[: len(own) - len(self.sources)], slots[len(own) - len(self.sources) :]
        return match(costs, own, self.sources, groups=self.convolution.groups)

    def _moments(self) -> Moments:
        if "moments" not in self.known:
            self.known["moments"] = (
                white_moments(self.convolution, self.size)
                if self.pairs is None
                else patch_moments(
                    self.pairs,
                    self.convolution,
                    self.size,
                    centred=self.centred,
                    groups=self.options.groups,
                )
            )
        found: Moments = self.known["moments"]
        return found

    def _refit(self, moments: Moments, weights: Tensor) -> Tensor:
        """Refit the dense filters to the inputs, `(n, D)`."""
        if "filters" not in self.known:
            halves = [fit.refit_equations(half) for half in moments.halves]
            self.known["filters"] = fit.refit(moments, chosen_ridge(halves, weights, self.options.ridge))
        filters: Tensor = self.known["filters"]
        return filters

    def _ridge(self, moments: Moments, filters: Tensor, groups: fit.Groups) -> float:
        """Choose how strongly primary filters are drawn to the refitted ones, on a few slots."""
        if self.pairs is None:
            return self.options.ridge
        cheap = fit.best_cheap(moments, filters[groups.heads], self.sources, groups.ghosts)
        slots = torch.linspace(0, len(groups.heads) - 1, min(len(groups.heads), _RIDGE_SLOTS)).long()
        sides = [
            fit.primary_equations(half, filters[groups.heads], cheap, groups, slots)
            for half in moments.halves
        ]
        return chosen_ridge(sides, torch.ones(1), self.options.ridge)

    def _after_one_round(
        self, moments: Moments, filters: Tensor, costs: Tensor, own: Tensor, weights: Tensor, ridge: float
    ) -> Tensor:
        """Lower the costs of the most promising pairs to what they are after one round of alternation.

        Only for ratio 2, where a pair's cost depends on no third map; a budget limits the pairs.
        """
        outputs, columns = filters.shape
        budget = _PAIR_BUDGET / self.options.groups
        each = min(outputs - 1, _MOST_PARTNERS, int(budget / (outputs * columns**3)))
        if (
            self.options.in_order
            or self.options.rounds == 0
            or each < 1
            or len(set(self.sources.tolist())) * 2 != outputs
        ):
            return costs
        total = costs + own[:, None]
        best = torch.minimum(total, total.T).fill_diagonal_(float("inf"))
        near = best.topk(each, largest=False).indices
        one, two = torch.arange(outputs).repeat_interleave(each), near.flatten()
        swap = total[one, two] > total[two, one]
        pairs = torch.stack([torch.where(swap, two, one), torch.where(swap, one, two)], 1).unique(dim=0)
        heads, ghosts = pairs.T
        slots = torch.arange(len(pairs))
        groups = fit.Groups(heads, ghosts, slots, weights)
        cheap = fit.best_cheap(moments, filters[heads], slots, ghosts)
        primary = fit.best_primary(moments, filters[heads], cheap, groups, ridge, rough=True)
        windows, against = moments.windows(primary)
        centre = moments.centre
        reached = windows[:, centre, centre] - 2 * against[slots, centre, heads] + moments.target_power[heads]
        wanted = against[slots, :, ghosts]
        kernel = fit.solve(windows, wanted[..., None], 1e-9)[..., 0]
        served = moments.target_power[ghosts] - (kernel * wanted).sum(1)
        joint = reached.clamp_min(0.0) * weights[heads] + served.clamp_min(0.0) * weights[ghosts]
        lowered = costs.clone()
        lowered[heads, ghosts] = torch.minimum(costs[heads, ghosts], joint - own[heads])
        return lowered

    def _own(self, moments: Moments, filters: Tensor) -> Tensor:
        """Squared error of each target as a primary map."""
        centre = moments.centre
        power = ((filters @ moments.gram) * filters).sum(1)
        error = moments.target_power - 2 * (filters * moments.cross[centre].T).sum(1) + power
        return error.clamp_min(0.0)

    def _weights(self, power: Tensor) -> Tensor:
        """Importance of each output channel: gamma^2 / variance of its batch norm."""
        return importance(self.norm, power)

    def _on_maps(self) -> None:
        """Refit the filters where affordable, then choose and fit ghosts in the moments of windows of maps."""
        outputs, filters = self.convolution.out_channels, self._refit_large()
        if "maps" not in self.known:
            self.known["maps"] = (
                white_map_windows(self.convolution, self.size)
                if self.pairs is None
                else map_windows(self.pairs, self.convolution, filters, self.size, centred=self.centred)
            )
        maps: MapMoments = self.known["maps"]
        weights = self._weights(maps.target_power)
        errors = fit.fit_errors(maps.target_power, maps.windows, maps.against)
        centre = self.size**2 // 2
        reached = maps.windows[:, centre, centre] - 2 * maps.against[range(outputs), centre, range(outputs)]
        own = (reached + maps.target_power).clamp_min(0.0)
        heads, ghosts = self._matched(errors * weights, own * weights)
        windows, against = maps.windows[heads], maps.against[heads]
        chosen = against[self.sources, :, ghosts]
        cheap = fit.solve(windows[self.sources], chosen[..., None], 1e-9)[..., 0]
        groups = fit.Groups(heads, ghosts, self.sources, weights)
        self._write(maps.only(heads), filters[heads], cheap, groups, (windows, against))

    def _refit_large(self) -> Tensor:
        """Refit the dense filters where their own inputs are few enough, `(n, D)`."""
        weight = self.convolution.weight.detach()
        if self.pairs is None or weight[0].numel() > self.options.max_refit:
            return weight.flatten(1).double()
        if "filters" not in self.known:
            fitted = least_squares(self.convolution, self.pairs, self.options.ridge, centred=self.centred)
            self.known["filters"] = fitted.filters
        filters: Tensor = self.known["filters"]
        return filters

    def _write_weights(self, primary: Tensor, cheap: Tensor, heads: Tensor, ghosts: Tensor) -> None:
        self.ghost.primary_conv.weight.copy_(primary.view_as(self.ghost.primary_conv.weight))
        self.cheap.weight.zero_()  # it may make more maps than are kept
        self.cheap.weight[: len(ghosts)] = cheap.view(-1, *self.cheap.weight.shape[1:]).to(
            self.cheap.weight.dtype
        )
        order = torch.empty(len(heads) + len(ghosts), dtype=torch.long)
        order[torch.cat([heads, ghosts])] = torch.arange(len(order))
        self.ghost.set_channel_order_(None if self.options.in_order else order)
        first, second = self.ghost.primary_conv.bias, self.cheap.bias
        bias = None if self.norm is not None and self.pairs is not None else self.convolution.bias
        if first is not None:
            first.copy_(torch.zeros_like(first) if bias is None else bias[heads])
        if second is not None:
            second.zero_()
            if bias is not None:
                carried = cheap.sum(1) * bias[heads[self.sources]]
                second[: len(ghosts)] = (bias[ghosts] - carried).to(second.dtype)

    def _write(
        self,
        moments: Moments | MapMoments,
        primary: Tensor,
        cheap: Tensor,
        groups: fit.Groups,
        maps: tuple,
    ) -> None:
        """Write filters, order, offsets, batch norm and the weighted error."""
        heads, ghosts, (windows, against) = groups.heads, groups.ghosts, maps
        self._write_weights(primary, cheap, heads, ghosts)
        slot = torch.arange(len(heads))
        centre = self.size**2 // 2
        power, hit = torch.empty_like(moments.target_power), torch.empty_like(moments.target_power)
        power[heads], hit[heads] = windows[:, centre, centre], against[slot, centre, heads]
        power[ghosts] = torch.einsum("gt,gtu,gu->g", cheap, windows[self.sources], cheap)
        hit[ghosts] = (cheap * against[self.sources, :, ghosts]).sum(1)
        mean = torch.empty_like(power)
        means = moments.map_means(primary)
        mean[heads], mean[ghosts] = means[:, centre], (cheap * means[self.sources]).sum(1)
        error = (moments.target_power - 2 * hit + power).clamp_min(0.0) * groups.weights
        if self.centred and self.norm is not None:
            set_norm_(self.norm, mean, power.clamp_min(0.0), moments.target_mean)
        elif self.centred:
            self._set_bias(moments, cheap, groups, mean)
        self.lost = float(error.sum())
        self.power = float((moments.target_power * groups.weights).sum())

    def _set_bias(
        self, moments: Moments | MapMoments, cheap: Tensor, groups: fit.Groups, mean: Tensor
    ) -> None:
        """Give both convolutions the offsets that centre their maps on the targets."""
        offset = moments.target_mean - mean
        primary = offset[groups.heads]
        if self.ghost.primary_conv.bias is not None:
            self.ghost.primary_conv.bias.copy_(primary)
        if self.cheap.bias is not None:
            carried = (cheap * moments.inside).sum(1) * primary[self.sources]
            offset = offset[groups.ghosts] - carried
            self.cheap.bias[: len(offset)] = offset.to(self.cheap.bias.dtype)


def importance(norm: nn.Module | None, power: Tensor) -> Tensor:
    """Return what an error of each output channel counts behind its batch norm: gamma^2 / variance, 1 without any.

    Args:
        norm: what reads the outputs alone, or None.
        power: `(n,)` of them.
    """
    if not isinstance(norm, NORMS_OF_MAPS) or norm.running_var is None:
        return torch.ones_like(power)
    weights = (norm.running_var.double().cpu() + norm.eps).reciprocal()
    if norm.weight is not None:
        weights = weights * norm.weight.double().cpu().square()
    return weights + 1e-6 * weights.mean() + 1e-30


def set_norm_(norm: _BatchNorm, mean: Tensor, power: Tensor, target_mean: Tensor) -> None:
    """Give the norm the fitted maps' statistics; keep its scale, move its offset by the targets' mean."""
    if norm.running_mean is None or norm.running_var is None:
        return
    if norm.weight is None or norm.bias is None:
        norm.running_mean.copy_(norm.running_mean.double().cpu() + mean - target_mean)
        return
    before = (norm.running_var.double().cpu() + norm.eps).sqrt()
    scale = norm.weight.double().cpu() / before
    moved = target_mean - norm.running_mean.double().cpu()
    norm.bias.copy_(norm.bias.double().cpu() + scale * moved)
    norm.weight.copy_(scale * (power + norm.eps).sqrt())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(power)


def cheap_convolution(ghost: GhostConv2d) -> nn.Conv2d:
    """Return the depthwise convolution inside a linear Ghost convolution.

    Raises:
        InputError: its cheap operation is another one.
    """
    operation = ghost.cheap_operation or nn.Identity()
    found = [m for m in operation.modules() if isinstance(m, nn.Conv2d)]
    if len(found) != 1 or found[0].weight.shape[1] != 1:
        raise InputError("the cheap operation is no depthwise convolution; use init='random' or depthwise.")
    return found[0]


def ghost_sources(ghost: GhostConv2d) -> Tensor:
    """Find which primary map serves each ghost map, by asking a copy of the cheap operation: `(g,)`."""
    cheap = cheap_convolution(ghost)
    maps, size = ghost.primary_conv.out_channels, cheap.kernel_size[0]
    operation = copy.deepcopy(ghost.cheap_operation or nn.Identity()).cpu().double()  # bfloat16 counts to 256
    for module in operation.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.fill_(1.0)
            if module.bias is not None:
                module.bias.zero_()
    probe = torch.zeros(1, maps, size, size, dtype=torch.float64)
    probe[0, :, size // 2, size // 2] = torch.arange(1, maps + 1)
    return operation(probe)[0, :, size // 2, size // 2].round().long() - 1
