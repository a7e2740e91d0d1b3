"""Layers whose forward was set on the instance are not taken for what their class says."""

from __future__ import annotations

import types

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet.deploy import optimize
from ghostnet.deploy.random_weights import randomise_statistics_


def doubled(self: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, 2 * self.weight)


class _Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2 if x.sum() > 1e9 else x


@pytest.mark.parametrize("traceable", [True, False])
def test_a_batch_norm_is_not_folded_into_a_convolution_that_computes_something_else(traceable):
    convolution = nn.Conv2d(3, 4, 3, bias=False)
    convolution.forward = types.MethodType(doubled, convolution)
    start = nn.Identity() if traceable else _Branches()
    model = nn.Sequential(start, convolution, nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    randomise_statistics_(model, (3, 8, 8))
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(optimize(model)(images), model(images))
