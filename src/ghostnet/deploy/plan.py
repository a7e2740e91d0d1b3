"""Which layers to ghost, by measuring in the runtime: `plan`.

A layer gains if its ghosted form is faster at its real input. Of those that gain, the cheapest in accuracy are taken
until the budget is met; then the whole network is timed against the original, and layers are dropped again while it
is not at least 5 % faster. Without a budget the network with all candidates ghosted is timed too, for comparison.
Left out: the conversion itself, which is `ghostify(model, layers=plan.layers)`.
"""

from __future__ import annotations

import importlib.metadata
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ghostnet.deploy.layer_times import Setting, Site, find_sites, time_sites
from ghostnet.deploy.planned import Plan, PlannedLayer
from ghostnet.deploy.quantization.calibration import calibration_array
from ghostnet.deploy.quantization.quantiser import require_quantiser
from ghostnet.deploy.targets import require_to_write, target_named
from ghostnet.errors import InputError, unknown_name
from ghostnet.measure import Timing, environment
from ghostnet.nn.cheap_operations import check_cheap_kernel_size
from ghostnet.nn.copies import copy_model
from ghostnet.nn.edits import replace_module_

LEAST_GAIN = 0.02  # of a layer's time; less is within the noise of a measurement
WORTH = 0.05  # of the whole network's time; for less nobody gives accuracy away
_ATTEMPTS = 8
_NOT_IN_COMPANY = "gains alone, but not in the whole network"

Cost = Mapping[str, float] | Callable[[str], float] | None


def plan(
    model: nn.Module,
    target: str,
    *,
    input_size: Sequence[int],
    precision: str = "fp32",
    budget: float = 1.0,
    layers: Sequence[str] | None = None,
    ratio: int = 2,
    cheap_kernel_size: int = 3,
    cost: Cost = None,
    build: Callable[[list[str]], nn.Module] | None = None,
    calibration: Any = None,
    threads: int = 1,
    seconds: float = 0.3,
    folder: str | Path | None = None,
    announce: Callable[[str], None] | None = None,
) -> Plan:
    """Choose the layers whose Ghost form pays in a runtime on this machine.

    Args:
        model: the dense network; it is untouched.
        target: key of `TARGETS`.
        input_size: shape of one input without the batch.
        precision: "fp32", "bf16" (OpenVINO) or "int8" (onnx, openvino, litert).
        budget: time of the Ghost network over that of the original, in (0, 1]; 1 takes every layer that gains.
        layers: names of the candidates; None for all but the first and depthwise ones.
        ratio: s of Eq. 2.
        cheap_kernel_size: d, odd.
        cost: what each layer costs in accuracy, >= 0, such as `reconstruction_error` of a `ConversionReport`: by
            name or as a function of the name. None counts every layer alike.
        build: makes the Ghost network for a list of names, such as `lambda names: ghostify(model, layers=names)[0]`;
            None puts Ghost convolutions with random weights in their places.
        calibration: float32 images `(N, C, H, W)` for int8; None takes random ones, which is enough for times.
        threads: inside one operator.
        seconds: least time for each form of a layer; four times that for a whole network.
        folder: keeps the exported files there, named by the layers' and networks' structure, so that another plan
            need not export them again; take a fresh one when ghostnet or the runtime's tools change.
        announce: called with a line before each slow step.

    Returns:
        A `Plan`: `plan.layers` are the names; `print(plan)` gives a table. No layer is in it where that would not
        make the whole network 5 % faster: then none is worth its accuracy.

    Raises:
        InputError: a bad argument, a runtime that is missing or cannot run in `precision`, or a model without
            convolutions.

    Example:
        >>> chosen = plan(model, "onnx", input_size=(3, 224, 224), budget=0.7)  # doctest: +SKIP
        >>> ghost, report = ghostify(model, layers=chosen.layers)  # doctest: +SKIP
    """
    _check(target, precision, budget, seconds)
    _check_forms(threads, ratio, cheap_kernel_size)
    sizes = tuple(input_size)
    if calibration is not None and precision == "int8":
        calibration = calibration_array(calibration, sizes)
    sites, left_out = find_sites(model, sizes)
    sites, left_out = _among(sites, left_out, layers)
    costs = {site.name: _cost_of(site.name, cost) for site in sites}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(folder if folder is not None else scratch)
        place.mkdir(parents=True, exist_ok=True)
        tell = announce or (lambda _line: None)
        setting = Setting(target, precision, threads, seconds, place, calibration, tell)
        timed = time_sites(sites, setting, ratio=ratio, cheap_kernel_size=cheap_kernel_size) if sites else {}
        make = build or (lambda names: _ghosted(model, sites, names, ratio, cheap_kernel_size))
        whole = _Whole(model, make, setting, sizes)
        order = _best_first(timed, costs)
        chosen, measured = _search(order, timed, whole, budget) if order else ([], 1.0)
        everything = [site.name for site in sites if not isinstance(timed[site.name], str)]
        if budget == 1 and 0 < len(order) < len(everything):
            measured_all = whole.ratio(everything)
            if measured_all < min(
                1 - WORTH, measured - LEAST_GAIN
            ):  # layers that lose alone can gain where the runtime fuses them
                chosen, measured = everything, measured_all
    met_without = budget < 1 and bool(chosen) and measured <= budget
    passed_over = "gains, but the budget is met without it" if met_without else _NOT_IN_COMPANY
    form = ratio, cheap_kernel_size
    rows = [
        _row(site, timed[site.name], costs[site.name], site.name in chosen, form, passed_over)
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
        settings={"ratio": ratio, "cheap_kernel_size": cheap_kernel_size, "input_size": list(sizes)},
        environment=environment() | _versions(target, precision),
    )


def _versions(target: str, precision: str) -> dict[str, str]:
    packages = [target_named(target).package, *([require_quantiser(target)] if precision == "int8" else [])]
    return {package: importlib.metadata.version(package) for package in packages}


def _check(target: str, precision: str, budget: float, seconds: float) -> None:
    found = target_named(target)
    require_to_write(found)
    if precision == "int8":
        require_quantiser(target)
    elif precision not in found.precisions:
        if precision in ("fp32", "bf16"):
            raise InputError(
                f"{found.runtime} runs in {' or '.join(found.precisions)} here, not in {precision}"
            )
        raise unknown_name("precision", precision, [*found.precisions, "int8"])
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget <= 1:
        raise InputError(
            f"budget (={budget!r}) must be above 0 and at most 1: the time of the Ghost network over the original's; "
            "1 takes every layer that gains"
        )
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"seconds (={seconds}) must be above 0; 0.3 is usual")


def _check_forms(threads: int, ratio: int, cheap_kernel_size: int) -> None:
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads (={threads!r}) must be an integer >= 1")
    if isinstance(ratio, bool) or not isinstance(ratio, int) or ratio < 2:
        raise InputError(f"ratio (={ratio!r}) must be an integer >= 2; 1 is the plain convolution itself")
    check_cheap_kernel_size(cheap_kernel_size)


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


def _cost_of(name: str, cost: Cost) -> float:
    if cost is None:
        return 1.0
    if callable(cost):
        value = cost(name)
    elif name in cost:
        value = cost[name]
    else:
        raise InputError(f"cost has no entry for layer {name}; give one for each candidate, or a function")
    if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
        raise InputError(f"the cost of layer {name} (={value!r}) must be a finite number >= 0")
    return float(value)


def _gain(timed: tuple[Timing, Timing] | str) -> float:
    """Return milliseconds that the ghosted form saves; 0 where it does not."""
    if isinstance(timed, str):
        return 0.0
    dense, ghost = timed[0].median_ms, timed[1].median_ms
    return dense - ghost if ghost <= (1 - LEAST_GAIN) * dense else 0.0


def _best_first(timed: Mapping[str, tuple[Timing, Timing] | str], costs: Mapping[str, float]) -> list[str]:
    """Return the layers that gain, by milliseconds for a unit of cost."""
    gains = {name: _gain(found) for name, found in timed.items()}
    worth = {name: gain / max(costs[name], 1e-9) for name, gain in gains.items() if gain > 0}
    return sorted(worth, key=lambda name: -worth[name])


class _Whole:
    """Times whole Ghost networks against the original."""

    def __init__(
        self,
        model: nn.Module,
        make: Callable[[list[str]], nn.Module],
        setting: Setting,
        input_size: tuple[int, ...],
    ) -> None:
        self._model, self._make, self._setting, self._size = model, make, setting, input_size
        self.attempts: list[dict[str, Any]] = []
        self.dense_ms = 0.0

    def ratio(self, names: list[str]) -> float:
        """Return time of the network with these layers ghosted over that of the original."""
        layers = "1 layer" if len(names) == 1 else f"{len(names)} layers"
        self._setting.announce(f"ghosting {layers}")
        network = self._make(names)
        dense = self._setting.session("the network", f"{self._size} {self._model}", self._model, self._size)
        ghost = self._setting.session(
            f"the network with {layers} ghosted", f"{self._size} {network}", network, self._size
        )
        found = self._setting.times({"dense": dense, "ghost": ghost}, self._size, 4 * self._setting.seconds)
        self.dense_ms = found["dense"].median_ms
        ratio = found["ghost"].median_ms / self.dense_ms
        self.attempts.append(
            {
                "layers": len(names),
                "dense_ms": self.dense_ms,
                "ghost_ms": found["ghost"].median_ms,
                "ratio": ratio,
            }
        )
        self._setting.announce(f"{layers} ghosted: whole network at {ratio:.3f} of the time")
        return ratio


def _search(
    order: list[str], timed: Mapping[str, tuple[Timing, Timing] | str], whole: _Whole, budget: float
) -> tuple[list[str], float]:
    """Return the layers to ghost and the time ratio that was measured with them."""
    gains = [_gain(timed[name]) for name in order]
    measured: dict[int, float] = {}
    take = len(order)
    while take and len(measured) < _ATTEMPTS and take not in measured:
        measured[take] = whole.ratio(order[:take])
        if min(measured.values()) > 1 - WORTH:
            take //= 2  # the worst of those that gain alone do not gain in company
        elif budget < 1:
            take = _next_take(measured, gains, budget)
        else:
            take = _above_the_best(measured)
    good = {count: ratio for count, ratio in measured.items() if ratio <= 1 - WORTH}
    if not good:
        return [], 1.0
    meeting = [count for count, ratio in good.items() if ratio <= budget < 1]
    count = min(meeting) if meeting else min(good, key=lambda key: good[key])
    return order[:count], measured[count]


def _above_the_best(measured: Mapping[int, float]) -> int:
    """Return how many layers to try next: halfway from the number that was fastest to the next larger one measured.

    That larger number itself, or the best, where nothing lies between.
    """
    best = min(measured, key=lambda count: measured[count])
    return (best + min((count for count in measured if count > best), default=best)) // 2


def _next_take(measured: Mapping[int, float], gains: Sequence[float], budget: float) -> int:
    """Return how many layers to try next: between the most that miss the budget and the least that meet it."""
    meeting = [count for count, ratio in measured.items() if ratio <= budget]
    if not meeting:
        return max(measured)  # even all of them miss it
    high = min(meeting)
    low = max((count for count in measured if count < high), default=0)
    if high - low <= 1:
        return high
    # the gains of the layers, scaled to what the whole network gained with `high` of them
    total = sum(gains[:high])
    wanted = total * (1 - budget) / (1 - measured[high])
    guess = next(count for count in range(1, high + 1) if sum(gains[:count]) >= min(wanted, total))
    return min(max(guess, low + 1), high - 1)


def _ghosted(
    model: nn.Module, sites: Sequence[Site], names: Sequence[str], ratio: int, cheap_kernel_size: int
) -> nn.Module:
    network = copy_model(model).eval().cpu()
    for site in sites:
        if site.name in names:
            replace_module_(network, site.name, site.ghost(ratio, cheap_kernel_size))
    return network


def _row(
    site: Site,
    timed: tuple[Timing, Timing] | str,
    cost: float,
    chosen: bool,
    form: tuple[int, int],
    passed_over: str,
) -> PlannedLayer:
    if isinstance(timed, str):
        return PlannedLayer(site.name, site.shape(), site.macs(), None, None, None, cost, False, timed)
    dense, ghost = timed[0].median_ms, timed[1].median_ms
    reason = "gains"
    if not chosen:
        reason = "slower as a Ghost convolution" if ghost > dense else "gains too little"
        if _gain(timed) > 0:
            reason = passed_over
    macs = site.macs()
    return PlannedLayer(
        site.name, site.shape(), macs, site.ghost_macs(*form) / macs, dense, ghost, cost, chosen, reason
    )
