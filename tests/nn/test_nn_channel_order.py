"""Reordered channels: equal to `index_select`, format kept, gradients by the inverse order, plain in exports."""

import pytest
import torch

from ghostnet.nn.channel_order import reorder_channels

FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", [(2, 6, 5, 4), (1, 8, 1, 1), (3, 1, 4, 4)])
def test_values_gradients_and_format_are_those_of_index_select(shape, memory_format, dtype):
    torch.manual_seed(0)
    order = torch.randperm(shape[1])
    maps = torch.randn(shape).to(dtype).contiguous(memory_format=memory_format)
    upstream = torch.randn(shape).to(dtype).contiguous(memory_format=memory_format)
    ours, plain = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    out = reorder_channels(ours, order)
    expected = plain.index_select(1, order)
    assert torch.equal(out, expected)
    assert out.is_contiguous(memory_format=memory_format)
    assert torch.equal(reorder_channels(maps, order), expected)  # without gradients
    out.backward(upstream)
    expected.backward(upstream)
    assert torch.equal(ours.grad, plain.grad)


def test_second_derivatives():
    maps = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    order = torch.tensor([3, 0, 2, 1])
    weight = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: reorder_channels(x.square(), order) * weight, maps)
    assert torch.autograd.gradgradcheck(lambda x: reorder_channels(x.square(), order) * weight, maps)


def test_a_trace_records_the_plain_operation():
    class Reordered(torch.nn.Module):
        def forward(self, maps):
            return reorder_channels(maps, torch.tensor([1, 0]))

    exported = torch.export.export(Reordered(), (torch.zeros(1, 2, 3, 3),))
    targets = {str(node.target) for node in exported.graph.nodes}
    assert any("index_select" in target for target in targets)
    assert not any("conv" in target or "gather" in target for target in targets)
