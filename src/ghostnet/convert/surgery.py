"""Puts Ghost convolutions in the place of convolutions, in the linear or the GhostNet form, with a record.

*Linear*: primary convolution and depthwise filter; the converted layer's own batch norm and activation stay
after it. *GhostNet* (paper, section 3.2): norm and activation follow the primary convolution and the cheap
operation alike, inside the Ghost convolution, so the norm and a dedicated activation behind it become
identities and nothing is doubled. Left out: weights; new layers have PyTorch's default initialisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ghostnet.convert.aliases import held_elsewhere
from ghostnet.convert.graph import HELD, ConvUnit
from ghostnet.errors import InputError
from ghostnet.nn.copies import copy_model
from ghostnet.nn.edits import record_edits_, recorded_edits, replace_module_
from ghostnet.nn.ghost_conv import GhostConv2d, ghost_like

FORMS = ("linear", "ghostnet")
_IDEMPOTENT = {"relu": "relu", "ReLU": "relu", "relu6": "relu6", "ReLU6": "relu6"}
_REMOVABLE = {**_IDEMPOTENT, "SiLU": "silu", "Hardswish": "hardswish"}


def check_form(form: object) -> str:
    """Return `form` if there is such a form.

    Raises:
        InputError: it is neither "linear" nor "ghostnet".
    """
    if form not in FORMS:
        raise InputError(
            f"`form` (={form!r}) must be 'linear' or 'ghostnet'; 'linear' keeps the layer's own norm"
        )
    return str(form)


def replace_convolutions(
    model: nn.Module,
    units: list[ConvUnit],
    *,
    ratio: int | Mapping[str, int],
    cheap_kernel_size: int,
    form: str = "linear",
) -> tuple[nn.Module, dict[str, str]]:
    """Copy a model with a Ghost convolution in the place of each unit.

    Args:
        model: any module; it is not changed.
        units: the convolutions to replace, chosen among `find_units(model)`.
        ratio: s of Eq. 2, or that of each unit by name.
        cheap_kernel_size: d of section 3.1.
        form: "linear" or "ghostnet".

    Returns:
        The new model, with `ghostnet_edits` on it, and a remark for each unit in another form than asked for.

    Raises:
        InputError: `form` is unknown.
    """
    check_form(form)
    copied = copy_model(model)
    held = held_elsewhere(model)
    edits = recorded_edits(model)
    remarks: dict[str, str] = {}
    for unit in units:
        inner: dict[str, Any] = {}
        if form == "ghostnet":
            inner, remark = _inner_layers(unit, copied, held)
            if remark:
                remarks[unit.name] = remark
        convolution = copied.get_submodule(unit.name)
        own = ratio[unit.name] if isinstance(ratio, Mapping) else ratio
        settings: dict[str, Any] = {"ratio": own, "cheap_kernel_size": cheap_kernel_size, **inner}
        with torch.random.fork_rng(devices=[]):  # its weights are drawn later, from a seed
            ghost = ghost_like(convolution, settings)  # type: ignore[arg-type]
        if inner:
            norm: Any = copied.get_submodule(str(unit.norm))
            ghost.set_norm_options_(norm.eps, norm.momentum)
        replace_module_(copied, unit.name, ghost)
        edits.append({"path": unit.name, "kind": "ghost_conv2d", "config": ghost.config()})
        if inner:
            edits.extend(_remove_followers_(copied, unit))
    record_edits_(copied, edits)
    if hasattr(model, "ghostnet_origin"):
        copied.ghostnet_origin = model.ghostnet_origin
    return copied, remarks


def _inner_layers(unit: ConvUnit, model: nn.Module, held: set[str]) -> tuple[dict[str, Any], str | None]:
    """Choose the norm and activation inside a Ghost convolution, or say why it stays linear."""
    if unit.norm is None:
        return {}, "linear form: no batch norm follows it alone"
    norm = model.get_submodule(unit.norm)
    if type(norm) is not nn.BatchNorm2d:
        return {}, f"linear form: {type(norm).__name__} after it cannot move into the Ghost convolution"
    if held & {unit.norm, unit.activation}:
        return {}, f"linear form: a layer after it is {HELD}"
    if unit.activation is None:
        return {"norm": "batch"}, None
    kind = unit.activation
    if unit.activation in dict(model.named_modules()):
        kind = type(model.get_submodule(unit.activation)).__name__
    # one that is shared or functional stays behind, which only an idempotent activation allows
    known = _REMOVABLE if unit.activation_dedicated else _IDEMPOTENT
    if kind not in known:
        return {}, f"linear form: {kind} after it cannot move into the Ghost convolution"
    return {"norm": "batch", "activation": known[kind]}, None


def _remove_followers_(model: nn.Module, unit: ConvUnit) -> list[dict[str, Any]]:
    paths = [unit.norm, unit.activation if unit.activation_dedicated else None]
    edits = []
    for path in paths:
        if path is not None:
            identity = nn.Identity().train(model.get_submodule(path).training)
            replace_module_(model, path, identity)
            edits.append({"path": path, "kind": "identity"})
    return edits


def refresh_edits_(model: nn.Module) -> None:
    """Record the Ghost convolutions as they are now, because matching may have given them a channel order."""
    for edit in getattr(model, "ghostnet_edits", []):
        if edit["kind"] == "ghost_conv2d":
            module = model.get_submodule(edit["path"])
            if isinstance(module, GhostConv2d):
                edit["config"] = module.config()


def reset_parameters_(modules: list[nn.Module], *, seed: int) -> None:
    """Draw the parameters of modules anew with PyTorch's defaults, leaving its global random state alone.

    Args:
        modules: Ghost convolutions.
        seed: of the draw; the same seed gives the same weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also touch the GPUs' state
        for module in modules:
            for child in module.modules():
                reset = getattr(child, "reset_parameters", None)
                if callable(reset):
                    reset()
