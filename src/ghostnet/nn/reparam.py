"""Convolutions with parallel training branches that fuse exactly into one convolution (structural re-parameterisation).

GhostNetV3 and RepGhost train more branches than they deploy. A sum of convolutions of one stride, each with its batch
norm, is one convolution with a bias once the statistics are fixed. Not in the GhostNet paper. Left out: pooling and
average branches, and convolutions in other than two dimensions.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet.checks import check_integer
from ghostnet.errors import InputError
from ghostnet.nn.copies import copy_model
from ghostnet.nn.edits import record_edits_, recorded_edits


class ConvNorm(nn.Module):
    """A convolution without bias and its batch norm: one branch.

    `(N, C_in, H, W) -> (N, C_out, H', W')`; padding is `kernel_size // 2`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised maps."""
        return self.norm(self.conv(x))


class ReparamConv2d(nn.Module):
    """A sum of branches in training that is one convolution with bias in deployment.

    `(N, C_in, H, W) -> (N, C_out, H', W')`: `sum_i norm_i(conv_i(x)) + norm(conv_1x1(x)) + norm(x)`, where the last two
    are there on request. Padding is `kernel_size // 2`. No activation follows.

    Args:
        in_channels: input channels, >= 1.
        out_channels: output channels, >= 1.
        kernel_size: k of the main branches, odd.
        stride: of every branch.
        groups: of every branch.
        branches: main branches, >= 1.
        scale: add a 1x1 branch.
        skip: add a batch norm of the input; needs stride 1 and as many outputs as inputs.

    Raises:
        InputError: an even kernel, no branch, or a skip that cannot be added.

    Example:
        >>> ReparamConv2d(8, 8, 3, groups=8, skip=True).fused()
        Conv2d(8, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        branches: int = 1,
        scale: bool = False,
        skip: bool = False,
    ) -> None:
        super().__init__()
        _check(kernel_size, branches, skip and (stride != 1 or in_channels != out_channels))
        self.branches = nn.ModuleList(
            ConvNorm(in_channels, out_channels, kernel_size, stride=stride, groups=groups)
            for _ in range(branches)
        )
        self.scale = ConvNorm(in_channels, out_channels, 1, stride=stride, groups=groups) if scale else None
        self.skip = nn.BatchNorm2d(in_channels) if skip else None
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:  # the sum then starts with the variance of one branch, not of all of them
            nn.init.constant_(norm.weight, len(norms) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the branches."""
        total = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        if self.scale is not None:
            total = total + self.scale(x)
        return total if self.skip is None else total + self.skip(x)

    @torch.no_grad()
    def fused(self) -> nn.Conv2d:
        """Return a new convolution with bias that computes what this module computes in evaluation mode."""
        like = self.branches[0].conv
        assert isinstance(like, nn.Conv2d)  # for the type checker: ModuleList forgets what it holds
        kernels, biases = [], []
        for part in (*self.branches, self.scale):
            if part is not None:
                kernel, bias = _scaled(part.conv.weight, part.norm)
                kernels.append(_padded(kernel, like.weight.shape[-1]))
                biases.append(bias)
        if self.skip is not None:
            kernel, bias = _scaled(_identity_kernel(like), self.skip)
            kernels.append(kernel)
            biases.append(bias)
        fused = copy.deepcopy(like)
        fused.weight.copy_(torch.stack(kernels).sum(0))
        fused.bias = nn.Parameter(torch.stack(biases).sum(0).to(fused.weight))
        return fused.requires_grad_(like.weight.requires_grad).train(self.training)


def _check(kernel_size: int, branches: int, impossible_skip: bool) -> None:
    check_integer("`kernel_size`", kernel_size, odd=True, ending=", or branches do not align.")
    check_integer("`branches`", branches, ending="; 1 is a plain convolution.")
    if impossible_skip:
        raise InputError(
            "a `skip` branch needs stride 1 and as many outputs as inputs; build it with skip=False."
        )


def _scaled(kernel: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Fold a batch norm into a kernel, in double precision: several branches are summed afterwards."""
    assert norm.running_mean is not None  # for the type checker: ours always track statistics
    assert norm.running_var is not None
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return kernel.double() * factor.view(
        -1, 1, 1, 1
    ), norm.bias.double() - norm.running_mean.double() * factor


def _padded(kernel: Tensor, size: int) -> Tensor:
    border = (size - kernel.shape[-1]) // 2
    return F.pad(kernel, [border] * 4)


def _identity_kernel(conv: nn.Conv2d) -> Tensor:
    """Return the kernel of `conv`'s shape that hands every input channel on."""
    kernel = torch.zeros_like(conv.weight)
    centre = conv.weight.shape[-1] // 2
    for channel in range(conv.out_channels):
        kernel[channel, channel % conv.weight.shape[1], centre, centre] = 1
    return kernel


def fuse_reparameterised(model: nn.Module) -> nn.Module:
    """Return a copy of a network in which every `ReparamConv2d` is one convolution; `model` is untouched.

    Exact in evaluation mode (the batch norms' statistics are fixed then) up to rounding. The result can be trained on,
    with fewer branches; its state dict no longer fits the network that it came from. What was replaced is
    recorded in `ghostnet_edits`, so that `models.save` and `models.load` rebuild it.

    Args:
        model: any module.

    Raises:
        InputError: there is nothing to fuse.

    Example:
        >>> type(fuse_reparameterised(nn.Sequential(ReparamConv2d(4, 4, 3, branches=3)))[0]).__name__
        'Conv2d'
    """
    fused = copy_model(model)
    found = [(path, module) for path, module in fused.named_modules() if isinstance(module, ReparamConv2d)]
    if not found:
        raise InputError(f"{type(model).__name__} has no re-parameterised branches to fuse; use it as it is.")
    if isinstance(fused, ReparamConv2d):
        return fused.fused()
    edits = []
    for path, module in found:
        parent, _, name = path.rpartition(".")
        convolution = module.fused()
        fused.get_submodule(parent)._modules[name] = convolution
        edits.append({"path": path, "kind": "conv2d", "config": _config(convolution)})
    record_edits_(fused, [*recorded_edits(model), *edits])
    return fused


def _config(conv: nn.Conv2d) -> dict[str, Any]:
    """Return the arguments that rebuild a fused convolution, as JSON-able values."""
    return {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size[0],
        "stride": conv.stride[0],
        "padding": conv.kernel_size[0] // 2,
        "groups": conv.groups,
    }
