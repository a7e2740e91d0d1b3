"""Gates of an ncnn file become inner products on vectors where nothing else reads them; the file computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("ncnn")
pytest.importorskip("pnnx")

from ghostnet.deploy import export, load
from ghostnet.deploy.passes.ncnn_pixels import with_inner_products
from ghostnet.nn import SqueezeExcite

HEAD = ["7767517", "9 9"]
MEAN = "Reduction mean 1 1 maps m 0=3 1=0 -23303=2,1,2 4=1 5=1"
REDUCE = "Convolution reduce 1 1 m r 0=4 1=1 11=1 12=1 13=1 14=0 2=1 3=1 4=0 5=1 6=64 9=1"
EXPAND = "Convolution expand 1 1 r e 0=16 1=1 11=1 12=1 13=1 14=0 2=1 3=1 4=0 5=0 6=64"
GATE = "HardSigmoid gate 1 1 e g 0=0.166666672 1=0.5"
PRODUCT = "BinaryOp product 2 1 maps g out 0=2"


def kinds(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in with_inner_products("\n".join([*HEAD, *lines])).splitlines()[2:]]


def test_the_chain_from_the_mean_to_the_product_changes() -> None:
    text = with_inner_products("\n".join([*HEAD, MEAN, REDUCE, EXPAND, GATE, PRODUCT]))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines == [
        *HEAD,
        "Pooling mean 1 1 maps m 0=1 4=1",
        "InnerProduct reduce 1 1 m r 0=4 1=1 2=64 9=1",
        "InnerProduct expand 1 1 r e 0=16 1=0 2=64",
        GATE,
        PRODUCT,
    ]


@pytest.mark.parametrize(
    "lines",
    [
        [MEAN, REDUCE, EXPAND, GATE],  # the gate is the output
        [MEAN, REDUCE, EXPAND, GATE, "Concat both 2 1 g x out 0=0"],
        [MEAN, REDUCE, EXPAND, GATE, PRODUCT.replace("0=2", "0=0")],  # a sum
        [MEAN, REDUCE.replace("1=1 11=1", "1=3 11=3"), EXPAND, GATE, PRODUCT],
        [MEAN, REDUCE.replace("11=1", "11=3"), EXPAND, GATE, PRODUCT],
        [MEAN, REDUCE.replace(" 4=0", " 4=1 15=0 16=0"), EXPAND, GATE, PRODUCT],
        [MEAN, REDUCE.replace("14=0", "14=1"), EXPAND, GATE, PRODUCT],
        [MEAN.replace("0=3", "0=4"), REDUCE, EXPAND, GATE, PRODUCT],  # a maximum
        [MEAN.replace("2,1,2", "1,1"), REDUCE, EXPAND, GATE, PRODUCT],
        [MEAN.replace("4=1", "4=0"), REDUCE, EXPAND, GATE, PRODUCT],
    ],
)
def test_anything_else_stays(lines: list[str]) -> None:
    assert kinds(lines) == [line.split()[0] for line in lines]


@pytest.mark.parametrize("optimized", [True, False])
@pytest.mark.parametrize(
    "size", [(3, 9, 11), (3, 18, 18)]
)  # 16 maps of 16 x 16: rows, columns and maps look alike
def test_files_have_inner_products_unless_they_are_plain(
    tmp_path: Path, size: tuple[int, int, int], optimized: bool
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), SqueezeExcite(16), nn.Conv2d(16, 5, 1)).eval()
    report = export(network, "ncnn", tmp_path / "net.param", input_size=size, optimized=optimized)
    assert report.operators.get("InnerProduct", 0) == 2 * optimized
    images = np.random.default_rng(1).standard_normal((2, *size), dtype=np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(load(tmp_path / "net.param").predict(images), expected, rtol=1e-4, atol=1e-5)
