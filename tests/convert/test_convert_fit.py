"""The moments of patches and maps against the maps themselves, and the closed forms in them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet.convert import fit
from ghostnet.convert.moments import Moments, map_windows, patch_moments
from ghostnet.convert.patches import gram_of


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


@pytest.mark.parametrize("centred", [True, False])
def test_halves_are_the_moments_of_every_second_image(centred: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, (3, 1), padding=(1, 0), bias=False)  # rows and columns are not the same there
    x, target = torch.randn(5, 3, 6, 7), torch.randn(5, 4, 6, 7)
    whole = patch_moments([(x, target)], conv, 3, centred=centred)
    maps = F.unfold(conv(x).detach(), 3, padding=1).view(5, 4, 9, -1)
    filters = conv.weight.detach().flatten(1).double()
    mean = maps.mean((0, 3))
    torch.testing.assert_close(whole.map_means(filters).float(), mean)
    expected = torch.einsum("bmtp,bmup->mtu", maps, maps) / (5 * 42)
    expected -= centred * mean[:, :, None] * mean[:, None]
    torch.testing.assert_close(whole.windows(filters)[0].float(), expected)
    assert len(whole.halves) == 2
    for first, half in enumerate(whole.halves):
        alone = patch_moments([(x[first::2], target[first::2])], conv, 3, centred=centred)
        for name in ("pairs", "cross", "mean", "target_mean", "target_power", "inside"):
            torch.testing.assert_close(getattr(half, name), getattr(alone, name), msg=name)
    single = patch_moments([(x[:1], target[:1])], conv, 3, centred=centred)
    assert single.halves == ()


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


def _layer_of(ratio: int) -> tuple[Moments, Tensor, Tensor, fit.Groups]:
    """Return moments of a small layer, primary filters, cheap filters and which target each stands for."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 12, 3, padding=1, bias=False)
    x = torch.randn(4, 3, 6, 6)
    moments = patch_moments([(x, conv(x).detach() + torch.randn(4, 12, 6, 6))], conv, 3, centred=True)
    count = 12 // ratio
    heads, ghosts = torch.arange(count), torch.arange(count, 12)
    groups = fit.Groups(heads, ghosts, torch.arange(count).repeat(ratio - 1), torch.rand(12).double())
    return moments, moments.dense[heads], torch.randn(len(ghosts), 9).double(), groups


@pytest.mark.parametrize("ratio", [2, 3])
def test_equations_of_some_primary_filters_are_those_among_all(ratio: int) -> None:
    moments, filters, cheap, groups = _layer_of(ratio)
    every = fit.primary_equations(moments, filters, cheap, groups, torch.arange(len(filters)))
    some = torch.tensor([2, 0])
    for part, whole in zip(fit.primary_equations(moments, filters, cheap, groups, some), every, strict=True):
        torch.testing.assert_close(part, whole[some])


@pytest.mark.parametrize("entries", [1, 2**25])
def test_primary_filters_solve_their_equations_however_many_are_made_at_once(
    entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "_ENTRIES", entries)
    moments, filters, cheap, groups = _layer_of(2)
    found = fit.best_primary(moments, filters, cheap, groups, 0.0)
    gram, missing = fit.primary_equations(moments, filters, cheap, groups, torch.arange(len(filters)))
    torch.testing.assert_close(gram @ (found - filters)[:, :, None], missing)


def test_rough_primary_filters_are_near_and_exact_where_float32_is_too_coarse() -> None:
    moments, filters, cheap, groups = _layer_of(2)
    exact = fit.best_primary(moments, filters, cheap, groups, 1e-4)
    rough = fit.best_primary(moments, filters, cheap, groups, 1e-4, rough=True)
    assert rough.dtype == torch.float64
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, atol=1e-3, rtol=1e-3)
    moments.pairs[:] = torch.ones_like(moments.pairs)  # of rank 1
    del moments.single
    again = fit.best_primary(moments, filters, cheap, groups, 1e-9, rough=True)
    assert torch.equal(again, fit.best_primary(moments, filters, cheap, groups, 1e-9))


def test_a_rough_solution_is_the_exact_one_where_float32_cannot_tell() -> None:
    nearly = torch.ones(3, 3).double() + 1e-9 * torch.eye(3).double()
    right = nearly @ torch.tensor([[1.0], [2.0], [3.0]]).double()
    torch.testing.assert_close(fit.solve_roughly(nearly, right, 1e-12), fit.solve(nearly, right, 1e-12))
    well = torch.eye(3).double() * 2
    torch.testing.assert_close(fit.solve_roughly(well, right, 0.0), right / 2, atol=1e-6, rtol=1e-6)
    assert torch.equal(well, torch.eye(3).double() * 2)  # what it was given is not changed


@pytest.mark.parametrize("shape", [(300, 40), (2, 513, 5), (3, 20, 9), (256, 7)])
def test_gram_matrices_are_the_whole_product(shape: tuple[int, ...]) -> None:
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(gram_of(inputs), inputs @ inputs.mT)
