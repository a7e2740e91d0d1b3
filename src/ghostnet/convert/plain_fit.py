"""The fit of a convolution that stays plain to inputs that Ghost convolutions before it have changed.

A layer that was left plain reads other maps than it was trained on; refitted to them in closed form, towards what the
dense network makes of its own, it makes up for a part of the error before it. A grouped or depthwise convolution is one
small least-squares problem a group, all solved at once.
"""

from __future__ import annotations

import copy

from torch import nn

from ghostnet.convert.graph import NORMS_OF_MAPS, ConvUnit
from ghostnet.convert.layer_fit import FitOptions, set_norm_
from ghostnet.convert.observe import Pairs
from ghostnet.convert.ridge import least_squares


def can_be_refitted(unit: ConvUnit, model: nn.Module) -> bool:
    """Tell whether a unit of `model` is a convolution whose weights may be changed: its own, and not frozen."""
    if unit.reason is not None:
        return False
    convolution = model.get_submodule(unit.name)
    return (
        type(convolution) is nn.Conv2d
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
    fitted = least_squares(copy.deepcopy(dense).cpu(), on_cpu, options.ridge, centred=centred)
    mean = fitted.mean
    convolution.weight.copy_(fitted.filters.view_as(convolution.weight))
    if convolution.bias is not None:
        convolution.bias.copy_(fitted.target_mean - mean)
    if known_norm is not None:
        if convolution.bias is not None:
            mean = fitted.target_mean
        set_norm_(known_norm, mean, fitted.power.clamp_min(0.0), fitted.target_mean)
