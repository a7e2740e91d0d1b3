"""One order of channels for each residual stream: `put_in_one_order`.

Matching gives every Ghost convolution an order of its own. Where the maps of several are added, that order can be
absorbed nowhere: each layer then gathers its channels in front of the sum, which takes a runtime as long as what
ghosting saved. Here the layers of a stream get the same primary and ghost channels, by what each pair costs in all of
them together, and the dense network is put in that order, exactly, before it is converted. Where a shortcut pads a
stream with channels of zeros, as in CIFAR-10's ResNets, a placement takes its part, and each stage has an order of its
own. Left out: halves of a `chunk` and whatever else reads channels by their place; such streams stay as they are.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor, nn

from ghostnet.convert import fit
from ghostnet.convert.graph import ConvUnit, trace_graphs
from ghostnet.convert.layer_fit import ghost_sources, importance
from ghostnet.convert.matching import match
from ghostnet.convert.moments import map_windows, white_map_windows
from ghostnet.convert.observe import Observer, observe
from ghostnet.convert.pruning.sites import PruneSite, sites_of
from ghostnet.convert.shortcuts import find_padded_shortcuts, with_placements
from ghostnet.errors import InputError
from ghostnet.modes import evaluating
from ghostnet.nn import ChannelPlacement, GhostConv2d
from ghostnet.nn.answers import agree_on_any, answers_to, probes
from ghostnet.nn.narrow import by_outputs, channels_together
from ghostnet.progress import Progress


def find_streams(
    model: nn.Module, units: list[ConvUnit], example_input: Tensor | None = None, *, asked: bool = True
) -> list[PruneSite]:
    """Find the streams that several layers write, as they are where padded shortcuts are placements.

    Args:
        model: the dense network.
        units: from `find_units`.
        example_input: `(N, C, H, W)`, for networks that `torch.fx` cannot trace.
        asked: whether a network that cannot be traced is an error; else it has no such stream.

    Raises:
        InputError: the network cannot be traced in both modes.
    """
    return _streams_and_shortcuts(model, units, example_input, asked=asked)[0]


def _streams_and_shortcuts(
    model: nn.Module, units: list[ConvUnit], example_input: Tensor | None, *, asked: bool
) -> tuple[list[PruneSite], dict[str, ChannelPlacement]]:
    """Return the streams, and the placements with which they are there."""
    shortcuts = find_padded_shortcuts(model, example_input)
    placed = with_placements(model, shortcuts)
    graphs = trace_graphs(placed, example_input)
    if len(graphs) < 2:
        if not asked:
            return [], {}
        raise InputError(
            f"this {type(model).__name__} cannot be traced, and one order for a stream must know what reads it; leave "
            "out `streams`"
        )
    sites, _ = sites_of(placed, units, graphs, streams=True)
    return [site for site in sites if len(site.writers) > 1], shortcuts


def orderable(streams: Iterable[PruneSite], chosen: Collection[str]) -> list[PruneSite]:
    """Return the streams whose channels can be put in one order, for layers that are to be converted.

    Args:
        streams: from `find_streams`.
        chosen: names of the convolutions that are to be converted.
    """
    return [site for site in streams if _converted_writers(site, chosen) and _can_be_ordered(site, chosen)]


def _converted_writers(site: PruneSite, chosen: Collection[str]) -> list[str]:
    return [path for path in site.writers if path in chosen]


def _can_be_ordered(site: PruneSite, chosen: Collection[str]) -> bool:
    """Tell whether every layer makes each channel once, in one order, and keeps them apart where it says so."""
    whole = torch.arange(site.channels)
    apart = not any(path in chosen for path in site.followers)
    return apart and all(torch.equal(index, whole) for index in site.outputs.values())


@torch.no_grad()
def put_in_one_order(
    model: nn.Module,
    ghost_model: nn.Module,
    units: list[ConvUnit],
    chosen: Collection[str],
    batches: Sequence[Tensor] | None,
    example: Tensor | None,
    *,
    asked: bool = True,
    progress: bool = False,
) -> tuple[nn.Module, frozenset[str]]:
    """Put the channels of streams in the order in which Ghost convolutions make them best.

    Args:
        model: the dense network; it is untouched.
        ghost_model: a copy in which the chosen convolutions are Ghost convolutions, of any weights.
        units: from `find_units`, in execution order.
        chosen: names of the convolutions that are converted.
        batches: images `(N, C, H, W)`, on the network's device; None compares filters.
        example: one image; without it the reordered network is not compared with the old one.
        asked: whether it is an error where that cannot be done; else the network stays as it is.
        progress: show a bar on standard error.

    Returns:
        A network of the same function, and the names of the layers of which the first channels are to be the primary
        ones, and the others the ghosts in turn.

    Raises:
        InputError: the network cannot be traced, or its code goes by the places of channels.
    """
    streams, shortcuts = _streams_and_shortcuts(model, units, example, asked=asked)
    sites = orderable(streams, chosen)
    if not sites:
        return model, frozenset()
    costs = _costs(model, ghost_model, units, sites, chosen, batches, progress=progress)
    moved = {path for site in sites for path in (*site.outputs, *site.inputs)}
    ordered = with_placements(model, {path: shortcuts[path] for path in shortcuts.keys() & moved})
    for site in sites:
        order = _order(ghost_model, _converted_writers(site, chosen), costs[site.name])
        for path, index in {**site.outputs, **site.followers}.items():
            _take_(ordered.get_submodule(path), _moved(index, order), None)
        for path, index in site.inputs.items():
            _take_(ordered.get_submodule(path), None, _moved(index, order))
    if example is not None and not _same(model, ordered, example):
        if not asked:
            return model, frozenset()
        raise InputError(
            f"this {type(model).__name__} computes something else with its channels in another order; leave out "
            "`streams`"
        )
    return ordered, frozenset(path for site in sites for path in _converted_writers(site, chosen))


def _costs(
    model: nn.Module,
    ghost_model: nn.Module,
    units: list[ConvUnit],
    sites: list[PruneSite],
    chosen: Collection[str],
    batches: Sequence[Tensor] | None,
    *,
    progress: bool,
) -> dict[str, Tensor]:
    """Return for each stream the summed error of each channel as a ghost of each other, `(n, n)`."""
    stream = {path: site.name for site in sites for path in _converted_writers(site, chosen)}
    found: dict[str, Tensor] = {}
    with (
        evaluating(model),
        Progress("streams", total=len(stream), unit="layers", enabled=progress) as bar,
    ):
        source = None if batches is None else observe(model, model, batches)
        for unit in units:
            if unit.name in stream:
                cost = _cost_of_pairs(model, ghost_model, unit, source)
                name = stream[unit.name]
                found[name] = found[name] + cost if name in found else cost
                bar.update(1, unit.name)
    return found


def _cost_of_pairs(
    model: nn.Module, ghost_model: nn.Module, unit: ConvUnit, source: Observer | None
) -> Tensor:
    convolution, ghost = model.get_submodule(unit.name), ghost_model.get_submodule(unit.name)
    assert isinstance(convolution, nn.Conv2d)  # units that were replaced
    assert isinstance(ghost, GhostConv2d)
    convolution = copy.deepcopy(convolution).cpu()  # as the fits do, wherever the network lies
    seen = None if source is None else source.pairs(unit)
    pairs = None if seen is None else [(inputs.cpu(), wanted.cpu()) for inputs, wanted in seen]
    size, filters = ghost.cheap_kernel_size, convolution.weight.detach().flatten(1)
    norm = None if unit.norm is None else model.get_submodule(unit.norm)
    maps = (
        white_map_windows(convolution, size)
        if pairs is None
        else map_windows(pairs, convolution, filters, size, centred=norm is not None)
    )
    return fit.fit_errors(maps.target_power, maps.windows, maps.against) * importance(norm, maps.target_power)


def _order(ghost_model: nn.Module, writers: list[str], costs: Tensor) -> Tensor:
    """Return the channels in the order in which most of the writers make them: primary ones, then ghosts."""
    ghosts = [ghost_model.get_submodule(path) for path in writers]
    (ratio, _), *_ = Counter(ghost.ratio for ghost in ghosts).most_common(1)
    usual = next(ghost for ghost in ghosts if ghost.ratio == ratio)
    assert isinstance(usual, GhostConv2d)
    return torch.cat(match(costs, torch.zeros(len(costs)), ghost_sources(usual)))


def _moved(index: Tensor, order: Tensor) -> Tensor:
    """Return which old channel of a layer each new one is.

    Args:
        index: which of the stream's channels each of the layer's is; -1 for others, which stay.
        order: new channel k of the stream is old channel `order[k]`; a layer with several features of each channel
            keeps them in their turn.
    """
    places: dict[tuple[int, int], int] = {}
    seen: Counter[int] = Counter()
    turns = []
    for place, channel in enumerate(index.tolist()):
        places[channel, seen[channel]] = place
        turns.append(seen[channel])
        seen[channel] += 1
    wanted = order.tolist()
    return torch.tensor(
        [
            place if channel < 0 else places[wanted[channel], turn]
            for place, (channel, turn) in enumerate(zip(index.tolist(), turns, strict=True))
        ]
    )


def _take_(module: nn.Module, outputs: Tensor | None, inputs: Tensor | None) -> None:
    """Reorder what a layer makes, or what it reads, in place."""
    apart = channels_together(module) is not None
    for value in [*module.parameters(), *module.buffers()]:
        if not value.ndim:
            continue
        weight = by_outputs(value.detach(), module)
        if outputs is not None:
            weight.copy_(weight[outputs.to(weight.device)])
        elif inputs is not None and weight.ndim > 1 and not apart:
            weight.copy_(weight[:, inputs.to(weight.device)])


def _same(model: nn.Module, ordered: nn.Module, example: Tensor) -> bool:
    images = probes(example)
    return agree_on_any(answers_to(model, images), answers_to(ordered, images), example.dtype)
