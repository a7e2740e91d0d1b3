"""What OpenVINO's converter does not know of Winograd's form: its weights stay small, and it is computed in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from ghostnet import openvino_core
from ghostnet.deploy.passes.winograd import WinogradConv2d

# OpenVINO's name of "compute this in the precision that it was written in": on a processor with bfloat16 its CPU plugin
# takes that for everything else unless it is told not to
_PRECISE = "precise_0"


def finish_winograd_(converted: Any, model: nn.Module) -> None:
    """Change layers in Winograd's form in place, in a model that OpenVINO's converter made of a network.

    The converter has multiplied the transforms with the weights, which makes four of each; the product is put back, and
    computed when the file is compiled.
    """
    layers = {
        f"__module.{name}/": module
        for name, module in model.named_modules()
        if isinstance(module, WinogradConv2d)
    }
    if not layers:
        return
    for node in converted.get_ordered_ops():
        begin = node.get_friendly_name().partition("/")[0] + "/"
        if begin not in layers:
            continue
        node.get_rt_info()[_PRECISE] = True
        weights = tuple(layers[begin].transformed_weights().shape)
        if node.get_type_name() == "Constant" and tuple(node.get_output_shape(0)) == weights:
            _put_product_back_(node, layers[begin])
    converted.validate_nodes_and_infer_types()


def _put_product_back_(weights: Any, layer: WinogradConv2d) -> None:
    """Replace a constant by `kernel_transform @ weight`."""
    opset = openvino_core.openvino().opset13
    kernel, flat = (value.detach().cpu().numpy() for value in (layer.kernel_transform, layer.weight))
    product = opset.matmul(opset.constant(kernel), opset.constant(flat), False, False)
    shape = opset.constant(np.array(weights.get_output_shape(0), np.int64))
    shaped = opset.reshape(product, shape, special_zero=False)
    weights.output(0).replace(shaped.output(0))
