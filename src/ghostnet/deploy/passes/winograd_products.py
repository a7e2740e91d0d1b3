"""Pass "winograd_products": Winograd's form of 3x3 convolutions for runtimes that keep channels last, as OpenVINO does.

The sums are those of the pass "winograd" (`passes/winograd.py`). There a convolution cuts out and transforms the tiles,
which OpenVINO computes slowly and between two changes of layout. Here the 36 inputs of a tile are gathered as rows of
all channels, and input transform, sum over channels and output transform are three matrix products that read them where
they lie. A zero behind the last pixel stands for the border.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from ghostnet.deploy.passes.winograd import TILE, WIDTH, WinogradConv2d, outputs_of, rewritten, tiles_of

# Times over the direct convolution's, fitted to OpenVINO's with AVX-512 and AMX: the products; weights that few tiles
# share; the transforms of inputs, which all filters share, and of outputs, which all channels share.
_PRODUCTS, _WEIGHTS, _INPUTS, _OUTPUTS = 0.35, 4.2, 33.0, 17.0
_WORTH = 0.85  # predicted time over the convolution's


class WinogradProducts(WinogradConv2d):
    """A 3x3 convolution of stride 1 as three matrix products with channels last; arguments as `WinogradConv2d`'s."""

    _at_input_size: Tensor

    def __init__(self, conv: nn.Conv2d, input_size: tuple[int, int]) -> None:
        super().__init__(conv, input_size)
        self.register_buffer("_at_input_size", self._places(*input_size).to(conv.weight.device), False)

    def forward(self, images: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to `(N, K, H', W')`."""
        height, width = self._size(images)
        (rows, columns), (down, across) = outputs_of((height, width), self.padding)
        pixels = images.permute(0, 2, 3, 1).reshape(-1, height * width, self.in_channels)
        border = pixels.new_zeros(1, 1, self.in_channels).expand(pixels.shape[0], -1, -1)
        known = (height, width) == self.input_size
        places = self._at_input_size if known else self._places(height, width).to(images.device)
        tiles = torch.cat([pixels, border], 1).index_select(1, places)
        inputs = self.input_transform.reshape(WIDTH**2, WIDTH**2)
        tiles = torch.matmul(inputs, tiles.reshape(-1, WIDTH**2, down * across * self.in_channels))
        products = torch.matmul(tiles.reshape(-1, WIDTH**2, down * across, self.in_channels), self._weights())
        outputs = self.output_transform.reshape(TILE**2, WIDTH**2)
        made = torch.matmul(outputs, products.reshape(-1, WIDTH**2, down * across * self.out_channels))
        made = made.reshape(-1, TILE, TILE, down, across, self.out_channels).permute(0, 3, 1, 4, 2, 5)
        made = made.reshape(-1, down * TILE, across * TILE, self.out_channels)
        if (down * TILE, across * TILE) != (rows, columns):
            made = made[:, :rows, :columns]
        made = made.permute(0, 3, 1, 2)
        return made if self.bias is None else made + self.bias

    def _places(self, height: int, width: int) -> Tensor:
        """Return which pixel each input of each tile is, `height * width` outside: by input, then by tile."""
        _, tiles = outputs_of((height, width), self.padding)
        y, x = (
            torch.arange(WIDTH)[:, None] + torch.arange(count)[None] * TILE - pad
            for count, pad in zip(tiles, self.padding, strict=True)
        )
        y, x = y[:, None, :, None], x[None, :, None, :]
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        return torch.where(inside, y * width + x, height * width).reshape(-1)

    def _order(self, weight: Tensor) -> Tensor:
        """Take `(K, C, 3, 3)` to `(3, 3, C, K)`: here weights are multiplied from the right."""
        return weight.permute(2, 3, 1, 0)

    def _pairs(self, flat: Tensor) -> Tensor:
        return flat.reshape(1, WIDTH**2, self.in_channels, self.out_channels)


def winograd_products(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network with the convolutions that gain by it in Winograd's form, see `passes.winograd.winograd`."""
    return rewritten(traced, WinogradProducts, lambda conv, size: predicted_ratio(conv, size) < _WORTH)


def predicted_ratio(conv: nn.Conv2d, input_size: tuple[int, int]) -> float:
    """Return the time that the form takes over the convolution's own, as fitted to OpenVINO's; inf where it is bad.

    Measured alone, 22 layers of 64 to 512 channels on 7x7 to 112x112 pixels were within 0.25 of this with AVX-512, and
    below it with AVX2. ONNX Runtime's times are alike.
    """
    tiles, waste = tiles_of(conv, input_size)
    if not tiles:
        return float("inf")
    shared = _WEIGHTS / tiles + _INPUTS / conv.out_channels + _OUTPUTS / conv.in_channels
    return waste * (_PRODUCTS + shared)
