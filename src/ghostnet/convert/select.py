"""Which convolutions to convert: the `layers` argument of `ghostify`, and why each of the others is kept.

Left out: choosing by measured latency or accuracy; this file knows channels and MACs only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import nn

from ghostnet.checks import check_integer, is_number
from ghostnet.convert.graph import ConvUnit
from ghostnet.errors import InputError, unknown_name


@dataclass(frozen=True)
class Layers:
    """A selection of convolutions by name and kind.

    Args:
        include: names or patterns (`layer1.*`) to convert; None means every convolution.
        exclude: names or patterns to keep, stronger than `include`.
        first: convert the first convolution too (the paper keeps the stem of ResNet-50).
        pointwise: convert 1x1 convolutions.
        depthwise: convert depthwise convolutions, where that saves anything.
        one_pixel: convert 1x1 convolutions of one pixel, as in squeeze-excitation, where the size of maps is known.
        last: convert convolutions that make what the network answers, such as scores of classes for each pixel, where
            half of the classes' scores are then made of the other half's.

    Example:
        >>> Layers(exclude=["*.downsample.*"], pointwise=False).pointwise
        False
    """

    include: Iterable[str] | None = None
    exclude: Iterable[str] = ()
    first: bool = False
    pointwise: bool = True
    depthwise: bool = False
    one_pixel: bool = False
    last: bool = True


_EVERYTHING = Layers(first=True, depthwise=True, one_pixel=True)
LayerSelection = Layers | str | Iterable[str] | Callable[[str, nn.Module], bool] | None
Ratio = int | Mapping[str, int]


def check_ratio(ratio: object) -> int:
    """Return `ratio` if it is an integer of at least 1.

    Raises:
        InputError: it is anything else, a bool or 2.5 for instance.
    """
    return check_integer("`ratio`", ratio, ending="; use 1 to keep plain convolutions")


def check_macs_share(macs: object) -> None:
    """Raise unless `macs` is a share of a network's MACs that leaves some and saves some.

    Raises:
        InputError: it is no number above 0 and below 1.
    """
    if not is_number(macs) or not 0 < macs < 1:
        raise InputError(f"`macs` (={macs!r}) must be a share of the network's MACs above 0 and below 1")


def ratio_of_each(ratio: object, names: list[str]) -> dict[str, int]:
    """Return the ratio of every convolution: one for all, or what a mapping of names or patterns says of each.

    Args:
        ratio: an integer, or `{name or pattern: integer}`, of which the last that matches counts; convolutions
            without a match keep 1, which leaves them plain.
        names: of the network's convolutions.

    Raises:
        InputError: a ratio that is no integer >= 1, a name that matches nothing, or an empty mapping.

    Example:
        >>> ratio_of_each({"layer*": 2, "layer2": 4}, ["stem", "layer1", "layer2"])
        {'stem': 1, 'layer1': 2, 'layer2': 4}
    """
    if not isinstance(ratio, Mapping):
        return dict.fromkeys(names, check_ratio(ratio))
    if not ratio:
        raise InputError("`ratio` is an empty mapping; give an integer, or a ratio for some layer")
    each = dict.fromkeys(names, 1)
    for pattern, value in ratio.items():
        each.update(dict.fromkeys(_expand([pattern], names), check_ratio(value)))
    return each


def check_cheap_kernel_size(cheap_kernel_size: object) -> int:
    """Return `cheap_kernel_size` if it is an odd integer of at least 1.

    Raises:
        InputError: it is anything else; an even kernel cannot keep the maps where they are.
    """
    ending = "; the paper uses 1, 3, 5 or 7"
    return check_integer("`cheap_kernel_size`", cheap_kernel_size, odd=True, ending=ending)


def select_layers(
    model: nn.Module, units: list[ConvUnit], layers: LayerSelection, *, ratio: Ratio, cheap_kernel_size: int
) -> dict[str, str | None]:
    """Decide for every unit whether it is converted.

    Args:
        model: the network that `units` came from.
        units: from `convert.graph.find_units`.
        layers: None (the default `Layers()`), "all" (the first convolution and depthwise ones too), a list of
            names or patterns, a predicate `(name, convolution) -> bool`, or a `Layers`. With ratios by name, None
            means those names.
        ratio: s of Eq. 2, or `{name or pattern: s}`.
        cheap_kernel_size: d of section 3.1.

    Returns:
        For each unit's name None if it is converted, else the reason why it is kept.

    Raises:
        InputError: a name or pattern matches nothing, or `ratio` exceeds the channels of all selected layers.
    """
    each = ratio_of_each(ratio, [unit.name for unit in units])
    unnamed = "not among the selected layers"
    if layers is None and isinstance(ratio, Mapping):
        layers, unnamed = list(ratio), "no ratio is given for it"
    asked = _asked_for(model, units, layers, unnamed)
    reasons: dict[str, str | None] = {}
    too_few: list[int] = []
    fits = 0
    for unit in units:
        reason = unit.reason or asked(unit)
        if reason is None:
            convolution = model.get_submodule(unit.name)
            out_channels = int(getattr(convolution, "out_channels", 0))
            if out_channels < each[unit.name]:
                too_few.append(out_channels)
            else:
                fits += 1
            reason = _reason_of_size(convolution, each[unit.name], cheap_kernel_size)
        reasons[unit.name] = reason
    if too_few and not fits:
        raise InputError(
            f"`ratio` (={ratio}) is larger than the channels of every selected layer "
            f"(at most {max(too_few)}); use a ratio of at most {max(too_few)}"
        )
    return reasons


def _asked_for(
    model: nn.Module, units: list[ConvUnit], layers: LayerSelection, unnamed: str
) -> Callable[[ConvUnit], str | None]:
    """Turn any form of `layers` into a function that gives the reason for not selecting a unit.

    Args:
        model: the network.
        units: its convolutions.
        layers: as `select_layers` takes them.
        unnamed: the reason where names are given, and not this one.
    """
    names = [unit.name for unit in units]
    if layers is None:
        layers = Layers()
    if isinstance(layers, str):
        layers = _EVERYTHING if layers == "all" else [layers]
    if isinstance(layers, Layers):
        return _by_kind(layers, names, unnamed)
    if callable(layers):
        predicate = layers
        return lambda unit: (
            None if predicate(unit.name, model.get_submodule(unit.name)) else "the predicate says no"
        )
    try:
        patterns = list(layers)
    except TypeError:
        raise InputError(
            f"`layers` (={layers!r}) must be None, 'all', names or patterns, a predicate or a Layers"
        ) from None
    # whoever names a layer means it, the first or a depthwise one included
    return _by_kind(replace(_EVERYTHING, include=patterns), names, unnamed)


def _by_kind(layers: Layers, names: list[str], unnamed: str) -> Callable[[ConvUnit], str | None]:
    included = None if layers.include is None else _expand(layers.include, names)
    excluded = _expand(layers.exclude, names)

    def reason(unit: ConvUnit) -> str | None:
        if unit.name in excluded:
            return "excluded"
        if included is not None and unit.name not in included:
            return unnamed
        if unit.first and not layers.first:
            return "the first convolution, kept unless it is asked for"
        if unit.pointwise and not layers.pointwise:
            return "a 1x1 convolution, deselected"
        if unit.depthwise and not layers.depthwise:
            return "a depthwise convolution, kept unless it is asked for"
        if unit.one_pixel and not layers.one_pixel:
            return "a 1x1 convolution of one pixel, where cheap filters have nothing to work on"
        if unit.last and not layers.last:
            return "it makes what the network answers, deselected"
        return None

    return reason


def _expand(patterns: Iterable[str], names: list[str]) -> set[str]:
    """Return the names that any pattern matches; a pattern without a match is an error."""
    matched: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        hits = [name for name in names if name == pattern or fnmatchcase(name, str(pattern))]
        if not hits:
            raise unknown_name("layer", pattern, names)
        matched.update(hits)
    return matched


def _reason_of_size(convolution: nn.Module, ratio: int, cheap_kernel_size: int) -> str | None:
    if not isinstance(convolution, nn.Conv2d):
        return f"a {type(convolution).__name__}, not a plain nn.Conv2d"
    if ratio == 1:
        return "ratio 1 keeps the plain convolution"
    channels, groups = convolution.out_channels, convolution.groups
    if channels == 1 or channels < ratio:
        return f"{channels} output channel(s) cannot be divided by ratio {ratio}"
    # each group needs the same number of filters, so the primary convolution is rounded up to whole groups
    intrinsic = math.ceil(channels / (ratio * groups)) * groups
    filter_size = convolution.weight[0].numel()
    before = channels * filter_size
    after = intrinsic * filter_size + max(0, channels - intrinsic) * cheap_kernel_size**2
    if intrinsic >= channels or after >= before:
        return f"would not save multiply-accumulates: {before} a position before, {after} after"
    return None
