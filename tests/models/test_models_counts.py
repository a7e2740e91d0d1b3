"""Golden counts: Tables 3, 4 and 5 to the digits that the specification computes, and what the paper prints."""

import math

import pytest
import torch

from ghostnet import create_model, paper, profile

SIZE = (3, 32, 32)

# (ratio, cheap_kernel_size): (params in M to 3 digits, MACs in M to 1 digit)
GHOST_VGG16 = {
    (2, 1): (7.635, 157.0),
    (2, 3): (7.651, 158.1),
    (2, 5): (7.685, 160.3),
    (2, 7): (7.736, 163.6),
    (3, 3): (5.220, 107.2),
    (4, 3): (3.983, 80.4),
    (5, 3): (3.271, 65.7),
}


def counts(name, **args):
    result = profile(create_model(name, **args), SIZE)
    assert result.uncounted == []
    return result.params / 1e6, result.macs / 1e6


def test_every_ghost_vgg16_of_the_tables_is_checked():
    rows = [row for number in (3, 4) for row in paper.table(number) if row["model"] == "Ghost-VGG-16"]
    assert {(row["s"], row["d"]) for row in rows} == set(GHOST_VGG16)


@pytest.mark.parametrize(("ratio", "kernel"), GHOST_VGG16)
def test_ghost_vgg16_counts(ratio, kernel):
    params, macs = counts("ghost_vgg16", ratio=ratio, cheap_kernel_size=kernel)
    expected = GHOST_VGG16[ratio, kernel]
    assert (round(params, 3), round(macs, 1)) == expected
    printed = next(
        row for number in (3, 4) for row in paper.table(number) if (row["s"], row["d"]) == (ratio, kernel)
    )
    assert round(params, 1) == pytest.approx(printed["params_m"])
    assert math.floor(macs) == printed["macs_m"]  # the paper's MACs are truncated, not rounded


@pytest.mark.parametrize("name", ["vgg16", "ghost_vgg16"])
def test_vgg_averages_what_larger_images_leave(name):
    torch.manual_seed(0)
    model = create_model(name, width_mult=0.125).eval()
    images = torch.rand(2, 3, 64, 96)
    left = model.features(images)
    assert left.shape == (2, 64, 2, 3)
    torch.testing.assert_close(model(images), model.classifier(left.mean((2, 3))))
    small = images[..., :32, :32]
    assert torch.equal(
        model(small), model.classifier(model.features(small).flatten(1))
    )  # one pixel: as printed


def test_dense_counts():
    params, macs = counts("vgg16")
    assert (round(params, 2), round(macs, 1)) == (14.99, 313.5)
    params, macs = counts("resnet56")
    assert (round(params, 3), round(macs, 1)) == (0.853, 125.5)


@pytest.mark.parametrize(
    ("kernel", "expected"),
    # Table 5 prints 0.43 M and 63 M: both follow from d = 1, not from the d = 3 of the text
    [(3, (0.438, 65.3)), (1, (0.430, 63.2))],
)
def test_ghost_resnet56_counts_by_definition(kernel, expected):
    params, macs = counts("ghost_resnet56", cheap_kernel_size=kernel)
    assert (round(params, 3), round(macs, 1)) == expected
    printed = next(row for row in paper.table(5) if row["model"].startswith("Ghost-ResNet-56"))
    agrees = (math.floor(params * 100) / 100, math.floor(macs)) == (printed["params_m"], printed["macs_m"])
    assert agrees == (kernel == 1)
