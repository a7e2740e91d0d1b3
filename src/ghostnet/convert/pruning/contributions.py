"""What each input channel contributes to a layer's output, at sampled positions: second moments for the selections.

For a layer Y = sum over channels c of X_c W_c, with X_c (samples, k*k) the channel's patches, both channel pruning and
ThiNet need only the Gram matrix of the contributions Z_c = X_c W_c and their products with the wanted output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ghostnet.convert.patches import padded_inputs

_POSITIONS = 16  # of each image's output maps; papers sample 10
_MOST_SAMPLES = 20_000


@dataclass
class Samples:
    """Input patches of a layer and the outputs wanted there.

    Attributes:
        patches: float64 `(samples, channels, values a channel)`.
        wanted: float64 `(samples, outputs)`, without the layer's bias.
    """

    patches: Tensor
    wanted: Tensor


@dataclass
class Moments:
    """Second moments of the channels' contributions, averaged over samples and summed over outputs.

    Attributes:
        gram: `(channels, channels)`, of Z_c with Z_e.
        product: `(channels,)`, of Z_c with the wanted output.
        power: of the wanted output.
    """

    gram: Tensor
    product: Tensor
    power: float


@torch.no_grad()
def draw_samples(
    pairs: list[tuple[Tensor, Tensor]], layer: nn.Module, channels: int, generator: torch.Generator
) -> Samples:
    """Take patches and outputs at random positions.

    Args:
        pairs: input and wanted output of the layer for each batch.
        layer: `nn.Conv2d` with one group, or `nn.Linear`.
        channels: that the inputs belong to; a linear layer may have several features of each.
        generator: of the positions.
    """
    images = sum(len(inputs) for inputs, _ in pairs)
    positions = max(1, min(_POSITIONS, _MOST_SAMPLES // max(1, images)))
    patches, wanted = [], []
    for inputs, outputs in pairs:
        if isinstance(layer, nn.Linear):
            patches.append(inputs.reshape(len(inputs), channels, -1))
            wanted.append(outputs)
        else:
            found = _patches_of(inputs, outputs, layer, positions, generator)  # type: ignore[arg-type]
            patches.append(found[0])
            wanted.append(found[1])
    target = torch.cat(wanted).double()
    bias: Tensor | None = layer.bias  # type: ignore[assignment]
    return Samples(torch.cat(patches).double(), target if bias is None else target - bias.double())


def _patches_of(
    inputs: Tensor, outputs: Tensor, layer: nn.Conv2d, positions: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    padded = padded_inputs(layer, inputs, 1)
    count, _, height, width = outputs.shape
    rows = torch.randint(height, (count, positions), generator=generator).to(inputs.device)
    columns = torch.randint(width, (count, positions), generator=generator).to(inputs.device)
    image = torch.arange(count, device=inputs.device)[:, None]
    steps = [
        torch.arange(size, device=inputs.device) * dilation
        for size, dilation in zip(layer.kernel_size, layer.dilation, strict=True)
    ]
    at_row = (rows * layer.stride[0])[:, :, None, None] + steps[0][:, None]
    at_column = (columns * layer.stride[1])[:, :, None, None] + steps[1]
    taken = padded.permute(0, 2, 3, 1)[image[:, :, None, None], at_row, at_column]  # (N, P, k, k, C)
    patches = taken.flatten(2, 3).transpose(2, 3).flatten(0, 1)
    return patches, outputs.permute(0, 2, 3, 1)[image, rows, columns].flatten(0, 1)


def by_channel(weight: Tensor, channels: int) -> Tensor:
    """Return a layer's weight as `(channels, values a channel, outputs)` in float64."""
    return weight.detach().double().reshape(len(weight), channels, -1).permute(1, 2, 0)


@torch.no_grad()
def moments_of(samples: Samples, weight: Tensor) -> Moments:
    """Return the second moments of the contributions.

    Args:
        samples: from `draw_samples`.
        weight: `(channels, values, outputs)`, from `by_channel`.
    """
    count, channels, values = samples.patches.shape
    flat = samples.patches.flatten(1)
    second = (flat.T @ flat / count).view(channels, values, channels, values)
    with_output = torch.einsum("ncv,no->cvo", samples.patches, samples.wanted) / count
    through = torch.einsum("cvdw,dwo->cvdo", second, weight)
    return Moments(
        gram=torch.einsum("cvdo,cvo->cd", through, weight),
        product=(with_output * weight).sum((1, 2)),
        power=float(samples.wanted.square().sum(1).mean()),
    )


def relative_error(samples: Samples, weight: Tensor) -> float:
    """Return the squared error of the layer's output over the wanted output's power.

    Args:
        samples: from `draw_samples`.
        weight: `(channels, values, outputs)`.
    """
    made = samples.patches.flatten(1) @ weight.flatten(0, 1)
    return float((made - samples.wanted).square().sum() / samples.wanted.square().sum().clamp_min(1e-30))
