"""What the tests of layers that `fit` computes its own way share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def maps(
    channels: int, sizes: tuple[int, int], *, batch: int = 3, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draw maps in channels_last."""
    drawn = torch.randn(batch, channels, *sizes, dtype=torch.float64).to(dtype)
    return drawn.contiguous(memory_format=torch.channels_last)


def everything(conv: nn.Module, x: Tensor, upstream: Tensor, *, autocast: bool = False) -> list[Tensor]:
    """Return output and gradients as float64."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = conv(x)
    wanted = [x, *conv.parameters()]
    found = torch.autograd.grad(output, wanted, upstream.to(output.dtype))
    assert [value.dtype for value in found] == [value.dtype for value in wanted]
    return [value.detach().double() for value in (output, *found)]


def assert_as_exact(ours: list[Tensor], native: list[Tensor], exact: list[Tensor], step: float) -> None:
    """Check that output and gradients are off by no more than PyTorch's own twice, or by a rounding step."""
    for name, found, theirs, right in zip(("output", "dx", "dw", "db"), ours, native, exact, strict=False):
        assert found.shape == right.shape, name
        # PyTorch leaves gradients of taps that see the border alone unwritten, whatever lies there
        written = torch.where((theirs - right).abs() <= right.norm(), theirs, right)
        allowed = 2 * (written - right).norm() + step * right.norm()
        assert (found - right).norm() <= allowed, name


def assert_same_second_derivatives(ours: nn.Module, native: nn.Module, x: Tensor) -> None:
    """Check the gradients of a function of gradients."""
    weight = torch.randn_like(native(x))
    found = []
    for conv in (ours, native):
        given = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        loss = (conv(given) ** 2 * weight).sum()
        slope = torch.autograd.grad(loss, [given, conv.weight], create_graph=True)
        wanted = [given, conv.weight, conv.bias]
        found.append(torch.autograd.grad(sum((value**2).sum() for value in slope), wanted))
    for one, right in zip(*found, strict=True):
        assert torch.allclose(one, right, rtol=1e-3, atol=1e-3 * float(right.abs().max()))


def assert_transforms_see_the_native_operator(
    fast: Callable[[nn.Module], AbstractContextManager[int]], conv: nn.Module, x: Tensor, taken: list[object]
) -> None:
    """Check that forward mode, functional calls, exports and compilers are left PyTorch's own convolution."""

    def with_state(value: Tensor, state: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(conv, state, (value,)).sum()

    with fast(conv):
        with forward_ad.dual_level():
            conv(forward_ad.make_dual(x, torch.randn_like(x)))
        torch.func.grad(with_state)(x, dict(conv.state_dict()))
        exported = torch.export.export(nn.Sequential(conv), (x,))
        torch.compile(conv, backend="eager", fullgraph=True)(x)
        torch.jit.trace(nn.Sequential(conv), (x,), check_trace=False)
        assert taken == []
        conv(x)
    assert len(taken) == 1
    assert any("conv2d" in str(node.target) for node in exported.graph.nodes)
