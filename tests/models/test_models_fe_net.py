"""FE-Net's shift layer by its definition, its gradients by grid sampling, and the progressive block."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet.models.fe_net import FEBlock, SparseShift


def by_definition(images: Tensor, displacement: Tensor) -> Tensor:
    out = torch.zeros_like(images)
    _, channels, height, width = images.shape
    for c in range(channels):
        down, right = (int(value) for value in displacement[:, c].round())
        for h in range(height):
            for w in range(width):
                if 0 <= h + down < height and 0 <= w + right < width:
                    out[:, c, h, w] = images[:, c, h + down, w + right]
    return out


def layer(displacement: list[list[float]]) -> SparseShift:
    shift = SparseShift(len(displacement[0]))
    with torch.no_grad():
        shift.displacement.copy_(torch.tensor(displacement))
    return shift


@pytest.mark.parametrize("training", [True, False])
def test_shift_moves_by_the_rounded_displacement(training: bool) -> None:
    shift = layer([[0.0, 1.4, -0.6, 2.0, -7.0], [0.0, -0.4, 1.7, -3.0, 0.2]]).train(training)
    images = torch.randn(2, 5, 5, 4)
    torch.testing.assert_close(shift(images), by_definition(images, shift.displacement), rtol=0, atol=1e-6)


def test_displacements_start_as_the_nine_neighbours() -> None:
    start = SparseShift(20).displacement
    assert start[:, 18:].abs().max() == 0
    pairs = {(int(a), int(b)) for a, b in start.T}
    assert pairs == {(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)}
    assert SparseShift(4).displacement.abs().max() == 0  # too few for nine groups


def test_displacement_gradient_is_that_of_bilinear_interpolation() -> None:
    displacement = [[0.3, -0.7, 1.2], [-0.4, 0.6, -1.9]]
    shift = layer(displacement).double().train()
    images, weights = torch.randn(2, 3, 6, 7).double(), torch.randn(2, 3, 6, 7).double()
    (shift(images) * weights).sum().backward()

    moved = (
        shift.displacement.detach().clone().requires_grad_()
    )  # as rounded to float32 when the layer was made
    rows, columns = torch.meshgrid(torch.arange(6).double(), torch.arange(7).double(), indexing="ij")
    total = torch.zeros((), dtype=torch.double)
    for c in range(3):
        x = 2 * (columns + moved[1, c]) / 6 - 1
        y = 2 * (rows + moved[0, c]) / 5 - 1
        grid = torch.stack((x, y), -1).expand(2, 6, 7, 2)
        sampled = F.grid_sample(images[:, c : c + 1], grid, align_corners=True)
        total = total + (sampled * weights[:, c : c + 1]).sum()
    total.backward()
    assert moved.grad is not None
    torch.testing.assert_close(shift.displacement.grad, moved.grad)


def test_input_gradient_is_the_inverse_shift() -> None:
    shift = layer([[1.0, -2.0], [0.0, 3.0]]).train()
    images, weights = torch.randn(1, 2, 5, 5, requires_grad=True), torch.randn(1, 2, 5, 5)
    (shift(images) * weights).sum().backward()
    torch.testing.assert_close(images.grad, by_definition(weights, -shift.displacement))


def test_block_lets_more_channels_in_unit_by_unit() -> None:
    block = FEBlock(32, 64, units=3, stride=1).eval()
    assert block.widths == [8, 16]
    assert block(torch.randn(1, 32, 6, 6)).shape == (1, 64, 6, 6)
    block.last = nn.Identity()  # shows what reaches the last unit
    images = torch.randn(1, 32, 6, 6)
    out = block(images)
    assert torch.equal(out[:, :16], images[:, :16])
    changed = (out[:, 16:] != images[:, 16:]).flatten(2).any(2)
    assert changed.all()
    other = images.clone()
    other[:, :16] += 1
    assert torch.equal(block(other)[:, 16:], out[:, 16:])
