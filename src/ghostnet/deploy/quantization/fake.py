"""`fake_quantized`: a network that rounds to 8 bits where its int8 files will, and can be trained so.

It is the graph that `optimize` makes for a runtime (batch norms folded) with `RoundedLayer` for each convolution and
linear layer and `RoundedValues` behind what the integer operators read: the input, layers, sums, products,
concatenations and poolings. An activation that follows a layer alone is fused with it, so that only its result is
rounded. Operators that move values (flatten, a maximum) keep their input's grid; the answers stay in float.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ghostnet.deploy.manifest import float32_passes, without_float32_passes
from ghostnet.deploy.optimize import optimize, passes_of
from ghostnet.deploy.passes import default_passes
from ghostnet.deploy.passes.operations import (
    add_module,
    cat_inputs,
    exchange_module_,
    finished,
    is_binary,
    module_of,
    per_channel_unary,
    plain_module,
    with_number,
)
from ghostnet.deploy.processor import usual_weight_bits
from ghostnet.deploy.quantization.calibration import calibration_array
from ghostnet.deploy.quantization.onnx_rounding import with_onnx_rounding
from ghostnet.deploy.quantization.quantiser import TRAINED_TARGETS
from ghostnet.deploy.quantization.rounding import RoundedLayer, RoundedValues
from ghostnet.errors import InputError, unknown_name
from ghostnet.nn.copies import copy_model
from ghostnet.nn.eager import eager_module

_BATCH = 32
_FUSED = (nn.ReLU, nn.ReLU6, F.relu, F.relu6, torch.relu, "relu")
_MOVES = (nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.Flatten, nn.ZeroPad2d, nn.PixelShuffle, nn.ChannelShuffle)
_MOVES_FUNCTIONS = (
    *(torch.flatten, torch.reshape, torch.index_select, torch.permute, operator.getitem),
    *(
        F.max_pool2d,
        torch.max_pool2d,
        F.adaptive_max_pool2d,
        "flatten",
        "reshape",
        "view",
        "permute",
        "contiguous",
    ),
)


class FakeQuantized(nn.Module):
    """A network with rounding in its forward pass; make one with `fake_quantized`.

    Attributes:
        graph: the rewritten network.
        layers: how many convolutions and linear layers compute with 8 bits.
        passes: names of the rewrites.
        weight_bits: of a weight.
    """

    def __init__(self, graph: fx.GraphModule, reference: nn.Module, weight_bits: int) -> None:
        super().__init__()
        self.graph = graph
        self.passes = passes_of(graph)
        self.weight_bits = weight_bits
        self.layers = sum(isinstance(module, RoundedLayer) for module in graph.modules())
        self._reference = (reference,)  # not a part of what is trained and saved

    @property
    def reference(self) -> nn.Module:
        """The float network that it was made from."""
        return self._reference[0]

    def forward(self, images: Tensor) -> Tensor:
        """`(N, C, H, W) -> (N, classes)`."""
        answers: Tensor = self.graph(images)
        return answers

    def deployed(self, target: str) -> fx.GraphModule:
        """Return a copy of the graph with fixed grids, as that target's converter takes it."""
        graph = copy.deepcopy(self.graph).cpu().eval()
        if target == "onnx":
            return with_onnx_rounding(graph)
        for module in graph.modules():
            if isinstance(module, RoundedValues):
                scale, zero_point = module.grid()
                module.fixed = float(scale), int(zero_point)
            elif isinstance(module, RoundedLayer):
                module.fixed = module.scales()
        return graph


def fake_quantized(
    model: nn.Module,
    images: Any,
    *,
    target: str = "onnx",
    passes: Sequence[str] | None = None,
    weight_bits: int | None = None,
    input_size: Sequence[int] = (3, 224, 224),
) -> FakeQuantized:
    """Return a network that computes as the int8 files of `model` will, with gradients straight through the rounding.

    Train it as any network (in float32: bfloat16 has no room for the grid), then give it to `quantize`. In training
    the ranges of values follow the batches; in evaluation they stand.

    Args:
        model: a classifier `(N, C, H, W) -> (N, classes)`, or what else `export` takes; it is untouched. One in half or
            double precision is taken in float32.
        images: float32 images `(N, C, H, W)` normalised as the network expects, N >= 16, or batches of them; the
            first ranges are theirs.
        target: "onnx" or "openvino": whose rewrites are made first. Files for both can be written afterwards.
        passes: names of the rewrites instead.
        weight_bits: of a weight, 2 to 8; None takes 8, or 7 where this processor clips the sums of 8 (`quantize`).
            OpenVINO's files hold 4 bits in 4; ONNX's hold a byte for each weight.
        input_size: shape of one input without the batch.

    Raises:
        InputError: another target, a number of bits out of its range, unusable images, a network that cannot be
            traced, a rewrite that needs float32, or nothing to quantise.
        RuntimeError: the rewritten network differs from the original.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
        >>> fake_quantized(net, np.zeros((16, 3, 3, 3), np.float32), input_size=(3, 3, 3)).layers
        2
    """
    if target not in TRAINED_TARGETS:
        raise unknown_name("target of int8 fine-tuning", target, TRAINED_TARGETS)
    if weight_bits is None:
        weight_bits = usual_weight_bits()
    if isinstance(weight_bits, bool) or weight_bits not in range(2, 9):
        raise InputError(f"weight_bits (={weight_bits!r}) must be an integer from 2 to 8; 8 and 4 are usual")
    exact = float32_passes(passes)
    if exact:
        raise InputError(f"pass {exact[0]!r} needs float32, which int8 files do not have; leave it out")
    array = calibration_array(images, tuple(input_size))
    # float32 whatever the network is in: a narrower type has no room for the grid, and files have no wider one
    reference = copy_model(eager_module(model, "fake_quantized")).eval().float()
    names = without_float32_passes(default_passes(target)) if passes is None else passes
    graph = optimize(reference, passes=names, input_size=input_size)
    if not isinstance(graph, fx.GraphModule) or passes_of(graph) is None:
        raise InputError("the network's code cannot be followed, which int8 fine-tuning needs")
    _round_layers_(graph, weight_bits)
    _round_values_(graph)
    made = FakeQuantized(graph, reference, weight_bits)
    if not made.layers:
        raise InputError("there is no convolution and no linear layer to quantise; int8 would change nothing")
    for parameter in made.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    _observe_(made, array)
    return made.eval()


def _round_layers_(graph: fx.GraphModule, bits: int) -> None:
    for node in graph.graph.nodes:
        module = module_of(graph, node)
        if plain_module(module, (nn.Conv2d, nn.Linear)) and isinstance(module, (nn.Conv2d, nn.Linear)):
            exchange_module_(graph, node, RoundedLayer(module, bits))
    graph.recompile()


def _round_values_(graph: fx.GraphModule) -> None:
    rounded: dict[fx.Node, str] = {}  # nodes on a grid, and the module that holds it
    for node in list(graph.graph.nodes):
        if node.op in ("output", "get_attr") or not _is_read(graph, node):
            continue
        source = node.args[0] if node.args else None
        if _moves(graph, node) and isinstance(source, fx.Node) and source in rounded:
            name = rounded[source]
        else:
            name = add_module(graph, f"{node.name}_rounded", RoundedValues())
        with graph.graph.inserting_after(node):
            made = graph.graph.call_module(name, (node,))
        node.replace_all_uses_with(made, delete_user_cb=lambda user, made=made: user is not made)
        rounded[made] = name
    finished(graph)


def _is_read(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether an operator that works on integers reads a node, at once or after its values were moved."""
    return any(_reads(graph, user, node) for user in node.users)


def _reads(graph: fx.GraphModule, node: fx.Node, source: fx.Node) -> bool:
    if cat_inputs(node) is not None or is_binary(node, operator.add) or is_binary(node, operator.mul):
        return True
    if not node.args or node.args[0] is not source:  # a size, for instance
        return False
    if node.target is operator.getitem and isinstance(node.args[1], int):  # one of several tensors
        return False
    if _moves(graph, node):
        return _is_read(graph, node)
    if _kind(graph, node) in _FUSED:
        return len(source.users) > 1 or _moves(graph, source)  # else it is fused with what makes its input
    if isinstance(module_of(graph, node), RoundedLayer):
        return True
    return per_channel_unary(graph, node) and not with_number(node)


def _moves(graph: fx.GraphModule, node: fx.Node) -> bool:
    return _kind(graph, node) in (*_MOVES, *_MOVES_FUNCTIONS)


def _kind(graph: fx.GraphModule, node: fx.Node) -> Any:
    module = module_of(graph, node)
    return node.target if module is None else type(module)


@torch.no_grad()
def _observe_(network: FakeQuantized, images: np.ndarray) -> None:
    """Set the ranges to what the float network shows on the images."""
    parts = [m for m in network.modules() if isinstance(m, (RoundedValues, RoundedLayer))]
    for module in parts:
        module.observing = True
    device = next(network.parameters()).device
    for start in range(0, len(images), _BATCH):
        network.eval()(torch.from_numpy(images[start : start + _BATCH]).to(device))
    for module in parts:
        module.observing = False
