"""Which layers to ghost, and in which ratio, by measuring in the runtime: `plan`.

A layer gains if its ghosted form is faster at its real input. Of the forms that gain, those that cost least accuracy
are taken until the budget is met; then the whole network is timed against the original, and fewer are taken while it
is not at least 5 % faster (`plan_search.py`). Without a budget the network with all candidates ghosted is timed too,
for comparison. Left out: the conversion itself, which is `ghostify(model, ratio=plan.ratios)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ghostnet.checks import check_integer
from ghostnet.deploy.layer_times import LayerTimes, Setting, Site, find_sites, time_sites
from ghostnet.deploy.plan_search import WORTH, Choice, GhostOption, search
from ghostnet.deploy.planned import Plan, PlannedLayer
from ghostnet.deploy.quantization.calibration import calibration_array
from ghostnet.deploy.whole_times import WholeTimes, check_setting, folder_for_exports, versions_of
from ghostnet.errors import InputError, unknown_name
from ghostnet.measure import environment
from ghostnet.nn.cheap_operations import check_cheap_kernel_size
from ghostnet.nn.copies import copy_model
from ghostnet.nn.edits import replace_module_

LEAST_GAIN = 0.02  # of a layer's time; less is within the noise of a measurement

Cost = Mapping[str, float | Mapping[int, float]] | Callable[[str], float | Mapping[int, float]] | None


def plan(
    model: nn.Module,
    target: str,
    *,
    input_size: Sequence[int],
    precision: str = "fp32",
    budget: float = 1.0,
    layers: Sequence[str] | None = None,
    ratio: int | Sequence[int] = 2,
    cheap_kernel_size: int = 3,
    cost: Cost = None,
    build: Callable[[dict[str, int]], nn.Module] | None = None,
    calibration: Any = None,
    threads: int = 1,
    seconds: float = 0.3,
    folder: str | Path | None = None,
    announce: Callable[[str], None] | None = None,
) -> Plan:
    """Choose the layers whose Ghost form pays in a runtime on this machine, and the ratio of each.

    Args:
        model: the dense network; it is untouched.
        target: key of `TARGETS`.
        input_size: shape of one input without the batch.
        precision: "fp32", "bf16" (OpenVINO) or "int8" (onnx, openvino, litert, c).
        budget: time of the Ghost network over that of the original, in (0, 1]; 1 takes every layer that gains.
        layers: names of the candidates; None for all but the first and depthwise ones.
        ratio: s of Eq. 2, or several of which each layer gets one: that needs a budget below 1, since without one the
            largest would always be taken.
        cheap_kernel_size: d, odd.
        cost: what each layer costs in accuracy, >= 0, by name or as a function of the name: a number, such as
            `reconstruction_error` of a `ConversionReport`, or a number for each ratio, such as the `costs` of
            `sensitivity`. None counts every layer alike.
        build: makes the Ghost network for ratios by name, such as `lambda ratios: ghostify(model, ratio=ratios)[0]`;
            None puts Ghost convolutions with random weights in their places.
        calibration: float32 images `(N, C, H, W)` for int8; None takes random ones, which is enough for times.
        threads: inside one operator.
        seconds: least time for each form of a layer; four times that for a whole network.
        folder: keeps the exported files there, named by the layers' and networks' structure, so that another plan
            need not export them again; take a fresh one when ghostnet or the runtime's tools change.
        announce: called with a line before each slow step.

    Returns:
        A `Plan`: `plan.layers` are the names, `plan.ratios` the ratio of each; `print(plan)` gives a table. No layer
        is in it where that would not make the whole network 5 % faster: then none is worth its accuracy.

    Raises:
        InputError: a bad argument, a runtime that is missing or cannot run in `precision`, or a model without
            convolutions.

    Example:
        >>> chosen = plan(model, "onnx", input_size=(3, 224, 224), budget=0.7)  # doctest: +SKIP
        >>> ghost, report = ghostify(model, ratio=chosen.ratios)  # doctest: +SKIP
    """
    check_setting(target, precision, budget, seconds, threads)
    ratios = _check_forms(ratio, cheap_kernel_size, budget)
    sizes = tuple(input_size)
    if calibration is not None and precision == "int8":
        calibration = calibration_array(calibration, sizes)
    sites, left_out = _among(*find_sites(model, sizes), layers)
    costs = {site.name: _costs_of(site.name, cost, ratios) for site in sites}
    with folder_for_exports(folder) as place:
        tell = announce or (lambda _line: None)
        setting = Setting(target, precision, threads, seconds, place, calibration, tell)
        timed = (
            time_sites(sites, setting, ratios=ratios, cheap_kernel_size=cheap_kernel_size) if sites else {}
        )
        whole = WholeTimes(model, setting, sizes)
        make = build or (lambda chosen: _ghosted(model, sites, chosen, cheap_kernel_size))
        chosen, measured = _choose(timed, costs, _time_with(make, whole, tell), budget)
    passed_over = _why_passed_over(chosen, measured, budget)
    rows = [
        _row(site, timed[site.name], costs[site.name], chosen.get(site.name), cheap_kernel_size, passed_over)
        for site in sites
    ]
    return Plan(
        target=target,
        precision=precision,
        threads=threads,
        budget=budget,
        rows=tuple(rows),
        left_out=left_out,
        measured_ratio=measured,
        attempts=tuple(whole.attempts),
        settings={
            "ratio": ratio if isinstance(ratio, int) else ratios,
            "cheap_kernel_size": cheap_kernel_size,
            "input_size": list(sizes),
        },
        environment=environment() | versions_of(target, precision),
    )


def _check_forms(ratio: int | Sequence[int], cheap_kernel_size: int, budget: float) -> list[int]:
    """Return the ratios to try, in order."""
    several = isinstance(ratio, Sequence) and not isinstance(ratio, str)
    given = list(ratio) if isinstance(ratio, Sequence) and several else [ratio]
    ending = "; 1 is the plain convolution itself"
    ratios = [check_integer("ratio", one, least=2, ending=ending) for one in given]
    if not ratios:
        raise InputError("ratio is an empty list; give an integer >= 2, or several")
    if len(set(ratios)) > 1 and budget == 1:
        raise InputError(
            f"several ratios ({', '.join(map(str, ratios))}) need a budget below 1: without one the largest is taken"
        )
    check_cheap_kernel_size(cheap_kernel_size)
    return sorted(set(ratios))


def _among(
    sites: list[Site], left_out: dict[str, str], layers: Sequence[str] | None
) -> tuple[list[Site], dict[str, str]]:
    """Keep the named candidates."""
    if layers is None:
        kept = {site.name: site.usually_kept for site in sites if site.usually_kept}
        return [site for site in sites if not site.usually_kept], {**left_out, **kept}
    known = {site.name for site in sites}
    for name in layers:
        if name not in known:
            if name in left_out:
                raise InputError(f"layer {name} is no candidate: {left_out[name]}")
            raise unknown_name("layer", name, known)
    rest = dict.fromkeys(known.difference(layers), "not among the candidates")
    return [site for site in sites if site.name in layers], {**left_out, **rest}


def _costs_of(name: str, cost: Cost, ratios: list[int]) -> dict[int, float]:
    """Return what a layer costs in each ratio; those that its cost does not name are no choice."""
    if cost is None:
        return dict.fromkeys(ratios, 1.0)
    if callable(cost):
        value = cost(name)
    elif name in cost:
        value = cost[name]
    else:
        raise InputError(f"cost has no entry for layer {name}; give one for each candidate, or a function")
    each = dict(value) if isinstance(value, Mapping) else dict.fromkeys(ratios, value)
    for one in each.values():
        if not (isinstance(one, int | float) and math.isfinite(one) and one >= 0):
            raise InputError(f"the cost of layer {name} (={one!r}) must be a finite number >= 0")
    return {ratio: float(each[ratio]) for ratio in ratios if ratio in each}


def _options(timed: LayerTimes, costs: Mapping[int, float]) -> list[GhostOption]:
    """Return the forms of a layer that gain."""
    return [
        GhostOption(ratio, timed.gain_ms(ratio), costs[ratio])
        for ratio in timed.ghosts
        if ratio in costs and timed.gain_ms(ratio) >= LEAST_GAIN * timed.dense_ms
    ]


def _choose(
    timed: Mapping[str, LayerTimes],
    costs: Mapping[str, Mapping[int, float]],
    measure: Callable[[Choice], float],
    budget: float,
) -> tuple[Choice, float]:
    """Return the ratio of each layer to ghost, and what was measured for the whole network with them."""
    options = {name: found for name in timed if (found := _options(timed[name], costs[name]))}
    chosen, measured = search(options, measure, budget) if options else ({}, 1.0)
    if budget < 1:
        return chosen, measured
    # layers that lose alone can gain where the runtime fuses them; without a budget there is one ratio
    everything = {name: next(iter(found.ghosts)) for name, found in timed.items() if found.ghosts}
    if 0 < len(options) < len(everything):
        measured_all = measure(everything)
        if measured_all < min(1 - WORTH, measured - LEAST_GAIN):
            return everything, measured_all
    return chosen, measured


def _time_with(
    make: Callable[[Choice], nn.Module], whole: WholeTimes, tell: Callable[[str], None]
) -> Callable[[Choice], float]:
    """Return what builds the network of a choice and gives its time over that of the original."""

    def ratio_of(choice: Choice) -> float:
        layers = "1 layer" if len(choice) == 1 else f"{len(choice)} layers"
        tell(f"ghosting {layers}")
        return whole.ratio(make(choice), f"{layers} ghosted", {"layers": len(choice)})

    return ratio_of


def _ghosted(model: nn.Module, sites: Sequence[Site], chosen: Choice, cheap_kernel_size: int) -> nn.Module:
    network = copy_model(model).eval().cpu()
    for site in sites:
        if site.name in chosen:
            replace_module_(network, site.name, site.ghost(chosen[site.name], cheap_kernel_size))
    return network


def _why_passed_over(chosen: Choice, measured: float, budget: float) -> str:
    """Return why layers that gain, each alone, are not ghosted."""
    if budget < 1 and chosen and measured <= budget:
        return "gains, but the budget is met without it"
    return "gains alone, but too little in the whole network"


def _row(
    site: Site,
    timed: LayerTimes,
    costs: dict[int, float],
    chosen: int | None,
    cheap_kernel_size: int,
    passed_over: str,
) -> PlannedLayer:
    """Return what the table says of a layer; of one that stays plain, in the first ratio that gains, if any does."""
    gains = [option.ratio for option in _options(timed, costs)]
    shown = chosen or next(iter(gains or timed.ghosts), None)
    if shown is None:
        return PlannedLayer(site.name, site.shape(), site.macs(), reason=timed.failed or "")
    reason = "gains"
    if not chosen:
        reason = "slower as a Ghost convolution" if timed.gain_ms(shown) < 0 else "gains too little"
        if gains:
            reason = passed_over
    return PlannedLayer(
        site.name,
        site.shape(),
        site.macs(),
        ratio=shown,
        macs_ratio=site.ghost_macs(shown, cheap_kernel_size) / site.macs(),
        dense_ms=timed.dense_ms,
        ghost_ms=timed.ghosts[shown],
        cost=costs.get(shown),
        chosen=chosen is not None,
        reason=reason,
        ghost_times=timed.ghosts,
        costs=costs,
    )
