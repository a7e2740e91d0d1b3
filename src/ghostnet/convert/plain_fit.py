"""The fit of a convolution that stays plain to inputs that Ghost convolutions before it have changed.

A layer that was left plain reads other maps than it was trained on; refitted to them in closed form, towards what the
dense network makes of its own, it makes up for a part of the error before it. A grouped or depthwise convolution is one
small least-squares problem a group, all solved at once.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import Tensor, nn

from ghostnet.convert import fit
from ghostnet.convert.graph import NORMS_OF_MAPS, ConvUnit
from ghostnet.convert.layer_fit import FitOptions, set_norm_
from ghostnet.convert.observe import Pairs
from ghostnet.convert.ridge import chosen_ridge, read_halves


def can_be_refitted(unit: ConvUnit, model: nn.Module) -> bool:
    """Tell whether a unit of `model` is a convolution whose weights may be changed: its own, and not frozen."""
    if unit.reason is not None:
        return False
    convolution = model.get_submodule(unit.name)
    return (
        type(convolution) is nn.Conv2d
        and convolution.padding_mode == "zeros"
        and all(parameter.requires_grad for parameter in convolution.parameters())
        and convolution.weight[0].numel() <= FitOptions().max_refit
    )


def refit_plain_(
    dense: nn.Conv2d, convolution: nn.Conv2d, norm: nn.Module | None, pairs: Pairs, options: FitOptions
) -> None:
    """Refit a convolution's filters in place, and its bias or the batch norm behind it.

    Args:
        dense: the layer of the dense network.
        convolution: its copy in the converted network; changed in place.
        norm: the batch norm behind it, changed in place, or None.
        pairs: inputs in the converted network, and outputs wanted there.
        options: how.
    """
    known_norm = norm if isinstance(norm, NORMS_OF_MAPS) else None
    centred = known_norm is not None or convolution.bias is not None
    on_cpu = [(inputs.cpu(), wanted.cpu()) for inputs, wanted in pairs]
    fitted = _least_squares(copy.deepcopy(dense).cpu(), on_cpu, options.ridge, centred=centred)
    mean = fitted.mean
    convolution.weight.copy_(fitted.filters.view_as(convolution.weight))
    if convolution.bias is not None:
        convolution.bias.copy_(fitted.target_mean - mean)
    if known_norm is not None:
        if convolution.bias is not None:
            mean = fitted.target_mean
        set_norm_(known_norm, mean, fitted.power.clamp_min(0.0), fitted.target_mean)


@dataclass(frozen=True)
class _Fitted:
    """Filters `(n, D)` of D inputs each, and of the maps that they give, without a bias, mean and variance `(n,)`."""

    filters: Tensor
    mean: Tensor
    power: Tensor
    target_mean: Tensor


def _least_squares(dense: nn.Conv2d, pairs: Pairs, ridge: float, *, centred: bool) -> _Fitted:
    """Find the filters of each group that come nearest to the wanted outputs, drawn to the dense ones.

    Args:
        dense: the convolution as it was.
        pairs: `(N, C, H, W)` inputs and `(N, n, H', W')` outputs wanted, without bias.
        ridge: the least, relative to the mean power of the inputs.
        centred: an offset for each channel is free.
    """
    halves = read_halves(dense, pairs)
    both = halves[0] + halves[1]
    gram, missing = both.moments(centred=centred)
    filters = dense.weight.detach().double().reshape(dense.groups, -1, gram.shape[-1])
    filters = filters + fit.solve(gram, missing, chosen_ridge(halves, ridge, centred=centred)).mT
    mean = (filters @ both.first[:, :, None])[:, :, 0].flatten() / both.count
    power = ((filters @ gram) * filters).sum(2).flatten()
    return _Fitted(filters.flatten(0, 1), mean, power, both.target / both.count)
