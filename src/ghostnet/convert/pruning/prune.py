"""A network in, the same with fewer channels out: `prune`, the baselines of Tables 5 and 6.

Finds the places, lets a method choose the channels, cuts the network, records the cut and counts again. Left out:
training (SSS is handed one) and fine-tuning.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ghostnet.convert.batch_norm import rematch_batch_norm_
from ghostnet.convert.calibration import calibration_batches, on_device_of, without_inference
from ghostnet.convert.ghostify import example_of
from ghostnet.convert.graph import ConvUnit, find_units
from ghostnet.convert.pruning.budget import TOLERANCE, Budget, check_multiple
from ghostnet.convert.pruning.cut import cut_, narrow_, silence_
from ghostnet.convert.pruning.job import PruneJob, Sparsify
from ghostnet.convert.pruning.methods import PRUNE_METHODS, PruneMethod, check_streams
from ghostnet.convert.pruning.sites import PruneSite, find_sites
from ghostnet.convert.report import ConversionReport
from ghostnet.convert.rows import Rows, known_input_size
from ghostnet.convert.shortcuts import find_padded_shortcuts, with_placements
from ghostnet.errors import InputError, unknown_name
from ghostnet.measure import profile
from ghostnet.nn.copies import copy_model
from ghostnet.nn.eager import eager_module
from ghostnet.nn.edits import record_edits_, recorded_edits
from ghostnet.nn.own_forward import check_own_forwards


@torch.inference_mode(mode=False)  # the new weights are to be trained
def prune(
    model: nn.Module,
    method: str = "l1",
    *,
    macs: float = 0.5,
    calibration: Tensor | Iterable[Any] | None = None,
    sparsify: Sparsify | None = None,
    example_input: Tensor | None = None,
    seed: int = 0,
    multiple: int = 1,
    streams: bool = False,
    match_norms: bool = True,
) -> tuple[nn.Module, ConversionReport]:
    """Remove channels until a share of the multiply-accumulates is left.

    Args:
        model: any network that can be traced (`example_input` helps); it is not changed.
        method: "l1", "channel", "thinet", "sss" or "taylor" (`PRUNE_METHODS` says what each needs).
        macs: the share that stays, in (0, 1), met within 1 % where channels are fine enough.
        calibration: images `(N, C, H, W)` or batches of them for "channel" and "thinet"; batches of
            `(images, labels)` for "taylor"; for "l1" they are not needed, but see `match_norms`.
        sparsify: for "sss": trains the network that it is given in place, and calls its second argument with the
            learning rate after each step.
        example_input: `(N, C, H, W)`, whose size MACs are counted for.
        seed: of the positions that are sampled.
        multiple: each layer keeps a multiple of so many channels, or all of them. Runtimes compute whole blocks: with 8
            a network is often quicker at the same MACs, which are met less closely.
        streams: layers whose maps are added lose the same channels together (residual streams, whose width stays
            otherwise); not for "channel" and "thinet", which repair one layer behind another.
        match_norms: where there are calibration images, "l1", "thinet" and "taylor" give the batch norms behind the cut
            the statistics that make up for it, which saves much of the accuracy before any training ("channel" and
            "sss" have seen to it).

    Returns:
        The new network, in the mode and on the device of the old one, and a `ConversionReport`.

    Raises:
        InputError: an unknown method, a share that cannot be reached, missing images, labels or training, or a
            network in which nothing can be pruned.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3))
        >>> pruned, report = prune(model, "l1", macs=0.5, example_input=torch.zeros(1, 3, 8, 8))
        >>> pruned[0].out_channels, round(report.macs_ratio, 2)
        (4, 0.5)
    """
    started = time.perf_counter()
    if method not in PRUNE_METHODS:
        raise unknown_name("pruning method", method, PRUNE_METHODS)
    model = eager_module(model, "prune")
    check_own_forwards(model, "prune")
    labelled, batches = calibration_for(PRUNE_METHODS[method], calibration)
    example = example_of(model, example_input, batches)
    units = find_units(model, example)
    given, model = model, _as_it_is_cut(model, example, streams)
    sites, reasons = _sites_for(PRUNE_METHODS[method], model, units, example, streams)
    input_size = known_input_size(model, None if example is None else tuple(example.shape[1:]))
    dense = copy_model(model).eval()
    job = PruneJob(
        model=dense,
        pruned=copy_model(dense),
        sites=sites,
        budget=Budget(dense, sites, input_size, macs, multiple=multiple),
        batches=on_device_of(model, batches or ()),
        labelled=[(images, labels.to(images.device)) for images, labels in _pairs(model, labelled)],
        sparsify=sparsify,
        seed=seed,
    )
    kept = PRUNE_METHODS[method].run(job)
    matched = match_norms and PRUNE_METHODS[method].norms and bool(job.batches)
    silence_(job.pruned, sites, kept)
    if matched:
        rematch_batch_norm_(job.pruned, dense, job.batches)
    pruned = _cut(model, job, kept, None if example is None else on_device_of(model, [example])[0])
    notes = _notes(sites, kept, reasons, [unit.name for unit in units])
    rows = Rows(given, pruned, _narrower(sites, kept), input_size, action="pruned")
    settings: dict[str, Any] = {"method": method, "macs": macs}
    settings |= {"multiple": multiple} if multiple > 1 else {}
    settings |= {"streams": True} if streams else {}
    settings |= {"norms": "matched"} if matched else {}
    report = rows.report(notes, job.errors, settings, started)
    reached = job.budget.macs({name: len(indices) for name, indices in kept.items()}) / job.budget.target
    if abs(reached - 1) > TOLERANCE:
        settings["remark"] = f"channels are too coarse: {reached:.3f} of the target"
    return pruned, report


def _as_it_is_cut(model: nn.Module, example: Tensor | None, streams: bool) -> nn.Module:
    """Return a copy; where streams lose channels, padded shortcuts are placements, which lose them, too."""
    return with_placements(model, find_padded_shortcuts(model, example) if streams else {})


def _sites_for(
    method: PruneMethod, model: nn.Module, units: list[ConvUnit], example: Tensor | None, streams: bool
) -> tuple[list[PruneSite], dict[str, str]]:
    """Return the sites that a method can choose channels of, and why other convolutions keep theirs."""
    if streams:
        check_streams(method.name)
    sites, reasons = find_sites(model, units, example, streams=streams)
    if not method.one_reader:
        return sites, reasons
    left = {
        site.name: f"method {method.name!r} keeps it: {site.kept_whole}" for site in sites if site.kept_whole
    }
    for site in sites:
        if site.kept_whole:
            reasons |= dict.fromkeys(site.outputs, left[site.name])
    if len(left) == len(sites):
        name, reason = next(iter(left.items()))
        raise InputError(f"nothing in this {type(model).__name__} can be pruned ({name}: {reason})")
    return [site for site in sites if not site.kept_whole], reasons


def draft(
    model: nn.Module,
    method: str,
    *,
    macs: float,
    example_input: Tensor,
    multiple: int = 1,
    streams: bool = False,
) -> nn.Module:
    """Return a network of the sizes that a method of uniform shares would leave, to be timed; its channels are any.

    Args:
        model: as for `prune`.
        method: one of `PRUNE_METHODS` whose entry says "uniform".
        macs: as for `prune`.
        example_input: `(N, C, H, W)`.
        multiple: as for `prune`.
        streams: as for `prune`.
    """
    model = eager_module(model, "prune")
    units = find_units(model, example_input)
    drafted = _as_it_is_cut(model, example_input, streams).eval()
    sites, _ = _sites_for(PRUNE_METHODS[method], drafted, units, example_input, streams)
    budget = Budget(drafted, sites, tuple(example_input.shape[1:]), macs, multiple=multiple)
    narrow_(drafted, sites, budget.uniform())
    return drafted


def least_share(
    model: nn.Module,
    example_input: Tensor,
    *,
    method: str = "l1",
    multiple: int = 1,
    streams: bool = False,
) -> float:
    """Return the smallest share of the MACs that `prune` can leave, rounded up to three digits.

    Args:
        model: as for `prune`.
        example_input: `(N, C, H, W)`.
        method: as for `prune`.
        multiple: as for `prune`; so many channels stay in every prunable layer, or all.
        streams: as for `prune`.

    Raises:
        InputError: a bad `multiple`, or a network in which nothing can be pruned.
    """
    multiple = check_multiple(multiple)
    model = eager_module(model, "prune")
    check_own_forwards(model, "prune")
    units = find_units(model, example_input)
    narrowest = _as_it_is_cut(model, example_input, streams).eval()
    sites, _ = _sites_for(PRUNE_METHODS[method], narrowest, units, example_input, streams)
    narrow_(
        narrowest, sites, {site.name: torch.arange(min(site.step(multiple), site.channels)) for site in sites}
    )
    size = tuple(example_input.shape[1:])
    share = math.ceil(1000 * profile(narrowest, size).macs / profile(model, size).macs) / 1000
    if share >= 1:
        raise InputError(
            f"no layer has more than {multiple} channels to lose; take a smaller `multiple` (--multiple)"
        )
    return share


def calibration_for(
    method: PruneMethod, calibration: Tensor | Iterable[Any] | None
) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor] | None]:
    """Check that a method has the images and labels that it needs.

    Returns:
        Pairs of images `(N, C, H, W)` and labels `(N,)` for a method that needs labels, and batches of images or None.

    Raises:
        InputError: it has not.
    """
    items: Any = calibration
    if isinstance(calibration, np.ndarray):
        items = _as_tensors(calibration)
    elif calibration is not None and not isinstance(calibration, Tensor):
        items = [_as_tensors(item) for item in calibration]
    batches = calibration_batches(items)
    if batches is None and method.needs in ("images", "labels"):
        raise InputError(
            f"method {method.name!r} looks at {method.needs}: give `calibration` (--calibration FOLDER or cifar10)"
        )
    if method.needs != "labels":
        return [], batches
    pairs = [] if isinstance(items, Tensor) else list(items or ())
    for pair in pairs:
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and _are_labels(pair[1], len(pair[0]))):
            raise InputError(
                f"method {method.name!r} needs labels: `calibration` must give (images, labels), an integer an image"
            )
    if not pairs:
        raise InputError(
            f"method {method.name!r} needs labels: `calibration` must give (images, labels), not images"
        )
    return [(pair[0], without_inference(pair[1]).long()) for pair in pairs], batches


def _as_tensors(item: Any) -> Any:
    """Return numpy arrays, alone or in a pair, as tensors, and anything else as it is."""
    if isinstance(item, (tuple, list)):
        return tuple(_as_tensors(part) for part in item)
    return torch.tensor(item) if isinstance(item, np.ndarray) and item.dtype.kind in "fiub" else item


def _are_labels(labels: object, count: int) -> bool:
    return isinstance(labels, Tensor) and labels.shape == (count,) and not labels.is_floating_point()


def _pairs(model: nn.Module, labelled: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    images = on_device_of(model, [pair[0] for pair in labelled])
    return list(zip(images, [pair[1] for pair in labelled], strict=True))


def _cut(model: nn.Module, job: PruneJob, kept: dict[str, Tensor], example: Tensor | None) -> nn.Module:
    """Narrow the job's network, with the modes and the record of the original."""
    pruned = job.pruned
    flags = {name: module.training for name, module in model.named_modules()}
    for name, module in pruned.named_modules():
        module.training = flags[name]
    edits = cut_(pruned, job.sites, kept, example)
    record_edits_(pruned, [*recorded_edits(model), *edits])
    if hasattr(model, "ghostnet_origin"):
        pruned.ghostnet_origin = model.ghostnet_origin
    return pruned


def _narrower(sites: list[PruneSite], kept: dict[str, Tensor]) -> set[str]:
    return {path for site in sites if len(kept[site.name]) < site.channels for path in site.writers}


def _notes(
    sites: list[PruneSite], kept: dict[str, Tensor], reasons: dict[str, str], names: list[str]
) -> dict[str, str | None]:
    """Say for each convolution how many channels it keeps, or why all of them."""
    notes: dict[str, str | None] = dict(reasons)
    for site in sites:
        for path in site.writers:
            each = len(site.outputs[path]) // site.channels
            notes[path] = f"{each * site.channels} -> {each * len(kept[site.name])} channels"
    return {name: notes[name] for name in names}
