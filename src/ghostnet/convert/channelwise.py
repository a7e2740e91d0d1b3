"""What a traced network does with each channel alone, so that channels can be followed through it.

`role_of` says it for modules, `call_step` for functions and methods. Maps are `(N, C, H, W)`; behind a flattening a
channel is several features. Left out: what mixes, moves or picks channels.
"""

from __future__ import annotations

import operator
from collections.abc import Container
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ghostnet.convert.graph import ACTIVATIONS, FUNCTIONAL_ACTIVATIONS, normalises_only
from ghostnet.nn.ghost_conv import GhostConv2d
from ghostnet.nn.narrow import is_batch_norm
from ghostnet.nn.own_forward import has_own_forward

_MORE_ACTIVATIONS = (nn.Hardsigmoid, nn.Hardtanh, nn.Mish, nn.SELU, nn.Softplus, nn.LogSigmoid)
_ELEMENTWISE = (*ACTIVATIONS, *_MORE_ACTIVATIONS, nn.Identity, nn.Dropout)  # what may follow a flattening
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_PADS = (nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d)
_OF_MAPS = (
    *_POOLS,
    *_PADS,
    nn.Dropout2d,
    nn.Upsample,
    nn.UpsamplingNearest2d,
    nn.UpsamplingBilinear2d,
)

_FUNCTIONS = {*FUNCTIONAL_ACTIVATIONS, F.dropout, torch.sigmoid, torch.tanh, torch.abs}
_FUNCTIONS |= {F.hardsigmoid, F.sigmoid, F.tanh, F.hardtanh, F.leaky_relu, F.elu, F.selu, F.mish, F.softplus}
_FUNCTIONS_OF_MAPS = {F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d}
_FUNCTIONS_OF_MAPS |= {F.interpolate, F.dropout2d, torch.max_pool2d}
_NAMED = {"stochastic_depth"}  # torchvision's, which takes a while to import
_METHODS = {"relu", "relu_", "sigmoid", "sigmoid_", "tanh", "tanh_", "abs", "contiguous"}
_METHODS_WITH_NUMBERS = {"clamp", "clamp_", "add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_"}
_WITH_NUMBERS = {operator.add, operator.sub, operator.mul, operator.truediv, torch.add, torch.mul, torch.div}
_EITHER_WAY = {operator.add, operator.sub, operator.mul, operator.truediv}  # 1 - x as well as x - 1
_WITH_NUMBERS |= {operator.iadd, operator.isub, operator.imul, operator.itruediv, torch.sub}


def role_of(module: nn.Module, *, flat: bool) -> str | None:
    """Say what a module does with the channels that it is given.

    Args:
        module: of a traced network.
        flat: it is given features `(N, F)`, not maps.

    Returns:
        "mixing", "transposed" or "linear" for a layer that reads all of them for each output, "grouped" for a
        convolution that reads some, "norm" (a batch norm) or "valued" for one with values for each of them, "flatten",
        "alone" for what has no values, None for what is none of this.

    Example:
        >>> role_of(nn.ReLU(), flat=False), role_of(nn.Conv2d(4, 4, 1, groups=2), flat=False)
        ('alone', 'grouped')
    """
    if has_own_forward(module):
        return None
    kind = type(module)
    if kind in _ELEMENTWISE or (kind is nn.PReLU and module.num_parameters == 1):
        return "alone"
    if flat:
        return "linear" if kind is nn.Linear else None
    if normalises_only(module) or activates_too(module):
        return "norm"
    if kind in (nn.Conv2d, GhostConv2d) and module.groups == 1:
        return "mixing"
    if kind is nn.Conv2d:
        return "grouped"
    if kind is nn.ConvTranspose2d and module.groups == 1:
        return "transposed"
    if kind in (nn.PReLU, nn.InstanceNorm2d):
        return "valued"
    if kind is nn.Flatten and module.start_dim == 1 and module.end_dim == -1:
        return "flatten"
    return "alone" if kind in _OF_MAPS and not getattr(module, "return_indices", False) else None


def activates_too(module: nn.Module) -> bool:
    """Tell whether a module is timm's batch norm with an activation of each channel alone inside."""
    activation = getattr(module, "act", None)
    known = isinstance(activation, (nn.Identity, *ACTIVATIONS)) or type(activation) in _ELEMENTWISE
    return is_batch_norm(module) and type(module) is not nn.BatchNorm2d and known


def call_step(node: fx.Node, source: fx.Node, *, flat: bool, same_batch: Container[fx.Node]) -> str | None:
    """Say what a function or method makes of maps or features.

    Args:
        node: the call.
        source: the node whose channels are followed.
        flat: that gives features `(N, F)`, not maps.
        same_batch: nodes that are known to give as many images as `source`.

    Returns:
        "maps" or "flat", or None where channels do not stay apart.
    """
    if node.target in _EITHER_WAY and len(node.args) == 2 and node.args[1] is source and not node.kwargs:
        return None if isinstance(node.args[0], fx.Node) else ("flat" if flat else "maps")
    if not node.args or node.args[0] is not source or source in list(node.args)[1:]:
        return None
    if source in node.kwargs.values():
        return None
    if treats_channels_alone(node, flat=flat):
        return None if node.kwargs.get("return_indices") else ("flat" if flat else "maps")
    if flat:
        return None
    if node.target is F.pad:
        return "maps" if _pads_sides_alone(node) else None
    named = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    if named == "flatten" and arguments_of(node, "start_dim", "end_dim") in ((1, None), (1, -1)):
        return "flat"
    if named in ("view", "reshape") and _keeps_batch(node, same_batch):
        return "flat"
    return _step_mean(node) if named == "mean" else None


def treats_channels_alone(node: fx.Node, *, flat: bool) -> bool:
    """Tell whether a call changes each channel by itself and leaves it where it is; its first argument is meant."""
    numbers = not any(isinstance(value, fx.Node) for value in (*node.args[1:], *node.kwargs.values()))
    if node.op == "call_method":
        return node.target in _METHODS or (node.target in _METHODS_WITH_NUMBERS and numbers)
    if node.op != "call_function":
        return False
    if node.target in _WITH_NUMBERS:
        return numbers and len(node.args) == 2
    if node.target is torch.clamp:  # bounds may be tensors with values for each channel
        return numbers
    if not flat and (node.target in _FUNCTIONS_OF_MAPS or getattr(node.target, "__name__", "") in _NAMED):
        return True
    return node.target in _FUNCTIONS


def _pads_sides_alone(node: fx.Node) -> bool:
    """Tell whether a padding adds no channels: it names two sides or four, the innermost first."""
    (pad,) = arguments_of(node, "pad")
    return isinstance(pad, (tuple, list)) and len(pad) <= 4


def arguments_of(node: fx.Node, *names: str) -> tuple[Any, ...]:
    """Return a call's arguments behind the first one, by position or by these names; None for one not given."""
    given = list(node.args[1:])
    return tuple(
        given[index] if index < len(given) else node.kwargs.get(name) for index, name in enumerate(names)
    )


def _step_mean(node: fx.Node) -> str | None:
    dims, keepdim = arguments_of(node, "dim", "keepdim")
    if not isinstance(dims, (list, tuple)) or {int(dim) % 4 for dim in dims} != {2, 3} or len(dims) != 2:
        return None
    return "maps" if keepdim else "flat"


def _keeps_batch(node: fx.Node, same_batch: Container[fx.Node]) -> bool:
    """Tell whether `x.view(batch, -1)` gets the batch size from the maps themselves."""
    shape = node.args[1:]
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    if len(shape) != 2 or shape[1] != -1 or not isinstance(shape[0], fx.Node):
        return False
    batch = shape[0]
    if batch.op == "call_method" and batch.target == "size":
        return tuple(batch.args[1:]) == (0,) and batch.args[0] in same_batch
    if batch.op != "call_function" or batch.target is not operator.getitem or batch.args[1] != 0:
        return False
    shape_of = batch.args[0]
    return isinstance(shape_of, fx.Node) and reads_shape_only(shape_of) and shape_of.args[0] in same_batch


def reads_shape_only(node: fx.Node) -> bool:
    """Tell whether a node asks a tensor for its sizes and for nothing else."""
    if node.op == "call_method" and node.target in ("size", "dim"):
        return True
    return node.op == "call_function" and node.target is getattr and node.args[1] in ("shape", "ndim")
