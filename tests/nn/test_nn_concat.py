"""concat_channels: values and gradients of torch.cat, dense gradients, nothing saved for backward."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from ghostnet.nn import GhostConv2d, concat_channels

FORMATS = (torch.contiguous_format, torch.channels_last)


KINDS = (
    ((3, 4), torch.float32),
    ((4, 8), torch.float32),
    ((8, 16), torch.bfloat16),
    ((4, 8), torch.bfloat16),
)


def _pair(
    memory_format: torch.memory_format,
    channels: tuple[int, int] = (3, 4),
    dtype: torch.dtype = torch.float32,
) -> list[torch.Tensor]:
    torch.manual_seed(0)
    maps = [torch.randn(2, number, 5, 6, dtype=dtype).to(memory_format=memory_format) for number in channels]
    return [item.requires_grad_() for item in maps]


@pytest.mark.parametrize(("channels", "dtype"), KINDS)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_gradients_equal_those_of_torch_cat_and_are_dense(memory_format, channels, dtype):
    first, second = _pair(memory_format, channels, dtype)
    upstream = torch.randn(2, sum(channels), 5, 6, dtype=dtype).to(memory_format=memory_format)
    output = concat_channels(first, second)
    assert torch.equal(output, torch.cat([first, second], dim=1))
    assert output.is_contiguous(memory_format=memory_format)
    seen = []
    first_node, second_node = first * 1.0, second * 1.0  # gradients as the producers of the maps receive them
    for node in (first_node, second_node):
        node.register_hook(seen.append)
    concat_channels(first_node, second_node).backward(upstream)
    expected = torch.autograd.grad(torch.cat([first, second], dim=1), [first, second], upstream)
    assert len(seen) == 2
    for gradient, wanted in zip(sorted(seen, key=lambda item: item.shape[1]), expected, strict=True):
        assert torch.equal(gradient, wanted)
        assert gradient.is_contiguous(memory_format=memory_format)


def test_only_the_needed_gradient_is_made():
    first, second = _pair(torch.contiguous_format)
    concat_channels(first, second.detach()).sum().backward()
    assert first.grad is not None
    assert second.grad is None


@pytest.mark.parametrize("memory_format", FORMATS)
def test_second_derivative_passes(memory_format):
    maps = [item.double().detach()[:1, :2, :2, :2] for item in _pair(FORMATS[0])]
    first, second = (item.contiguous(memory_format=memory_format).requires_grad_() for item in maps)
    assert torch.autograd.gradcheck(concat_channels, (first, second))
    assert torch.autograd.gradgradcheck(concat_channels, (first, second))


def test_per_sample_gradients_pass_through_vmap():
    first, second = (item.detach() for item in _pair(torch.channels_last, (4, 8)))
    weight = torch.randn(12, 5, 6)

    def loss(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (concat_channels(one[None], other[None])[0] ** 2 * weight).sum()

    found = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))(first, second)
    assert torch.allclose(found[0], 2 * first * weight[:4])
    assert torch.allclose(found[1], 2 * second * weight[4:])


@pytest.mark.parametrize("channels", [(4, 4), (3, 4)])
def test_maps_of_different_sizes_are_refused_as_torch_cat_refuses_them(channels):
    first, second = _pair(torch.channels_last, channels)
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        concat_channels(first, second[:, :, :4].contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("grad", [True, False])
def test_plain_cat_where_no_gradient_flows(grad):
    first, second = _pair(torch.contiguous_format)
    with torch.set_grad_enabled(grad):
        output = concat_channels(first, second)
    assert (output.grad_fn is not None) is grad
    if grad:
        assert "ConcatChannels" in type(output.grad_fn).__name__


def test_autocast_trains_in_bfloat16():
    conv = GhostConv2d(3, 8, 3, padding=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = conv(torch.randn(2, 3, 6, 6))
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in conv.parameters())


def test_mixed_types_give_each_input_its_own_gradient_type():
    first = torch.randn(1, 2, 3, 3, dtype=torch.bfloat16, requires_grad=True)
    second = torch.randn(1, 2, 3, 3, requires_grad=True)
    concat_channels(first, second).sum().backward()
    assert (first.grad.dtype, second.grad.dtype) == (torch.bfloat16, torch.float32)


class _PlainGhost(nn.Module):
    """The same computation with torch.cat."""

    def __init__(self, ghost: GhostConv2d) -> None:
        super().__init__()
        self.ghost = ghost

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.ghost.primary_conv(x)
        return torch.cat([maps, self.ghost.cheap_operation(maps)], dim=1)


def _saved_bytes(module: nn.Module, x: torch.Tensor) -> int:
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(x)
    assert output.requires_grad  # and alive, so that no storage was freed and counted under a reused address
    return sum(storages.values())


@pytest.mark.parametrize(("out_channels", "ratio"), [(16, 2), (15, 2), (16, 3), (32, 5)])
def test_training_saves_no_more_than_the_plain_implementation(out_channels, ratio):
    ghost = GhostConv2d(4, out_channels, 3, padding=1, ratio=ratio)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    saved = _saved_bytes(ghost, x)
    weights = sum(p.numel() for p in ghost.parameters() if p.dim() == 4)
    activations = x.numel() + 2 * ghost.intrinsic_channels * 64
    assert 0 < saved <= _saved_bytes(_PlainGhost(ghost), x)
    assert saved <= 4 * (weights + activations)  # the input and the intrinsic maps, nothing of the ghost maps


@pytest.mark.slow  # a minute on an idle machine: other load on it blurs the ratio
def test_a_training_step_takes_at_most_four_fifths_of_that_with_torch_cat():
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "concat_step.py"))
    assert script["measure"](seconds=15)["ratio"] <= 0.8
