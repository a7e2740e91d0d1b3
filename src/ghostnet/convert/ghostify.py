"""A network in, its Ghost network out: `ghostify`, which puts the pieces of this room together.

Checks the arguments, finds and selects the convolutions, replaces them, initialises the new layers (from the
dense weights or at random), absorbs channel orders, and reports. Left out: any training.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ghostnet.convert.calibration import (
    calibration_batches,
    check_images_fit,
    on_device_of,
    without_inference,
)
from ghostnet.convert.graph import ConvUnit, find_units
from ghostnet.convert.order import absorb_channel_orders_
from ghostnet.convert.plain_fit import can_be_refitted
from ghostnet.convert.report import ConversionReport
from ghostnet.convert.rows import Rows, known_input_size
from ghostnet.convert.select import (
    LayerSelection,
    Ratio,
    check_cheap_kernel_size,
    check_ratio,
    ratio_of_each,
    select_layers,
)
from ghostnet.convert.surgery import check_form, refresh_edits_, replace_convolutions, reset_parameters_
from ghostnet.errors import InputError, unknown_name
from ghostnet.nn.copies import copy_model
from ghostnet.nn.eager import eager_module
from ghostnet.nn.edits import mark_reordered_
from ghostnet.nn.own_forward import check_own_forwards

_LAST = "it makes what the network answers: scores suffer most; Layers(last=False) keeps it"


@dataclass(frozen=True)
class RandomInit:
    """PyTorch's default initialisation of the new layers.

    Args:
        seed: of the draw.
    """

    seed: int = 0


@torch.inference_mode(mode=False)  # the new weights are to be trained
def ghostify(
    model: nn.Module,
    *,
    ratio: Ratio = 2,
    cheap_kernel_size: int = 3,
    layers: LayerSelection = None,
    init: str | RandomInit = "dense",
    calibration: Tensor | Iterable[Any] | None = None,
    example_input: Tensor | None = None,
    form: str = "linear",
    refit_plain: bool = True,
    streams: bool | None = None,
    progress: bool = False,
) -> tuple[nn.Module, ConversionReport]:
    """Replace a network's convolutions by Ghost convolutions (section 3.1 of the paper, Eq. 2 and 3).

    Args:
        model: any module with `nn.Conv2d` layers; it is not changed. Of a compiled one (`torch.compile`) the module
            that was compiled is converted.
        ratio: s, an integer of at least 1; 1 keeps plain convolutions. Or `{name or pattern: s}`, which converts
            what it names, such as `sensitivity(model, images).ratios(macs=0.5)`.
        cheap_kernel_size: d, odd.
        layers: None (all but the first and depthwise ones), "all", names or patterns, a predicate
            `(name, convolution) -> bool`, or a `Layers`.
        init: "dense" fits the new layers to the old ones in closed form; "random" (or `RandomInit(seed)`)
            draws them.
        calibration: unlabelled images `(N, C, H, W)` (tensor or numpy array), normalised as the network expects, or
            batches of them.
            With "dense" they make the fit better (256 to 2,048 are enough), with "random" they set the
            batch norms.
        example_input: `(N, C, H, W)`, for the MACs and for networks that `torch.fx` cannot trace.
        form: "linear" (the layer's own norm and activation stay behind it) or "ghostnet" (both inside, as in
            the paper; needs `init="random"`).
        refit_plain: with "dense" and images, also refit the convolutions that stay plain behind the first converted
            one, and the batch norms behind them, to the inputs that they get now. Frozen convolutions
            (`requires_grad` is False), those whose weights others read, and the batch norms behind these stay as
            they are.
        streams: with "dense", layers whose maps are added keep the same channels as primary ones, so that no runtime
            has to put them in order in front of a sum: quicker in residual networks, at a little accuracy before
            fine-tuning. The channels of such a stream are then in another order than the dense network's. None does
            so where it can be done; True raises where the network cannot be traced for it; False lets each layer
            keep its own choice and the dense network's order.
        progress: with "dense", show a bar of layers on standard error.

    Returns:
        The new network, in the mode and on the device of the old one, and a `ConversionReport`.

    Raises:
        InputError: an argument that cannot be used, or a model without any convolution.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3))
        >>> ghost_model, report = ghostify(model, init="random")
        >>> report.converted
        ['2']
    """
    started = time.perf_counter()
    cheap_kernel_size = check_cheap_kernel_size(cheap_kernel_size)
    if not isinstance(ratio, Mapping):
        check_ratio(ratio)
    init_name = _check_init(init, check_form(form))
    if streams and init_name != "dense":
        raise InputError(
            "`streams` is for init 'dense': without a fit, channels come in their own order anyway"
        )
    batches = calibration_batches(calibration)
    model = eager_module(model, "ghostify")
    check_own_forwards(model, "ghostify")
    _check_finite(model)
    example = example_of(model, example_input, batches)
    units = _units(model, example)
    _check_input(model, units, batches, example_input)
    kept = select_layers(model, units, layers, ratio=ratio, cheap_kernel_size=cheap_kernel_size)
    chosen = [unit for unit in units if kept[unit.name] is None]
    each = ratio_of_each(ratio, [unit.name for unit in units])
    said = {unit.name: each[unit.name] for unit in chosen} if isinstance(ratio, Mapping) else ratio
    replaced = functools.partial(
        replace_convolutions, model, ratio=each, cheap_kernel_size=cheap_kernel_size, form=form
    )
    ghost_model, remarks = replaced(chosen)
    if example is not None and not _runs(ghost_model, example):
        raise _in_the_way([unit for unit in chosen if not _runs(replaced([unit])[0], example)] or chosen)
    errors: dict[str, float] = {}
    in_order = frozenset[str]()
    refitted = (
        _refittable(ghost_model, units, chosen) if refit_plain and batches and init == "dense" else set()
    )
    if chosen:
        fitted = [unit for unit in units if unit in chosen or unit.name in refitted]
        dense = model
        if init == "dense" and streams is not False:
            from ghostnet.convert.streams import put_in_one_order

            placed = None if batches is None else on_device_of(model, batches)
            given = (units, [unit.name for unit in chosen], placed, example)
            dense, in_order = put_in_one_order(
                model, ghost_model, *given, asked=bool(streams), progress=progress
            )
        if in_order:
            ghost_model, _ = replace_convolutions(
                dense, chosen, ratio=each, cheap_kernel_size=cheap_kernel_size, form=form
            )
        errors = _initialise_(
            dense, ghost_model, fitted, refitted, init, batches, example, in_order, progress=progress
        )
    settings: dict[str, Any] = {
        "ratio": said,
        "cheap_kernel_size": cheap_kernel_size,
        "init": init_name,
        "form": form,
    }
    if init_name == "dense":
        settings["calibrated"] = batches is not None
    if in_order:
        settings["streams"] = True
        mark_reordered_(ghost_model, in_order)
    notes = _notes(kept, {**{unit.name: _LAST for unit in chosen if unit.last}, **remarks}, refitted, said)
    input_size = None if example is None else tuple(example.shape[1:])
    rows = Rows(model, ghost_model, {unit.name for unit in chosen}, known_input_size(model, input_size))
    return ghost_model, rows.report(notes, errors, settings, started)


def _notes(
    kept: Mapping[str, str | None], remarks: Mapping[str, str], refitted: Collection[str], said: Ratio
) -> dict[str, str | None]:
    """Return what the report says of each layer: why it was kept, or how it was converted."""
    notes = {name: reason or remarks.get(name) for name, reason in kept.items()}
    for name in refitted:
        notes[name] = f"{notes[name]}; refitted"
    for name, own in said.items() if isinstance(said, Mapping) else ():
        notes[name] = "; ".join(filter(None, [f"s = {own}", notes[name]]))
    return notes


def _check_finite(model: nn.Module) -> None:
    for name, value in model.named_parameters():  # a buffer may hold infinity, as masks do
        if not bool(torch.isfinite(value.detach()).all()):
            raise InputError(f"{name} holds NaN or infinity; a broken network is not converted")


def _check_init(init: object, form: str) -> str:
    if isinstance(init, RandomInit):
        return "random"
    if init not in ("dense", "random"):
        raise unknown_name("init", init, ["dense", "random"])
    if init == "dense" and form != "linear":
        raise InputError(f"`init` 'dense' needs form 'linear', not {form!r}; use init='random' and train")
    return str(init)


def example_of(model: nn.Module, example_input: Tensor | None, batches: list[Tensor] | None) -> Tensor | None:
    """Return one input on the model's device, from whatever was given."""
    if example_input is not None and not (isinstance(example_input, Tensor) and example_input.dim() == 4):
        raise InputError("`example_input` must be a tensor of shape (N, C, H, W)")
    given = (
        without_inference(example_input) if example_input is not None else (batches[0] if batches else None)
    )
    return None if given is None else on_device_of(model, [given[:1]])[0]


def _units(model: nn.Module, example: Tensor | None) -> list[ConvUnit]:
    units = find_units(model, example)
    if not units:
        raise InputError(f"found no convolution in this {type(model).__name__}; ghostify replaces nn.Conv2d")
    return units


def _check_input(
    model: nn.Module, units: list[ConvUnit], batches: list[Tensor] | None, example_input: Tensor | None
) -> None:
    """Try one image of each argument on a copy of the model; name the channels when they are the fault."""
    kinds = {tuple(batch.shape[1:]): batch for batch in reversed(batches or ())}  # one of each size
    given = [*(("calibration", batch) for batch in kinds.values()), ("example_input", example_input)]
    first = units[0] if units[0].calls and not units[0].name.endswith("()") else None
    for name, images in given:
        if images is None:
            continue
        example = example_of(model, images, None)
        try:
            check_images_fit(copy_model(model, share_parameters=True), example, name=name)  # type: ignore[arg-type]
        except InputError as error:
            expected = getattr(model.get_submodule(first.name), "in_channels", None) if first else None
            if first is None or expected in (None, images.shape[1]):
                raise
            raise InputError(
                f"`{name}` has {images.shape[1]} channels, but the first convolution ({first.name}) takes "
                f"{expected}"
            ) from error


def _runs(model: nn.Module, example: Tensor) -> bool:
    try:
        check_images_fit(copy_model(model, share_parameters=True), example, name="example_input")
    except InputError:
        return False
    return True


def _in_the_way(units: list[ConvUnit]) -> InputError:
    """Name convolutions whose replacement stops a network that ran before."""
    names = [unit.name for unit in units]
    some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return InputError(
        f"the network does not run with a Ghost convolution for {some}, perhaps because its code asks a convolution "
        f"for more than its output; leave out such layers: layers=Layers(exclude={names[:4]})"
    )


def _refittable(model: nn.Module, units: list[ConvUnit], chosen: list[ConvUnit]) -> set[str]:
    """Return the names of the plain convolutions behind the first converted one whose weights may be changed."""
    behind = units[units.index(chosen[0]) :] if chosen else []
    return {unit.name for unit in behind if unit not in chosen and can_be_refitted(unit, model)}


def _initialise_(
    model: nn.Module,
    ghost_model: nn.Module,
    units: list[ConvUnit],
    plain: set[str],
    init: str | RandomInit,
    batches: list[Tensor] | None,
    example: Tensor | None,
    in_order: frozenset[str],
    *,
    progress: bool,
) -> dict[str, float]:
    """Give the new layers, and those of `plain`, their weights; return each new one's error, if it is known."""
    placed = None if batches is None else on_device_of(model, batches)
    if init == "dense":
        from ghostnet.convert.sequential import initialise_from_dense_

        dense = model if placed is None else copy_model(model)  # some networks count or cache as they run
        errors = initialise_from_dense_(
            dense, ghost_model, units, placed, plain=plain, in_order=in_order, progress=progress
        )
        absorb_channel_orders_(ghost_model, example_input=example)
        refresh_edits_(ghost_model)
        return dict(errors)
    from ghostnet.convert.batch_norm import reestimate_batch_norm_

    seed = init.seed if isinstance(init, RandomInit) else 0
    reset_parameters_([ghost_model.get_submodule(unit.name) for unit in units], seed=seed)
    if placed is not None:
        reestimate_batch_norm_(ghost_model, placed)
    return {}
