"""What steps a network's weights: SGD with momentum, AdamW, or Muon with AdamW for what is no matrix.

Muon (K. Jordan et al., 2024, "Muon: an optimizer for hidden layers in neural networks") replaces the averaged gradient
of a weight matrix by the orthogonal matrix nearest to it, so that all its directions are learned at one pace, which
helps plain deep networks without shortcuts most. PyTorch's own takes matrices; here it is given the kernels of
convolutions as matrices, a row a filter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ghostnet.bfloat16 import has_bfloat16
from ghostnet.train.settings import TrainSettings
from ghostnet.train.stacked import StackedNetworks


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return the optimiser of a network that is where it will be trained, in its final memory format.

    All its groups are to have one learning rate, see `TrainSettings.learning_rate`.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings.optimizer == "muon":
        kernels = list(_kernels(model))  # those that are frozen have no gradient, and are left alone
        taken = {id(kernel) for kernel in kernels}
        rest = [parameter for parameter in parameters if id(parameter) not in taken]
        return MuonWithAdamW(kernels, _groups(rest, settings), settings)
    vector = 2 if isinstance(model, StackedNetworks) else 1  # axes of a norm's weight, or of a bias
    groups = _groups(parameters, settings, vector)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=_betas(settings), fused=True)
    return torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
        fused=True,  # on two CPU cores a tenth of the time: 2.8 ms a step of Ghost-VGG-16, not 26
    )


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for kernels and AdamW for the rest, as one optimiser: its groups are those of both.

    Muon's steps are scaled to the size of AdamW's (Liu et al., 2025, "Muon is scalable for LLM training"), so that both
    have one learning rate and one weight decay.

    Args:
        kernels: weights of two or more axes, a filter an entry of the first.
        rest: AdamW's groups.
        settings: rate, momentum and weight decay.
    """

    def __init__(
        self, kernels: list[nn.Parameter], rest: list[dict[str, Any]], settings: TrainSettings
    ) -> None:
        self._kernels = kernels
        self._matrices = [nn.Parameter(_matrix(kernel.detach())) for kernel in kernels]
        self._parts: list[torch.optim.Optimizer] = []
        if self._matrices:
            quick = has_bfloat16(self._matrices[0].device.type)
            muon = (torch.optim.Muon if quick else _Float32Muon)(
                self._matrices,
                lr=settings.learning_rate,
                weight_decay=settings.weight_decay,
                momentum=settings.momentum,
                nesterov=settings.nesterov and settings.momentum > 0,
                adjust_lr_fn="match_rms_adamw",
            )
            self._parts.append(muon)
        if any(group["params"] for group in rest):
            adamw = torch.optim.AdamW(rest, lr=settings.learning_rate, betas=_betas(settings), fused=True)
            self._parts.append(adamw)
        super().__init__([group for part in self._parts for group in part.param_groups], {})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, those of the kernels included, whose matrices the groups hold."""
        for kernel, matrix in zip(self._kernels, self._matrices, strict=True):
            matrix.grad = None
            if set_to_none or kernel.grad is None:
                kernel.grad = None
            else:
                kernel.grad.zero_()
        super().zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step both."""
        loss = _loss(closure)
        for kernel, matrix in zip(self._kernels, self._matrices, strict=True):
            # taken anew: whoever prepares a network for several processes gives its parameters other memory
            matrix.data = _matrix(kernel.detach())
            matrix.grad = None if kernel.grad is None else _matrix(kernel.grad, like=kernel)
        for part in self._parts:
            part.step()
        for kernel, matrix in zip(self._kernels, self._matrices, strict=True):
            if matrix.data_ptr() != kernel.data_ptr():  # a copy: the kernel's memory is not in one piece
                kernel.copy_(_kernel(matrix, like=kernel))
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both, in one order."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self._parts for group in part.param_groups]


class _Float32Muon(torch.optim.Muon):
    """PyTorch's Muon without bfloat16, which processors that imitate it take many times as long for."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = _loss(closure)
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state, momentum = self.state[matrix], group["momentum"]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                mean = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
                update = matrix.grad.lerp(mean, momentum) if group["nesterov"] else mean
                rate = group["lr"]
                matrix.mul_(1 - rate * group["weight_decay"])
                scale = 0.2 * math.sqrt(max(matrix.shape))  # to the size of AdamW's steps
                nearest = _orthogonal(update, group["ns_coefficients"], group["ns_steps"])
                matrix.sub_(nearest, alpha=rate * scale)
        return loss


def _loss(closure: Callable[[], float] | None) -> float | None:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """Return about the orthogonal matrix nearest to one, by Newton and Schulz's iteration."""
    tall = len(matrix) > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = coefficients
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def _kernels(model: nn.Module) -> Iterable[nn.Parameter]:
    """Return the weights that are matrices: of convolutions that see all maps, and of linear layers but the last."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.conv._ConvNd) and module.groups == 1 and not module.transposed
    ]
    weights = [module.weight for module in [*layers, *linear[:-1]]]
    return {id(weight): weight for weight in weights if isinstance(weight, nn.Parameter)}.values()


def _matrix(kernel: Tensor, like: Tensor | None = None) -> Tensor:
    """Return a kernel as a matrix, a row a filter, without a copy where its memory is in one piece.

    Args:
        kernel: `(filters, channels, *window)` or a matrix, in any memory format.
        like: the kernel whose order of columns it is to have; None for its own.
    """
    if kernel.ndim > 2 and not (kernel if like is None else like).is_contiguous():
        kernel = kernel.movedim(1, -1)
    return kernel.flatten(1)


def _kernel(matrix: Tensor, like: Tensor) -> Tensor:
    """Return a matrix as the kernel that `_matrix` made it of."""
    if like.ndim > 2 and not like.is_contiguous():
        return matrix.reshape(len(like), *like.shape[2:], like.shape[1]).movedim(-1, 1)
    return matrix.reshape(like.shape)


def _groups(parameters: list[nn.Parameter], settings: TrainSettings, vector: int = 1) -> list[dict[str, Any]]:
    """Return weights apart from vectors, which have at most that many axes and decay only if that is asked for."""
    return [
        {"params": [p for p in parameters if p.ndim > vector], "weight_decay": settings.weight_decay},
        {
            "params": [p for p in parameters if p.ndim <= vector],
            "weight_decay": settings.weight_decay if settings.decay_norms else 0.0,
        },
    ]


def _betas(settings: TrainSettings) -> tuple[float, float]:
    return settings.momentum, 0.999
