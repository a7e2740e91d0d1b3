"""One factor a channel behind each prunable layer: what Taylor importance differentiates and SSS makes sparse.

A gate multiplies the output of the layer's batch norm (of the convolution itself where there is none). It starts at
1, and is folded back into that layer's weights, so that no trace of it is left in the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ghostnet.convert.order import activates_too
from ghostnet.convert.pruning.sites import PruneSite
from ghostnet.nn.edits import replace_module_


class ChannelGate(nn.Module):
    """`(N, C, H, W) -> (N, C, H, W)`: each channel times a learned factor.

    `open` is 0 for channels that SSS has closed for good; a checkpoint of its training keeps it.
    """

    open: Tensor

    def __init__(self, channels: int, like: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, device=like.device, dtype=like.dtype))
        self.register_buffer("open", torch.ones_like(self.scale))

    def forward(self, maps: Tensor) -> Tensor:
        """Scale the maps."""
        return maps * self.scale[:, None, None].to(maps.dtype)


def _gated_path(model: nn.Module, site: PruneSite) -> str:
    """Return the path of the layer whose weights a gate is folded into."""
    norm = None if site.norm is None else model.get_submodule(site.norm)
    return site.norm if site.norm is not None and getattr(norm, "affine", False) else site.name


def insert_gates_(model: nn.Module, sites: list[PruneSite]) -> dict[str, ChannelGate]:
    """Put a gate behind each site, in place, and return the gates by the sites' names."""
    gates = {}
    for site in sites:
        path = _gated_path(model, site)
        layer = model.get_submodule(path)
        gate = gates[site.name] = ChannelGate(site.channels, layer.weight)  # type: ignore[arg-type]
        line = [layer, gate]
        if activates_too(layer):  # the gate belongs between the norm and its activation
            path, line = f"{path}.act", [gate, layer.act]  # type: ignore[list-item]
        replace_module_(model, path, nn.Sequential(*line).train(layer.training))
    return gates


@torch.no_grad()
def fold_gates_(model: nn.Module, sites: list[PruneSite]) -> nn.Module:
    """Multiply the gates into the layers before them, in place; the network computes the same."""
    for site in sites:
        path, layer, gate, rest = _gated(model, site)
        for parameter in (layer.weight, layer.bias):
            if parameter is not None:
                parameter.mul_(gate.scale.view(-1, *[1] * (parameter.ndim - 1)))  # type: ignore[operator]
        replace_module_(model, path, rest)
    return model


def _gated(model: nn.Module, site: PruneSite) -> tuple[str, nn.Module, ChannelGate, nn.Module]:
    """Return where a site's gate went, the layer before it, the gate, and what stands there without it."""
    for path in (path for path in (site.norm, site.name) if path is not None):
        found = model.get_submodule(path)
        if isinstance(found, nn.Sequential):
            layer, gate = found
            return path, layer, gate, layer  # type: ignore[return-value]
        if isinstance(getattr(found, "act", None), nn.Sequential):
            gate, activation = found.act  # type: ignore[misc]
            return f"{path}.act", found, gate, activation
    raise AssertionError(f"{site.name} has no gate")
