"""What a layer of a network puts out for given images: its feature maps.

The forward pass is stopped at the layer, so that an in-place activation behind it cannot change the maps and
nothing is computed in vain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ghostnet.errors import InputError, first_line, unknown_name
from ghostnet.measure.ghost_convolutions import is_ghost_convolution
from ghostnet.measure.untouched import as_written, restored_buffers
from ghostnet.modes import evaluating

# files whose modules treat each map by itself: norms, activations, nn.Identity, and what timm makes of a norm
_PER_CHANNEL = ("modules.batchnorm", "modules.activation", "modules.linear", "layers.norm_act")


class _Reached(Exception):  # noqa: N818  (no error: it ends a forward pass that has done its work)
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def feature_maps(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Return what a layer puts out: `(N, C, H, W)` images in, `(N, C', H', W')` maps out.

    Args:
        model: any network; it runs in evaluation mode and is left as it was.
        layer: dotted name of any of its modules. A layer that runs several times gives its first output.
        images: as the network wants them.

    Raises:
        InputError: no such layer (near matches are listed), one that does not run or puts out no maps, or images
            that the network does not take.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True))
        >>> feature_maps(network, "0", torch.zeros(1, 3, 6, 6)).shape
        torch.Size([1, 8, 4, 4])
    """
    model = as_written(model)
    modules = dict(model.named_modules())
    if layer not in modules or not layer:
        raise unknown_name("layer", layer, [name for name in modules if name])

    def stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
        raise _Reached(output)

    try:
        run_hooked(model, images, [modules[layer].register_forward_hook(stop)])
    except _Reached as reached:
        return _checked_maps(layer, reached.output)
    raise InputError(f"layer {layer!r} does not run when the network does; choose another")


def layers_with_maps(model: nn.Module, images: Tensor) -> list[str]:
    """Return the dotted names of the modules that put out maps `(N, C, H, W)`, in the order in which they run.

    Args:
        model: any network.
        images: `(N, C, H, W)`, as the network wants them.

    Raises:
        InputError: images that the network does not take.

    Example:
        >>> layers_with_maps(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()), torch.zeros(1, 3, 6, 6))
        ['0']
    """
    found: dict[str, None] = {}

    def noted(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                found[name] = None

        return hook

    model = as_written(model)
    hooks = [module.register_forward_hook(noted(name)) for name, module in model.named_modules() if name]
    run_hooked(model, images, hooks)
    return list(found)


def unit_outputs(model: nn.Module, images: Tensor) -> dict[str, str]:
    """Return every convolution, plain or Ghost, with the layer that finishes its maps, in the order in which they run.

    That layer is the last of the norms, activations and identities that directly follow; else the convolution itself.

    Args:
        model: any network.
        images: `(N, C, H, W)`, as the network wants them.

    Raises:
        InputError: images that the network does not take.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> unit_outputs(network, torch.zeros(1, 3, 6, 6))
        {'0': '2', '3': '3'}
    """
    model = as_written(model)
    modules = dict(model.named_modules())
    inside = tuple(f"{name}." for name, module in modules.items() if name and is_ghost_convolution(module))
    units: dict[str, str] = {}
    latest = ""
    for name in layers_with_maps(model, images):
        if inside and name.startswith(inside):
            continue
        module = modules[name]
        if isinstance(module, nn.Conv2d) or is_ghost_convolution(module):
            units[name] = latest = name
        elif latest and type(module).__module__.endswith(_PER_CHANNEL):
            units[latest] = name
        else:
            latest = ""
    return units


def intrinsic_maps(module: nn.Module) -> Tensor | None:
    """Return which output channels of a Ghost convolution are intrinsic maps, as booleans `(C,)`; None for others.

    Example:
        >>> intrinsic_maps(nn.Conv2d(3, 8, 3)) is None
        True
    """
    if not is_ghost_convolution(module):
        return None
    described: Any = module
    channels = int(described.out_channels)
    order = getattr(module, "channel_order", None)
    places = torch.arange(channels) if order is None else order.cpu()
    return places < int(described.intrinsic_channels)


def run_hooked(model: nn.Module, images: Tensor, hooks: Sequence[RemovableHandle]) -> None:
    """Run a network in evaluation mode for its hooks' sake, and remove them, also when it raises.

    Raises:
        InputError: images that it does not take.
    """
    try:
        with evaluating(model), restored_buffers(model), torch.no_grad():
            _run(model, images)
    finally:
        for hook in hooks:
            hook.remove()


def _run(model: nn.Module, images: Tensor) -> None:
    try:
        model(images.clone())
    except (InputError, _Reached):  # what hooks raise
        raise
    except Exception as error:  # it is the network's own code that runs
        reason = first_line(error)
        raise InputError(f"the network does not run on images {tuple(images.shape)}: {reason}") from error


def _checked_maps(layer: str, output: Any) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim != 4:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(
            f"layer {layer!r} puts out {shape}, not maps (N, C, H, W); choose a convolution, say"
        )
    return output.detach()
