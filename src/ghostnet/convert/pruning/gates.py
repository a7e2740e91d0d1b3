"""One factor a channel behind each prunable layer: what Taylor importance differentiates and SSS makes sparse.

A gate multiplies the output of the layer's batch norm (of the convolution itself where there is none). It starts at
1, and is folded back into that layer's weights, so that no trace of it is left in the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ghostnet.convert.channelwise import activates_too
from ghostnet.convert.pruning.sites import PruneSite
from ghostnet.nn.edits import replace_module_
from ghostnet.nn.narrow import by_outputs


class ChannelGate(nn.Module):
    """`(N, C, H, W) -> (N, C, H, W)`: each channel times a learned factor.

    `open` is 0 for channels that SSS has closed for good; a checkpoint of its training keeps it.

    Args:
        scale: `(channels,)`, the factors of a site; layers whose channels go together share them.
        index: `(C,)`, which of the factors each channel takes.
    """

    open: Tensor
    index: Tensor

    def __init__(self, scale: nn.Parameter, index: Tensor) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("open", torch.ones_like(scale))
        self.register_buffer("index", index.to(scale.device), persistent=False)

    def factors(self) -> Tensor:
        """Return the factor of each channel, `(C,)`."""
        return self.scale[self.index]

    def forward(self, maps: Tensor) -> Tensor:
        """Scale the maps."""
        return maps * self.factors()[:, None, None].to(maps.dtype)


def _gated_path(model: nn.Module, site: PruneSite, writer: str) -> str:
    """Return the path of the layer whose weights a gate is folded into."""
    path = site.norms[writer]
    norm = None if path is None else model.get_submodule(path)
    return path if path is not None and getattr(norm, "affine", False) else writer


def insert_gates_(model: nn.Module, sites: list[PruneSite]) -> dict[str, ChannelGate]:
    """Put a gate behind each layer that makes channels of a site, in place; return one of each site by its name."""
    gates: dict[str, ChannelGate] = {}
    for site in sites:
        like: Tensor = model.get_submodule(site.name).weight  # type: ignore[assignment]
        scale = nn.Parameter(torch.ones(site.channels, device=like.device, dtype=like.dtype))
        for writer in site.writers:
            path = _gated_path(model, site, writer)
            layer = model.get_submodule(path)
            gate = ChannelGate(scale, site.outputs[writer])
            gates.setdefault(site.name, gate)
            line = [layer, gate]
            if activates_too(layer):  # the gate belongs between the norm and its activation
                path, line = f"{path}.act", [gate, layer.act]  # type: ignore[list-item]
            replace_module_(model, path, nn.Sequential(*line).train(layer.training))
    return gates


@torch.no_grad()
def fold_gates_(model: nn.Module, sites: list[PruneSite]) -> nn.Module:
    """Multiply the gates into the layers before them, in place; the network computes the same."""
    for site in sites:
        for writer in site.writers:
            path, layer, gate, rest = _gated(model, site, writer)
            factors = gate.factors()
            for parameter in (layer.weight, layer.bias):
                if parameter is not None:
                    shape = (-1, *[1] * (parameter.ndim - 1))  # type: ignore[operator]
                    by_outputs(parameter, layer).mul_(factors.view(shape))  # type: ignore[arg-type]
            replace_module_(model, path, rest)
    return model


def _gated(model: nn.Module, site: PruneSite, writer: str) -> tuple[str, nn.Module, ChannelGate, nn.Module]:
    """Return where a layer's gate went, the layer before it, the gate, and what stands there without it."""
    for path in (path for path in (site.norms[writer], writer) if path is not None):
        found = model.get_submodule(path)
        if isinstance(found, nn.Sequential):
            layer, gate = found
            return path, layer, gate, layer  # type: ignore[return-value]
        if isinstance(getattr(found, "act", None), nn.Sequential):
            gate, activation = found.act  # type: ignore[misc]
            return f"{path}.act", found, gate, activation
    raise AssertionError(f"{writer} has no gate")
