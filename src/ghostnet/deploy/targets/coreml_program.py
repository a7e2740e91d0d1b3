"""A Core ML package computed with PyTorch: its program as it lies on disk, operator by operator.

It shows what a converter got wrong (weights, padding, axes, order), on machines without Core ML; it does not show what
Core ML itself would get wrong. Operators of convolutional networks are known. In a float16 program every result is
rounded to float16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ghostnet.deploy.targets.target import NotRunHereError

_WEIGHTS = Path("Data/com.apple.CoreML/weights")  # in every package
Inputs = Mapping[str, Any]


class Program:
    """A package's program; a `Runner`.

    Args:
        path: the package.
        spec: its specification, from coremltools.
    """

    def __init__(self, path: Path, spec: Any) -> None:
        from coremltools.converters.mil.frontend.milproto.load import load

        program = load(spec, spec.specificationVersion, str(path / _WEIGHTS))
        self._function = program.functions["main"]
        (self._name, images), *_ = self._function.inputs.items()
        batch, *size = (int(number) for number in images.shape)
        self.input_size: tuple[Any, ...] = tuple(size)
        self.batch: int | None = batch
        self.outputs = tuple(output.name for output in self._function.outputs)
        self.metadata = dict(spec.description.metadata.userDefined)

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the outputs.

        Raises:
            NotRunHereError: an operator is not known here.
        """
        values: dict[str, Any] = {self._name: torch.from_numpy(images)}
        for step in self._function.operations:
            if step.op_type == "const":
                continue
            if step.op_type not in OPERATORS:
                raise NotRunHereError(f"operator {step.op_type}")
            inputs = {name: _value(given, values) for name, given in step.inputs.items()}
            found = OPERATORS[step.op_type](inputs)
            found = list(found) if isinstance(found, tuple | list) else [found]
            for output, value in zip(step.outputs, found, strict=True):
                values[output.name] = value.half().float() if _is_half(output) else value
        return [np.asarray(values[name].numpy()) for name in self.outputs]


def _value(given: Any, values: Mapping[str, Any]) -> Any:
    """Return numbers, texts and lists as Python's, weights as tensors, and what was computed."""
    if isinstance(given, list | tuple):
        return [_value(one, values) for one in given]
    if given.name in values:
        return values[given.name]
    constant = given.val
    if isinstance(constant, np.ndarray) and constant.dtype.kind == "f":
        return torch.from_numpy(constant.astype(np.float32))
    return constant.tolist() if isinstance(constant, np.ndarray | np.generic) else constant


def _is_half(output: Any) -> bool:
    from coremltools.converters.mil.mil import types

    return bool(output.dtype == types.fp16)


def _edges(inputs: Inputs) -> list[int]:
    """Return zeros to add left, right, above and below, for a window of `kernel_sizes` or of the weight."""
    if inputs["pad_type"] == "custom":
        top, bottom, left, right = inputs["pad"]
        return [left, right, top, bottom]
    if inputs["pad_type"] == "valid":
        return [0, 0, 0, 0]
    raise NotRunHereError(f"padding {inputs['pad_type']}")


def _convolution(inputs: Inputs) -> torch.Tensor:
    return F.conv2d(
        F.pad(inputs["x"], _edges(inputs)),
        inputs["weight"],
        inputs.get("bias"),
        stride=inputs["strides"],
        dilation=inputs["dilations"],
        groups=inputs["groups"],
    )


def _pooled(inputs: Inputs) -> dict[str, Any]:
    """Return what both kinds of pooling take; padding is alike on opposite sides, as PyTorch has it."""
    left, right, top, bottom = _edges(inputs)
    if (left, top) != (right, bottom):
        raise NotRunHereError("pooling with unequal padding")
    return {
        "input": inputs["x"],
        "kernel_size": inputs["kernel_sizes"],
        "stride": inputs["strides"],
        "padding": (top, left),
        "ceil_mode": bool(inputs["ceil_mode"]),
    }


def _average_pool(inputs: Inputs) -> torch.Tensor:
    return F.avg_pool2d(**_pooled(inputs), count_include_pad=not inputs["exclude_padding_from_average"])


def _pad(inputs: Inputs) -> torch.Tensor:
    pairs = [inputs["pad"][place : place + 2] for place in range(0, len(inputs["pad"]), 2)]
    edges = [size for pair in reversed(pairs) for size in pair]
    while edges[-2:] == [0, 0]:  # PyTorch reflects two sides at most, and counts those of no width, too
        del edges[-2:]
    mode = {"constant": "constant", "reflect": "reflect", "replicate": "replicate"}[inputs["mode"]]
    fill = float(inputs["constant_val"]) if mode == "constant" else None
    return F.pad(inputs["x"], edges, mode=mode, value=fill)


def _batch_norm(inputs: Inputs) -> torch.Tensor:
    mean, variance, weight, bias = (inputs.get(key) for key in ("mean", "variance", "gamma", "beta"))
    return F.batch_norm(inputs["x"], mean, variance, weight, bias, eps=float(inputs["epsilon"]))


def _layer_norm(inputs: Inputs) -> torch.Tensor:
    maps, axes = inputs["x"], sorted(axis % inputs["x"].dim() for axis in inputs["axes"])
    if axes != list(range(maps.dim() - len(axes), maps.dim())):
        raise NotRunHereError("normalisation of other than the last axes")
    shape = [maps.shape[axis] for axis in axes]
    return F.layer_norm(maps, shape, inputs.get("gamma"), inputs.get("beta"), float(inputs["epsilon"]))


def _concatenation(inputs: Inputs) -> torch.Tensor:
    if not inputs["interleave"]:
        return torch.cat(inputs["values"], inputs["axis"])
    axis = inputs["axis"] % inputs["values"][0].dim()
    return torch.stack(inputs["values"], axis + 1).flatten(axis, axis + 1)


def _split(inputs: Inputs) -> tuple[torch.Tensor, ...]:
    sizes = inputs.get("split_sizes")
    if sizes is None:
        sizes = inputs["x"].shape[inputs["axis"]] // inputs["num_splits"]
    return torch.split(inputs["x"], sizes, inputs["axis"])


def _slice(inputs: Inputs) -> torch.Tensor:
    maps = inputs["x"]
    rank = maps.dim()
    ends, steps = inputs["end"], inputs.get("stride") or [1] * rank
    from_start, to_end = inputs.get("begin_mask") or [False] * rank, inputs.get("end_mask") or [False] * rank
    squeezed = inputs.get("squeeze_mask") or [False] * rank
    places = [
        begin
        if squeezed[axis]
        else slice(None if from_start[axis] else begin, None if to_end[axis] else ends[axis], steps[axis])
        for axis, begin in enumerate(inputs["begin"])
    ]
    return maps[tuple(places)]


def _expanded(inputs: Inputs) -> torch.Tensor:
    maps, axes = inputs["x"], inputs["axes"]
    rank = maps.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        maps = maps.unsqueeze(axis)
    return maps


def _matrix_product(inputs: Inputs) -> torch.Tensor:
    left, right = (
        inputs[name].mT if inputs.get(f"transpose_{name}") else inputs[name] for name in ("x", "y")
    )
    return torch.matmul(left, right)


def _enlarged(inputs: Inputs) -> torch.Tensor:
    factors = [float(inputs[f"scale_factor_{side}"]) for side in ("height", "width")]
    if not all(factor.is_integer() for factor in factors):
        raise NotRunHereError("enlarging by a fraction")
    down, across = (int(factor) for factor in factors)
    return inputs["x"].repeat_interleave(down, 2).repeat_interleave(across, 3)


def _reduced(function: Callable[..., torch.Tensor]) -> Callable[[Inputs], torch.Tensor]:
    return lambda inputs: function(inputs["x"], dim=inputs["axes"], keepdim=bool(inputs["keep_dims"]))


def _pair(function: Callable[..., torch.Tensor]) -> Callable[[Inputs], torch.Tensor]:
    return lambda inputs: function(torch.as_tensor(inputs["x"]), torch.as_tensor(inputs["y"]))


def _single(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Inputs], torch.Tensor]:
    return lambda inputs: function(inputs["x"])


OPERATORS: dict[str, Callable[[Inputs], Any]] = {
    "conv": _convolution,
    "max_pool": lambda inputs: F.max_pool2d(**_pooled(inputs)),
    "avg_pool": _average_pool,
    "pad": _pad,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "linear": lambda inputs: F.linear(inputs["x"], inputs["weight"], inputs.get("bias")),
    "concat": _concatenation,
    "split": _split,
    "slice_by_index": _slice,
    "gather": lambda inputs: torch.index_select(
        inputs["x"], inputs["axis"], torch.as_tensor(inputs["indices"])
    ),
    "reshape": lambda inputs: inputs["x"].reshape(inputs["shape"]),
    "transpose": lambda inputs: inputs["x"].permute(inputs["perm"]),
    "expand_dims": _expanded,
    "matmul": _matrix_product,
    "pixel_shuffle": lambda inputs: F.pixel_shuffle(inputs["x"], int(inputs["upscale_factor"])),
    "upsample_nearest_neighbor": _enlarged,
    "squeeze": lambda inputs: inputs["x"].squeeze(tuple(inputs["axes"])),
    "cast": _single(lambda maps: maps),
    "identity": _single(lambda maps: maps),
    "relu": _single(F.relu),
    "relu6": _single(F.relu6),
    "sigmoid": _single(torch.sigmoid),
    "silu": _single(F.silu),
    "tanh": _single(torch.tanh),
    "exp": _single(torch.exp),
    "softmax": lambda inputs: torch.softmax(inputs["x"], inputs["axis"]),
    "clip": lambda inputs: torch.clamp(inputs["x"], float(inputs["alpha"]), float(inputs["beta"])),
    "sigmoid_hard": lambda inputs: torch.clamp(inputs["alpha"] * inputs["x"] + inputs["beta"], 0, 1),
    "thresholded_relu": lambda inputs: inputs["x"] * (inputs["x"] >= inputs["alpha"]),
    "leaky_relu": lambda inputs: F.leaky_relu(inputs["x"], float(inputs["alpha"])),
    "prelu": lambda inputs: F.prelu(inputs["x"], inputs["alpha"]),
    "gelu": lambda inputs: F.gelu(inputs["x"], approximate="none" if inputs["mode"] == "EXACT" else "tanh"),
    "reduce_mean": _reduced(torch.mean),
    "reduce_max": _reduced(torch.amax),
    "reduce_sum": _reduced(torch.sum),
    "add": _pair(torch.add),
    "sub": _pair(torch.sub),
    "mul": _pair(torch.mul),
    "real_div": _pair(torch.div),
    "maximum": _pair(torch.maximum),
    "minimum": _pair(torch.minimum),
    "pow": _pair(torch.pow),
}
