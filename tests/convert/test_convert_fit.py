"""The moments of patches and maps against the maps themselves, and the closed forms in them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ghostnet.convert import fit
from ghostnet.convert.moments import map_windows, patch_moments


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "size"),
    [(3, 1, 1, 3), (3, 2, 1, 3), (3, (2, 1), 1, 3), (3, 1, 2, 3), (1, 1, 1, 5), (3, 1, 1, 1)],
)
def test_moments_predict_ghost_maps_with_zero_borders(
    kernel: int, stride: int | tuple[int, int], dilation: int, size: int
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, kernel, stride, dilation * (kernel // 2), dilation, bias=False)
    x, target = torch.randn(3, 3, 8, 8), torch.randn_like(conv(torch.zeros(3, 3, 8, 8)))
    moments = patch_moments([(x, target)], conv, size, centred=False)
    maps = F.unfold(conv(x).detach(), size, padding=size // 2).view(3, 4, size * size, -1)
    windows, against = moments.windows(conv.weight.detach().flatten(1).double())
    positions = target[:, 0].numel()
    torch.testing.assert_close(windows.float(), torch.einsum("bmtp,bmup->mtu", maps, maps) / positions)
    expected = torch.einsum("bmtp,bnp->mtn", maps, target.flatten(2)) / positions
    torch.testing.assert_close(against.float(), expected, atol=1e-5, rtol=1e-4)
    on_maps = map_windows([(x, target)], conv, conv.weight.detach().flatten(1), size, centred=False)
    torch.testing.assert_close(on_maps.windows, windows, atol=1e-5, rtol=1e-4)


def test_refit_keeps_filters_that_are_right_and_finds_those_that_are_not() -> None:
    torch.manual_seed(0)
    conv, other = nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.Conv2d(2, 3, 3, padding=1, bias=False)
    x = torch.randn(8, 2, 6, 6)
    for wanted in (conv, other):
        moments = patch_moments([(x, wanted(x).detach())], conv, 3, centred=False)
        expected = wanted.weight.detach().flatten(1).double()
        torch.testing.assert_close(fit.refit(moments, 1e-8), expected, atol=1e-5, rtol=1e-5)


def test_dead_maps_give_zeros_and_no_nan() -> None:
    solution = fit.solve(torch.zeros(2, 3, 3).double(), torch.zeros(2, 3, 1).double(), 1e-4)
    assert bool((solution == 0).all())


@pytest.mark.parametrize("ratio", [2, 3])
def test_equations_of_some_primary_filters_are_those_among_all(ratio: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 12, 3, padding=1, bias=False)
    x = torch.randn(4, 3, 6, 6)
    moments = patch_moments([(x, conv(x).detach() + torch.randn(4, 12, 6, 6))], conv, 3, centred=True)
    count = 12 // ratio
    heads, ghosts = torch.arange(count), torch.arange(count, 12)
    groups = fit.Groups(heads, ghosts, torch.arange(count).repeat(ratio - 1), torch.rand(12).double())
    cheap, filters = torch.randn(len(ghosts), 9).double(), moments.dense[heads]
    every = fit.primary_equations(moments, filters, cheap, groups, torch.arange(count))
    some = torch.tensor([2, 0])
    for part, whole in zip(fit.primary_equations(moments, filters, cheap, groups, some), every, strict=True):
        torch.testing.assert_close(part, whole[some])
