import weakref
from typing import Any

import pytest
import torch
from torch import nn

from ghostnet.convert import group_fit
from ghostnet.convert.layer_fit import FitOptions, LayerFit
from ghostnet.convert.moments import white_map_windows
from ghostnet.nn.ghost_conv import ghost_like


def _layer(groups: int = 8) -> tuple[nn.Conv2d, Any, list[tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(0)
    convolution = nn.Conv2d(4 * groups, 4 * groups, 3, padding=1, groups=groups, bias=False)
    images = torch.randn(4, 4 * groups, 8, 8)
    ghost = ghost_like(convolution, {"ratio": 2, "cheap_kernel_size": 3})
    return convolution, ghost, [(images, convolution(images).detach())]


@torch.no_grad()
@pytest.mark.parametrize(
    ("known", "most_kept", "groups_kept"), [(None, 2**27, 0), ({}, 2**27, 8), ({}, 2**15, 0)]
)
def test_moments_of_groups_are_kept_only_for_further_fits_and_only_where_they_are_small(
    monkeypatch: pytest.MonkeyPatch, known: dict | None, most_kept: int, groups_kept: int
) -> None:
    made: list[weakref.ref] = []
    most_alive = 0

    class Watched(LayerFit):
        def run(self) -> float:
            nonlocal most_alive
            error = super().run()
            made.append(weakref.ref(self.known["moments"]))
            most_alive = max(most_alive, sum(one() is not None for one in made))
            return error

    monkeypatch.setattr(group_fit, "LayerFit", Watched)
    monkeypatch.setattr(group_fit, "_MOST_KEPT", most_kept)
    convolution, ghost, pairs = _layer()
    first = group_fit.fit_layer(convolution, ghost, None, pairs, FitOptions(), known)
    assert len(made) == 8
    assert most_alive == max(groups_kept, 1)  # 32 groups of 32 channels held 6 GB at once
    assert len(known or {}) == groups_kept
    assert group_fit.fit_layer(convolution, ghost, None, pairs, FitOptions(), known) == first


@torch.no_grad()
def test_white_inputs_of_one_group_say_nothing_of_another() -> None:
    grouped = nn.Conv2d(6, 9, 3, stride=2, padding=1, groups=3, bias=False)
    whole = nn.Conv2d(6, 9, 3, stride=2, padding=1, bias=False)
    whole.weight.zero_()
    for group in range(3):
        outputs, inputs = slice(3 * group, 3 * group + 3), slice(2 * group, 2 * group + 2)
        whole.weight[outputs, inputs] = grouped.weight[outputs]
    ours, known = white_map_windows(grouped, 3), white_map_windows(whole, 3)
    torch.testing.assert_close(ours.against, known.against)
    torch.testing.assert_close(ours.windows, known.windows)
