"""Ghost convolution: the drop-in for `nn.Conv2d` (§3.1, eq. 2 and 3).

`y = primary_conv(x)` makes m = ceil(n / ratio) intrinsic maps, `g = cheap_operation(y)` the other n - m, and
the output is `cat(y, g)`. Leaves out: `device` and `dtype` arguments (use `.to`); the cheap operation always
pads with zeros, whatever `padding_mode` is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from ghostnet.checks import check_integer
from ghostnet.errors import InputError, unknown_name
from ghostnet.nn.channel_order import reorder_channels
from ghostnet.nn.cheap_operations import CHEAP_OPERATIONS, check_cheap_kernel_size, make_cheap_operation
from ghostnet.nn.concat import concat_channels

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
}
NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d}


def intrinsic_channel_count(out_channels: int, *, ratio: int, groups: int = 1) -> int:
    """Return m = ceil(n / ratio), rounded up to a multiple of `groups` and never above n.

    Raises:
        InputError: `ratio` is no integer >= 1 or larger than `out_channels`, or `groups` leaves no ghost map.

    Example:
        >>> intrinsic_channel_count(16, ratio=3)
        6
    """
    check_integer("`ratio`", ratio, ending="; use 1 to keep a plain convolution.")
    if ratio > out_channels:
        raise InputError(
            f"`ratio` (={ratio}) must not be larger than `out_channels` (={out_channels}); "
            "use a smaller ratio, or 1 to keep a plain convolution."
        )
    if out_channels % groups:
        raise InputError(f"`out_channels` (={out_channels}) must be divisible by `groups` (={groups}).")
    intrinsic = -(-out_channels // (ratio * groups)) * groups
    if ratio > 1 and intrinsic >= out_channels:
        raise InputError(
            f"`groups` (={groups}) leaves no ghost map among `out_channels` (={out_channels}) "
            f"at `ratio` (={ratio}): "
            "each group needs an intrinsic map; use ratio 1 or fewer groups."
        )
    return intrinsic


class GhostConv2d(nn.Module):
    """A convolution of n / ratio intrinsic maps, and cheap operations that make the other output maps.

    `(N, C_in, H, W) -> (N, C_out, H', W')`, the same shapes as `nn.Conv2d` with the same arguments. Stride,
    padding, dilation and groups go to `primary_conv`. With `channel_order` set, output channel j is channel
    `channel_order[j]` of `cat(y, g)`.

    Args:
        in_channels: input channels, >= 1.
        out_channels: n, output channels, >= `ratio`.
        kernel_size: k of the primary convolution, an integer or a pair.
        stride: stride of the primary convolution.
        padding: zeros around the input, or "same" or "valid".
        dilation: dilation of the primary convolution.
        groups: groups of the primary convolution.
        bias: learn a bias for each output map, intrinsic and ghost.
        padding_mode: as in `nn.Conv2d`, for the primary convolution.
        ratio: s, an integer >= 1; 1 is a plain convolution (`cheap_operation` is then None).
        cheap_kernel_size: d, odd.
        cheap_operation: "depthwise", "affine" or "wavelet".
        norm: None or "batch": normalise after the primary convolution and after the cheap operation.
        activation: None or a name ("relu", "silu", …), applied after both.

    Raises:
        InputError: an argument outside these rules.

    Example:
        >>> GhostConv2d(3, 16, 3, padding=1)(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 16, 8, 8])
    """

    channel_order: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        ratio: int = 2,
        cheap_kernel_size: int = 3,
        cheap_operation: str = "depthwise",
        norm: str | None = None,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        _check_channels(in_channels, out_channels, groups)
        _check_names(cheap_operation, norm, activation)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.ratio, self.cheap_kernel_size = ratio, check_cheap_kernel_size(cheap_kernel_size)
        self.cheap_operation_name, self.norm_name, self.activation_name = cheap_operation, norm, activation
        self.intrinsic_channels = intrinsic_channel_count(out_channels, ratio=ratio, groups=groups)
        try:
            self.primary_conv = nn.Conv2d(
                in_channels,
                self.intrinsic_channels,
                kernel_size,
                stride,
                padding,
                dilation,
                groups,
                bias,
                cast(Any, padding_mode),  # nn.Conv2d itself refuses unknown modes
            )
        except ValueError as error:
            raise InputError(f"nn.Conv2d refuses these arguments: {error}") from error
        self.kernel_size, self.stride = self.primary_conv.kernel_size, self.primary_conv.stride
        self.padding, self.dilation = self.primary_conv.padding, self.primary_conv.dilation
        self.padding_mode = padding_mode
        ghosts = self.ghost_channels = out_channels - self.intrinsic_channels
        if norm:  # the paper's form normalises all (s - 1) m maps and keeps n of the m s
            ghosts = self.intrinsic_channels * (ratio - 1)
        self._has_spare_maps = ghosts > self.ghost_channels
        self.cheap_operation: nn.Module | None = None
        if ghosts:
            self.cheap_operation = make_cheap_operation(
                cheap_operation, self.intrinsic_channels, ghosts, cheap_kernel_size, bias=bias
            )
        self.primary_norm = NORMS[norm](self.intrinsic_channels) if norm else None
        self.cheap_norm = NORMS[norm](ghosts) if norm and ghosts else None
        self.activation = ACTIVATIONS[activation]() if activation else None
        self.register_buffer("channel_order", None)

    def forward(self, input: Tensor) -> Tensor:
        """Return `(N, out_channels, H', W')` for `input` of shape `(N, in_channels, H, W)`, named as in `nn.Conv2d`.

        As there, maps of a single image may come and go without N.
        """
        if not isinstance(input, fx.Proxy) and input.dim() == 3:  # what a tracer gives has N
            return self.forward(input[None])[0]
        maps = self._finish(self.primary_conv(input), self.primary_norm)
        if self.cheap_operation is not None:
            ghosts = self._finish(self.cheap_operation(maps), self.cheap_norm)
            if self._has_spare_maps:
                ghosts = ghosts[:, : self.ghost_channels]
            maps = concat_channels(maps, ghosts)
        if self.channel_order is not None:
            maps = reorder_channels(maps, self.channel_order)
        return maps

    def _finish(self, maps: Tensor, norm: nn.Module | None) -> Tensor:
        if norm is not None:
            maps = norm(maps)
        return maps if self.activation is None else self.activation(maps)

    def set_channel_order_(self, order: Tensor | None) -> None:
        """Make output channel j the channel `order[j]` of `cat(y, g)`; None takes the order away.

        Args:
            order: a permutation of 0 … n - 1, shape `(out_channels,)`.

        Raises:
            InputError: `order` is no such permutation.
        """
        if order is None:
            self.channel_order = None
            return
        given = (
            torch.as_tensor(order)
            .detach()
            .to(device=self.primary_conv.weight.device, dtype=torch.long)
            .clone()
        )
        if given.dim() != 1 or sorted(given.tolist()) != list(range(self.out_channels)):
            raise InputError(
                f"a channel order of shape {tuple(given.shape)} must be "
                f"a permutation of 0 to {self.out_channels - 1}."
            )
        self.channel_order = given

    def set_norm_options_(self, eps: float, momentum: float | None) -> None:
        """Give the batch norms inside, if there are any, these in place of PyTorch's own."""
        for norm in (self.primary_norm, self.cheap_norm):
            if isinstance(norm, nn.BatchNorm2d):
                norm.eps, norm.momentum = eps, momentum

    def config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this module with `from_config`, as JSON-able values."""

        def plain(value: object) -> Any:
            return list(value) if isinstance(value, tuple) else value

        norm = self.primary_norm
        options = {"eps": norm.eps, "momentum": norm.momentum} if isinstance(norm, nn.BatchNorm2d) else {}
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "kernel_size": plain(self.kernel_size),
            "stride": plain(self.stride),
            "padding": plain(self.padding),
            "dilation": plain(self.dilation),
            "groups": self.groups,
            "bias": self.primary_conv.bias is not None,
            "padding_mode": self.padding_mode,
            "ratio": self.ratio,
            "cheap_kernel_size": self.cheap_kernel_size,
            "cheap_operation": self.cheap_operation_name,
            "norm": self.norm_name,
            "activation": self.activation_name,
            "channel_order": self.channel_order is not None,
            **({} if options in ({}, _NORM_OPTIONS) else {"norm_options": options}),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GhostConv2d:
        """Rebuild a module from `config()`; its state dict then fits (a channel order starts as 0 … n - 1).

        Raises:
            InputError: a key that no argument has, a missing key, or a bad value.

        Example:
            >>> GhostConv2d.from_config(GhostConv2d(3, 8, 3).config()).out_channels
            8
        """
        arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
        ordered = bool(arguments.pop("channel_order", False))
        options = arguments.pop("norm_options", _NORM_OPTIONS)
        if not isinstance(options, dict) or set(options) != set(_NORM_OPTIONS):
            raise InputError(
                f"`norm_options` (={options!r}) must be a table of {' and '.join(_NORM_OPTIONS)}."
            )
        for key in arguments:
            if key not in _CONFIG_KEYS:
                raise unknown_name("ghost_conv2d config key", key, _CONFIG_KEYS)
        for key in ("in_channels", "out_channels", "kernel_size"):
            if key not in arguments:
                raise InputError(f"a ghost_conv2d config needs `{key}`; it has {sorted(arguments)}.")
        module = GhostConv2d(**cast(Any, arguments))
        module.set_norm_options_(**options)
        if ordered:
            module.set_channel_order_(torch.arange(module.out_channels))
        return module

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        )
        text += f", ratio={self.ratio}, cheap_kernel_size={self.cheap_kernel_size}"
        return text + (", reordered" if self.channel_order is not None else "")


def ghost_like(convolution: nn.Conv2d, settings: dict[str, Any]) -> GhostConv2d:
    """Build a Ghost convolution with a convolution's geometry, device, dtype, mode and `requires_grad`.

    Args:
        convolution: the one to stand in for.
        settings: `ratio`, `cheap_kernel_size` and, in GhostNet form, `norm` and `activation`.
    """
    ghost = GhostConv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        convolution.stride,  # type: ignore[arg-type]
        convolution.padding,  # type: ignore[arg-type]
        convolution.dilation,  # type: ignore[arg-type]
        convolution.groups,
        # a norm inside takes the bias away anyway
        convolution.bias is not None and settings.get("norm") is None,
        convolution.padding_mode,
        **settings,
    )
    ghost.to(device=convolution.weight.device, dtype=convolution.weight.dtype)
    ghost.train(convolution.training)
    if not convolution.weight.requires_grad:
        ghost.requires_grad_(False)
    return ghost


_NORM_OPTIONS = {"eps": 1e-5, "momentum": 0.1}  # PyTorch's
_CONFIG_KEYS = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias"),
    *("padding_mode", "ratio", "cheap_kernel_size", "cheap_operation", "norm", "activation"),
)


def _check_channels(in_channels: int, out_channels: int, groups: int) -> None:
    for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
        check_integer(f"`{name}`", value, ending=".")
    if in_channels % groups:
        raise InputError(f"`in_channels` (={in_channels}) must be divisible by `groups` (={groups}).")


def _check_names(cheap_operation: str, norm: str | None, activation: str | None) -> None:
    if cheap_operation not in CHEAP_OPERATIONS:
        raise unknown_name("cheap operation", cheap_operation, CHEAP_OPERATIONS)
    if norm is not None and norm not in NORMS:
        raise unknown_name("norm", norm, NORMS)
    if activation is not None and activation not in ACTIVATIONS:
        raise unknown_name("activation", activation, ACTIVATIONS)
