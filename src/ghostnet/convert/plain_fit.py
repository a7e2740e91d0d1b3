"""The fit of a convolution that stays plain to inputs that Ghost convolutions before it have changed.

A layer that was left plain reads other maps than it was trained on; refitted to them in closed form, towards what the
dense network makes of its own, it makes up for a part of the error before it. Left out: grouped convolutions.
"""

from __future__ import annotations

import copy

from torch import nn

from ghostnet.convert import fit
from ghostnet.convert.graph import NORMS_OF_MAPS, ConvUnit
from ghostnet.convert.layer_fit import FitOptions, set_norm_
from ghostnet.convert.moments import patch_moments
from ghostnet.convert.observe import Pairs
from ghostnet.convert.patches import patch_columns


def can_be_refitted(unit: ConvUnit, model: nn.Module) -> bool:
    """Tell whether a unit of `model` is a convolution whose weights may be changed: its own, and not frozen."""
    if unit.reason is not None:
        return False
    convolution = model.get_submodule(unit.name)
    return (
        type(convolution) is nn.Conv2d
        and convolution.groups == 1
        and convolution.padding_mode == "zeros"
        and all(parameter.requires_grad for parameter in convolution.parameters())
        and patch_columns(convolution, 1) <= FitOptions().max_refit
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
    dense_on_cpu = copy.deepcopy(dense).cpu()
    on_cpu = [(inputs.cpu(), wanted.cpu()) for inputs, wanted in pairs]
    moments = patch_moments(on_cpu, dense_on_cpu, 1, centred=centred)
    filters = fit.refit(moments, moments.scaled_ridge(options.ridge))
    mean = moments.map_means(filters)[:, 0]
    convolution.weight.copy_(filters.view_as(convolution.weight))
    if convolution.bias is not None:
        convolution.bias.copy_(moments.target_mean - mean)
    if known_norm is not None:
        if convolution.bias is not None:
            mean = moments.target_mean
        power = moments.windows(filters)[0][:, 0, 0].clamp_min(0.0)
        set_norm_(known_norm, mean, power, moments.target_mean)
