"""Parameters and multiply-accumulates of any module, layer by layer, from one forward pass at batch 1.

Counts the aten operations that really run, so functional calls are counted too, and attributes each to the
innermost module that was running. `macs.py` holds the definition of a MAC. Left out: memory traffic, backward
passes, and operations of unknown cost, which are listed in `Profile.uncounted` and never guessed.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ghostnet.checks import is_integer
from ghostnet.columns import aligned
from ghostnet.errors import InputError, first_line
from ghostnet.measure.macs import is_made_of_others, macs_of
from ghostnet.measure.untouched import as_written, restored_buffers
from ghostnet.modes import check_network, evaluating

ROOT = "(model)"


@dataclasses.dataclass(frozen=True)
class LayerProfile:
    """One module that owns parameters or ran MACs of its own (those of its children are theirs).

    Attributes:
        name: dotted path in the model; "(model)" for the model itself.
        kind: class name.
        params: parameters that this module owns and that no earlier module owns.
        macs: multiply-accumulates, over all of its calls in one forward pass.
        output_shape: shape of its last output (batch first), or None if that is no tensor or it never ran.
    """

    name: str
    kind: str
    params: int
    macs: int
    output_shape: tuple[int, ...] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Profile:
    """What `profile` found; `params` and `macs` are the sums over `layers`.

    Attributes:
        params: all parameters, each counted once even when shared.
        macs: multiply-accumulates of one forward pass at batch 1.
        layers: in the order of the modules.
        uncounted: operations that ran with unknown MACs, e.g. "aten::grid_sampler_2d in warp (1x)".
        input_size: shape of one input without the batch.
    """

    params: int
    macs: int
    layers: list[LayerProfile]
    uncounted: list[str]
    input_size: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Return a plain-text table, one line a layer and the totals last."""
        rows = [
            (layer.name, layer.kind, f"{layer.params:,}", f"{layer.macs:,}", _shape_text(layer.output_shape))
            for layer in self.layers
        ]
        rows = [("layer", "kind", "params", "MACs", "output"), *rows]
        rows.append(("total", "", f"{self.params:,}", f"{self.macs:,}", ""))
        lines = aligned(rows, numbers=(2, 3))
        lines += [f"not counted: {entry}" for entry in self.uncounted]
        return "\n".join(lines)


def _shape_text(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else "x".join(map(str, shape))


class _CountingMode(TorchDispatchMode):
    """Adds up MACs by the name on top of `running`; hooks push and pop the names."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Say that PyTorch's compiler need not be kept off this: it is loaded for that, which takes seconds."""
        return False

    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = [ROOT]
        self.moving: set[str] = set()  # modules that move values and compute none
        self.macs: dict[str, int] = {}
        self.unknown: dict[tuple[str, str], int] = {}
        self.shapes: dict[str, tuple[int, ...] | None] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if is_made_of_others(func):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        output = func(*args, **(kwargs or {}))
        where = self.running[-1]
        macs = 0 if where in self.moving else macs_of(func, args, output)
        if macs is None:
            entry = (func._schema.name, where)
            self.unknown[entry] = self.unknown.get(entry, 0) + 1
        elif macs:
            self.macs[where] = self.macs.get(where, 0) + macs
        return output

    def attach(self, name: str, module: nn.Module) -> list[Any]:
        """Register the hooks that keep `running` and `shapes`; return their handles."""
        if getattr(module, "only_moves_values", False):
            self.moving.add(name)

        def enter(_module: nn.Module, _inputs: Any) -> None:
            self.running.append(name)

        def leave(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self.running.pop()
            self.shapes[name] = tuple(output.shape) if isinstance(output, torch.Tensor) else None

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]


@contextlib.contextmanager
def _without_fused_attention() -> Iterator[None]:
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused kernel would hide its matrix products
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _checked_size(input_size: object) -> tuple[int, ...]:
    sizes = tuple(input_size) if isinstance(input_size, (tuple, list, torch.Size)) else ()
    if not sizes or any(not is_integer(size) or size < 1 for size in sizes):
        raise InputError(
            f"input_size (={input_size!r}) must be a tuple of integers >= 1 without the batch, "
            "e.g. (3, 224, 224)"
        )
    return sizes


def _example_input(model: nn.Module, input_size: tuple[int, ...]) -> torch.Tensor:
    tensors = [*model.parameters(), *model.buffers()]
    reference = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)  # the caller's random state stays as it is
    values = torch.randn(1, *input_size, generator=generator)
    return values.to(device=reference.device, dtype=reference.dtype)


def _run(model: nn.Module, input_size: tuple[int, ...]) -> _CountingMode:
    mode, handles = _CountingMode(), []
    try:
        for name, module in model.named_modules():
            handles += mode.attach(name or ROOT, module)
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            evaluating(model),
            restored_buffers(model),
            _without_fused_attention(),
        ):
            example = _example_input(model, input_size)
            with mode:
                model(example)
    except Exception as error:  # it is the model's own code that runs
        reason = first_line(error)
        raise InputError(
            f"the model does not run with input_size {input_size}: {reason}; "
            "give the size that it was made for"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return mode


def profile(model: nn.Module, input_size: Sequence[int] = (3, 224, 224)) -> Profile:
    """Count the parameters and the MACs of one forward pass at batch 1.

    MACs: convolutions (transposed too), linear layers, matrix products and attention count one per
    multiply-accumulate. Bias, batch norm, activations, pooling, resizing and elementwise operations count
    zero, and so does a module that says of itself that it `only_moves_values`. Whatever else ran is in
    `uncounted`. This is what the paper calls FLOPs. The model is left as it was: modes, statistics, gradients,
    hooks.

    Args:
        model: any module that takes one tensor; any device and floating dtype.
        input_size: shape of one input without the batch, e.g. `(C, H, W)`.

    Returns:
        A `Profile`; print it for a table.

    Raises:
        InputError: `model` is no network or has lazy parameters, `input_size` is not made of integers >= 1,
            or the forward pass fails with it.

    Example:
        >>> found = profile(nn.Conv2d(3, 8, 3, padding=1), (3, 4, 4))
        >>> found.params, found.macs
        (224, 3456)
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"profile needs a torch.nn.Module, not {type(model).__name__}; build the model first"
        )
    model = as_written(model)
    check_network(model, "profile")
    if any(nn.parameter.is_lazy(parameter) for parameter in model.parameters()):
        raise InputError(
            "the model has lazy parameters without a shape; run it once on real input before profiling"
        )
    sizes = _checked_size(input_size)
    mode = _run(model, sizes)
    layers: list[LayerProfile] = []
    seen: set[int] = set()
    for path, module in model.named_modules():
        own = {id(parameter): parameter.numel() for parameter in module.parameters(recurse=False)}
        params = sum(count for key, count in own.items() if key not in seen)
        seen |= own.keys()
        name = path or ROOT
        macs = mode.macs.get(name, 0)
        if own or macs:
            layers.append(LayerProfile(name, type(module).__name__, params, macs, mode.shapes.get(name)))
    return Profile(
        params=sum(layer.params for layer in layers),
        macs=sum(layer.macs for layer in layers),
        layers=layers,
        uncounted=[
            f"{operation} in {where} ({count}x)" for (operation, where), count in mode.unknown.items()
        ],
        input_size=sizes,
    )
