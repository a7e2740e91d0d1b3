"""How strongly filters are drawn to what they were: enough for images that the fit has not seen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ghostnet.convert import fit, ghostify, layer_fit, ridge
from ghostnet.deploy import randomise_statistics_

SIZE = (3, 12, 12)
FRESH = torch.randn(64, *SIZE, generator=torch.Generator().manual_seed(2))


def equations(inputs: Tensor, lacking: Tensor) -> ridge.Equations:
    return inputs.T @ inputs / len(inputs), inputs.T @ lacking / len(inputs)


def problem(rows: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of ten dimensions, outputs that lack a change of unit size and noise, and the change."""
    generator = torch.Generator().manual_seed(rows)
    inputs, change, other = (
        torch.randn(*size, generator=generator, dtype=torch.float64)
        for size in ((rows, 10), (10, 200), (rows, 200))
    )
    return inputs, inputs @ change + noise * other, change


@pytest.mark.parametrize(("rows", "noise"), [(40, 2.0), (40, 4.0), (400, 8.0)])
def test_the_ridge_is_about_the_best_for_all_images(rows: int, noise: float) -> None:
    inputs, lacking, change = problem(rows, noise)
    halves = [equations(inputs[half::2], lacking[half::2]) for half in (0, 1)]
    found = ridge.chosen_ridge(halves, torch.ones(200), 1e-6)
    best = noise**2 / rows  # of ridge regression: variance of the noise over that of the change, a row
    assert best / 10 < found < best * 3
    error = (fit.solve(*equations(inputs, lacking), found) - change).square().mean()
    assert error < 1.1 * (fit.solve(*equations(inputs, lacking), best) - change).square().mean()


def test_pure_noise_or_a_single_image_changes_nothing() -> None:
    inputs, _, _ = problem(40, 1.0)
    noise = torch.randn(40, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    halves = [equations(inputs[half::2], noise[half::2]) for half in (0, 1)]
    assert ridge.chosen_ridge(halves, torch.ones(200), 1e-6) >= 5.0
    assert ridge.chosen_ridge(halves[:1], torch.ones(200), 1e-6) == ridge.NO_CHANGE
    assert (
        ridge.chosen_ridge([(halves[0][0], 0 * halves[0][1])] * 2, torch.ones(200), 1e-6) == ridge.NO_CHANGE
    )


def test_the_least_ridge_is_kept() -> None:
    inputs, lacking, _ = problem(400, 0.0)
    halves = [equations(inputs[half::2], lacking[half::2]) for half in (0, 1)]
    assert ridge.chosen_ridge(halves, torch.ones(200), 1e-6) == 1e-6
    assert ridge.chosen_ridge(halves, torch.ones(200), 0.3) == 0.3


@pytest.mark.parametrize("norm", [True, False])
def test_few_images_convert_better_than_with_a_fixed_ridge(
    norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for incoming, outgoing, stride in ((3, 8, 1), (8, 16, 1), (16, 16, 2), (16, 16, 1)):
        layers += [nn.Conv2d(incoming, outgoing, 3, stride, 1, bias=not norm)]
        layers += [nn.BatchNorm2d(outgoing)] if norm else []
        layers += [nn.ReLU()]
    model = nn.Sequential(*layers).eval()
    randomise_statistics_(model, SIZE)
    images = torch.randn(8, *SIZE, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def error() -> float:
        made, _ = ghostify(model, calibration=images)
        return float((model(FRESH) - made(FRESH)).square().mean())

    chosen = error()
    for fixed in (1e-6, ridge.NO_CHANGE):
        for module in (layer_fit, ridge):
            monkeypatch.setattr(module, "chosen_ridge", lambda *_, fixed=fixed: fixed)
        assert chosen < 0.9 * error()
