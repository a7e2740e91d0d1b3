"""Layers with fewer channels: what pruning leaves of a convolution, a batch norm or a linear layer.

`narrow_like` builds the smaller layer (replay of an edit), `narrowed` also copies the weights of the channels that
stay; of grouped convolutions whole groups go. Left out: choosing the channels (`convert.prune` does).
"""

from __future__ import annotations

import copy
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ghostnet.checks import is_integer
from ghostnet.errors import InputError
from ghostnet.nn.channel_placement import ChannelPlacement

_KINDS = (
    *(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.PReLU, nn.Linear),
    ChannelPlacement,
)


def is_batch_norm(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Tell whether a module is a batch norm of maps, PyTorch's or timm's with an activation without weights inside."""
    if type(module) is nn.BatchNorm2d:
        return True
    timms = isinstance(module, nn.BatchNorm2d) and type(module).__name__ == "BatchNormAct2d"
    return timms and not any(True for child in module.children() for _ in child.parameters())


def channels_together(module: nn.Module) -> tuple[int, int] | None:
    """Return how many channels a layer takes and gives at a time, each group of them apart from the others, or None.

    `(1, 1)` for a depthwise convolution, norms and `nn.PReLU`; of a grouped convolution what one group has; None for a
    layer that mixes all of its channels, and for one that has nothing for each channel.

    Example:
        >>> channels_together(nn.Conv2d(8, 16, 3, groups=4))
        (2, 4)
    """
    if type(module) is nn.Conv2d and module.groups > 1:
        return module.in_channels // module.groups, module.out_channels // module.groups
    valued = type(module) is nn.PReLU and module.num_parameters > 1
    return (1, 1) if valued or is_batch_norm(module) or type(module) is nn.InstanceNorm2d else None


def by_outputs(weight: Tensor, module: nn.Module) -> Tensor:
    """Return a view of a layer's weight, or of what is like it, with the outputs first and the inputs second.

    Example:
        >>> layer = nn.ConvTranspose2d(3, 8, 2)
        >>> by_outputs(layer.weight, layer).shape
        torch.Size([8, 3, 2, 2])
    """
    return weight.transpose(0, 1) if isinstance(module, nn.ConvTranspose2d) and weight.ndim > 1 else weight


def sizes(module: nn.Module) -> tuple[int, int]:
    """Return how many channels (features of a linear layer) go in and come out.

    Raises:
        InputError: a layer that cannot be narrowed.
    """
    if type(module) is nn.Conv2d or (type(module) is nn.ConvTranspose2d and module.groups == 1):
        return module.in_channels, module.out_channels
    if isinstance(module, ChannelPlacement):
        return module.in_channels, module.out_channels
    if type(module) is nn.Linear:
        return module.in_features, module.out_features
    if is_batch_norm(module) or type(module) is nn.InstanceNorm2d:
        return module.num_features, module.num_features
    if type(module) is nn.PReLU and module.num_parameters > 1:
        return module.num_parameters, module.num_parameters
    known = ", ".join(kind.__name__ for kind in _KINDS)
    raise InputError(f"a {type(module).__name__} cannot be narrowed; what can be: {known}")


def narrow_like(module: nn.Module, in_channels: int, out_channels: int) -> nn.Module:
    """Build a layer of the same settings, device, type and mode with fewer channels and fresh weights.

    Args:
        module: `nn.Conv2d`, `nn.ConvTranspose2d` of one group, `nn.BatchNorm2d` (also timm's with an activation),
            `nn.InstanceNorm2d`, `nn.PReLU` with a slope for each channel, `nn.Linear`, or our `ChannelPlacement`.
        in_channels: of the new layer, from 1 to the old number, in whole groups; features for a linear layer.
        out_channels: the same for what comes out.

    Raises:
        InputError: another kind of layer, or numbers that do not fit it.

    Example:
        >>> narrow_like(nn.Conv2d(8, 16, 3, padding=1), 8, 5)
        Conv2d(8, 5, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """
    for given, old in zip((in_channels, out_channels), sizes(module), strict=True):
        if not is_integer(given) or not 1 <= given <= old:
            raise InputError(f"cannot narrow {old} channels to {given!r}; give an integer from 1 to {old}")
    each = channels_together(module)
    if each is not None and (in_channels % each[0] or in_channels // each[0] * each[1] != out_channels):
        what = "one map out for one in" if each == (1, 1) else f"{each[1]} maps out for {each[0]} in"
        raise InputError(
            f"a {type(module).__name__} with {what} cannot have {in_channels} in and {out_channels} out"
        )
    place = next(
        (item for item in (*module.parameters(), *module.buffers()) if item.is_floating_point()), None
    )
    options = {} if place is None else {"device": place.device, "dtype": place.dtype}
    with torch.random.fork_rng(devices=[]):  # the weights are replaced; the caller's random state is not ours
        new = _fresh(module, in_channels, out_channels, options)
    for name, parameter in module.named_parameters():
        new.get_parameter(name).requires_grad_(parameter.requires_grad)
    return new.train(module.training)


def _fresh(module: nn.Module, in_channels: int, out_channels: int, options: dict) -> nn.Module:
    if isinstance(module, nn.BatchNorm2d):
        new = nn.BatchNorm2d(
            out_channels, module.eps, module.momentum, module.affine, module.track_running_stats, **options
        )
        return new if type(module) is nn.BatchNorm2d else _with_its_activation(module, new)
    if isinstance(module, nn.InstanceNorm2d):
        momentum: float = module.momentum  # type: ignore[assignment]
        return nn.InstanceNorm2d(
            out_channels, module.eps, momentum, module.affine, module.track_running_stats, **options
        )
    if isinstance(module, nn.PReLU):
        return nn.PReLU(out_channels, **options)
    if isinstance(module, nn.Linear):
        return nn.Linear(in_channels, out_channels, module.bias is not None, **options)
    if isinstance(module, ChannelPlacement):
        return ChannelPlacement(in_channels, out_channels, module.stride[0]).to(**options)
    assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    settings: dict[str, Any] = {
        name: getattr(module, name)
        for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    }
    settings |= {"bias": module.bias is not None, **options}
    if isinstance(module, nn.ConvTranspose2d):
        settings["output_padding"] = module.output_padding
        return nn.ConvTranspose2d(in_channels, out_channels, **settings)
    groups = module.groups * in_channels // module.in_channels if module.groups > 1 else 1
    return nn.Conv2d(in_channels, out_channels, groups=groups, **settings)


def _with_its_activation(module: nn.BatchNorm2d, new: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Return a copy of a batch norm that does more, with a new norm's size and values."""
    full = copy.deepcopy(module)
    full.num_features = new.num_features
    full._parameters.update(new._parameters)
    full._buffers.update(new._buffers)
    return full


@torch.no_grad()
def narrowed(module: nn.Module, inputs: Tensor | None, outputs: Tensor | None) -> nn.Module:
    """Copy a layer with only some of its channels.

    Args:
        module: as for `narrow_like`.
        inputs: int64 indices of the channels (features) that are still read; None for all.
        outputs: int64 indices of those that are still made; None for all. A layer with one map out for one in
            takes either, a grouped convolution these, in whole groups.

    Returns:
        The new layer; the old one is untouched.

    Raises:
        InputError: as for `narrow_like`.

    Example:
        >>> narrowed(nn.Linear(4, 2), torch.tensor([0, 3]), None).weight.shape
        torch.Size([2, 2])
    """
    in_channels, out_channels = sizes(module)
    each = channels_together(module)
    if each is not None:
        outputs, inputs = outputs if outputs is not None else inputs, None
    made = out_channels if outputs is None else len(outputs)
    read = in_channels if inputs is None else len(inputs)
    new = narrow_like(module, read if each is None else made // each[1] * each[0], made)
    state = new.state_dict()
    for name, value in module.state_dict().items():
        kept = by_outputs(value, module)
        if outputs is not None and value.ndim:
            kept = kept[outputs.to(value.device)]
        if inputs is not None and value.ndim > 1:
            kept = kept[:, inputs.to(value.device)]
        by_outputs(state[name], module).copy_(kept)
    return new
