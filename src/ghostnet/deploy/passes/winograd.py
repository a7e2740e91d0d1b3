"""Pass "winograd": 3x3 convolutions of stride 1 by Winograd's minimal filtering, F(4x4, 3x3).

Each tile of 4x4 outputs is made of 6x6 inputs by 36 products a pair of channels instead of 144: with the transforms
B, G and A of Toom and Cook, `Y = A' [(G g G') * (B d B')] A`, summed over the input channels inside the brackets (Lavin
and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, arXiv:1509.09308). ncnn and MNN do this by
themselves; ONNX Runtime, OpenVINO and LiteRT do not. Here it is a network of operators that each runtime has: a
convolution that transforms the tiles, one batched matrix product, a 1x1 convolution and a pixel shuffle back.

The interpolation points are 0, ±2/3, ±3/2 and infinity. The textbook's 0, ±1, ±2 cost four times the rounding error:
5.9e-6 of the largest output of a 256-channel layer in float32, not 1.3e-6. In bfloat16 or 8 bits the error is not small
with any points, so such exports go without this pass.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ghostnet.deploy.passes.operations import add_module, finished, module_of, plain_module, shape_of
from ghostnet.errors import InputError

OF_THEIR_OWN = frozenset({"c", "ncnn", "mnn"})  # targets that choose the algorithm by themselves
TILE = 4  # outputs of a tile in each direction
KERNEL = 3
WIDTH = TILE + KERNEL - 1  # inputs of a tile in each direction
_POINTS = (Fraction(0), Fraction(3, 2), Fraction(-3, 2), Fraction(2, 3), Fraction(-2, 3))
_MIN_TILES = 16  # below, the transformed weights, four times the kernel's, cost more to read than is saved
_WORTH = 0.8  # predicted time over the convolution's


@functools.cache
def transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Return the matrices A' `(4, 6)`, G `(6, 3)` and B' `(6, 6)` in float64.

    Toom and Cook's product of polynomials, transposed: polynomials are evaluated at the points (infinity takes the
    leading coefficient), multiplied value by value, and interpolated.
    """
    tile = _values_at_points(TILE).T.contiguous()
    kernel = _values_at_points(KERNEL)
    inputs = torch.linalg.inv(_values_at_points(WIDTH)).T
    scale = inputs.abs().amax(1, keepdim=True)  # every row of B' gets entries of at most 1, G takes the rest
    return tile, kernel * scale, inputs / scale


def _values_at_points(count: int) -> Tensor:
    """Return the matrix that takes `count` coefficients to the polynomial's values."""
    rows = [[float(point**power) for power in range(count)] for point in _POINTS]
    return torch.tensor([*rows, [0.0] * (count - 1) + [1.0]], dtype=torch.float64)


class WinogradConv2d(nn.Module):
    """A 3x3 convolution of stride 1 whose multiplications are a quarter.

    Args:
        conv: zero-padded, of one group and no dilation; it is untouched.
        input_size: `(H, W)` of the maps that it is exported for; in PyTorch any size is right.
    """

    _transformed: Tensor

    def __init__(self, conv: nn.Conv2d, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.padding, self.input_size = _padding(conv), input_size
        weight = conv.weight.detach().cpu()  # not every device has float64
        tile, kernel, inputs = (torch.kron(matrix, matrix) for matrix in transforms())
        flat = self._order(weight).reshape(KERNEL**2, -1)
        # the weights stay as they are in a file: runtimes transform them when they load it
        self.weight = nn.Parameter(flat.contiguous(), requires_grad=False)
        self.kernel_transform = nn.Parameter(kernel.to(weight.dtype), requires_grad=False)
        self.register_buffer("_transformed", self._pairs((kernel @ flat.double()).to(weight.dtype)), False)
        shape = (WIDTH**2, 1, WIDTH, WIDTH)
        self.input_transform = nn.Parameter(inputs.to(weight.dtype).reshape(shape), requires_grad=False)
        shape = (TILE**2, WIDTH**2, 1, 1)
        self.output_transform = nn.Parameter(tile.to(weight.dtype).reshape(shape), requires_grad=False)
        bias = conv.bias.detach().clone().reshape(1, -1, 1, 1) if conv.bias is not None else None
        self.bias = nn.Parameter(bias, requires_grad=False) if bias is not None else None
        self.to(conv.weight.device)

    def extra_repr(self) -> str:
        """Return channels and size, which tell layers apart."""
        return (
            f"{self.in_channels}, {self.out_channels}, padding={self.padding}, input_size={self.input_size}"
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to `(N, K, H', W')`."""
        height, width = self._size(images)
        top, left = self.padding
        (rows, columns), (down, across) = outputs_of((height, width), self.padding)
        right = across * TILE + KERNEL - 1 - width - left
        bottom = down * TILE + KERNEL - 1 - height - top
        # channels in front of images: ONNX Runtime's matrix product then reads the tiles where they lie
        maps = images.permute(1, 0, 2, 3).reshape(-1, 1, height, width)
        maps = F.pad(maps, (left, right, top, bottom))
        tiles = F.conv2d(maps, self.input_transform, stride=TILE)
        tiles = tiles.reshape(self.in_channels, -1, WIDTH**2, down * across).permute(1, 2, 0, 3)
        products = (
            torch.matmul(self._weights(), tiles).permute(0, 2, 1, 3).reshape(-1, WIDTH**2, down, across)
        )
        made = F.pixel_shuffle(F.conv2d(products, self.output_transform), TILE)
        made = made.reshape(-1, self.out_channels, down * TILE, across * TILE)
        if made.shape[2:] != (rows, columns):
            made = made[:, :, :rows, :columns]
        return made if self.bias is None else made + self.bias

    def transformed_weights(self) -> Tensor:
        """Return the weights as the product takes them, `(1, 36, …)`: `kernel_transform @ weight`, reshaped."""
        return self._transformed

    def _size(self, images: Tensor) -> tuple[int, int]:
        return self.input_size if _writing() else (images.shape[2], images.shape[3])

    def _weights(self) -> Tensor:
        return self._pairs(self.kernel_transform @ self.weight) if _writing() else self._transformed

    def _order(self, weight: Tensor) -> Tensor:
        """Take `(K, C, 3, 3)` to `(3, 3, K, C)`: the product's last two axes stay the last."""
        return weight.permute(2, 3, 0, 1)

    def _pairs(self, flat: Tensor) -> Tensor:
        return flat.reshape(1, WIDTH**2, self.out_channels, self.in_channels)


def winograd(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the network with the convolutions that gain by it in Winograd's form.

    Reads the shapes that `note_shapes` left in the graph; convolutions of maps without one stay. So do those that run
    more than once, such as a detector's heads: each place would get weights of its own.
    """
    return rewritten(traced, WinogradConv2d, lambda conv, size: predicted_ratio(conv, size) < _WORTH)


def rewritten(
    traced: fx.GraphModule,
    form: type[WinogradConv2d],
    gains: Callable[[nn.Conv2d, tuple[int, int]], bool],
) -> fx.GraphModule:
    """Return the network with the convolutions that gain by it in a form of Winograd's.

    Args:
        traced: with shapes noted.
        form: what takes a convolution's place.
        gains: tells whether it is worth it for a convolution of maps of a height and width.
    """
    calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    for node in list(traced.graph.nodes):
        conv = module_of(traced, node)
        size = _map_size(node)
        if size is None or not isinstance(conv, nn.Conv2d) or not plain_module(conv, nn.Conv2d):
            continue
        if calls[node.target] > 1:
            continue
        if _is_possible(conv) and gains(conv, size):
            node.target = add_module(traced, f"{node.target}_winograd", form(conv, size))
    return finished(traced)


def predicted_ratio(conv: nn.Conv2d, input_size: tuple[int, int]) -> float:
    """Return the time that the form takes over the convolution's own, as fitted to ONNX Runtime's; inf where it is bad.

    The batched product takes half the time of the convolution; the transforms cost the more, the fewer channels share
    them. Measured alone, layers were within 0.2 of this, most of them below.
    """
    tiles, waste = tiles_of(conv, input_size)
    if tiles < _MIN_TILES:
        return float("inf")
    return waste * (0.5 + 17 / conv.in_channels + 17 / conv.out_channels)


def refuse_winograd(model: nn.Module, target: str, runtime: str) -> None:
    """Raise where a network holds layers in Winograd's form and a runtime has it of its own.

    Raises:
        InputError: so.
    """
    if target in OF_THEIR_OWN and any(isinstance(module, WinogradConv2d) for module in model.modules()):
        raise InputError(
            f'{runtime} chooses Winograd\'s algorithm by itself; leave out the passes "winograd…"'
        )


def tiles_of(conv: nn.Conv2d, input_size: tuple[int, int]) -> tuple[int, float]:
    """Return the number of tiles, and the outputs that they hold over those that are wanted; 0 tiles of no outputs."""
    (rows, columns), (down, across) = outputs_of(input_size, _padding(conv))
    if rows < 1 or columns < 1:
        return 0, float("inf")
    return down * across, down * across * TILE**2 / (rows * columns)


def outputs_of(
    input_size: tuple[int, int], padding: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return rows and columns of what a convolution makes of maps, and those of its tiles."""
    rows, columns = (size + 2 * pad - KERNEL + 1 for size, pad in zip(input_size, padding, strict=True))
    return (rows, columns), (-(-rows // TILE), -(-columns // TILE))


def _writing() -> bool:
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


def _is_possible(conv: nn.Conv2d) -> bool:
    shape = (conv.kernel_size, conv.stride, conv.dilation, conv.groups, conv.padding_mode)
    return shape == ((KERNEL, KERNEL), (1, 1), (1, 1), 1, "zeros")


def _padding(conv: nn.Conv2d) -> tuple[int, int]:
    if isinstance(conv.padding, str):
        return {"same": (1, 1), "valid": (0, 0)}[conv.padding]
    return conv.padding[0], conv.padding[1]


def _map_size(node: fx.Node) -> tuple[int, int] | None:
    shape = shape_of(node.args[0] if node.args else None)
    return (shape[2], shape[3]) if shape is not None and len(shape) == 4 else None
