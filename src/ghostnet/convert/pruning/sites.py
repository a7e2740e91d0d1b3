"""Where a network can lose channels: convolutions whose maps reach one other layer and nothing else.

In a residual network these are the inner layers of the blocks, as in the papers of the methods here; the residual
streams keep their width. Squeeze-excite on the way loses the same channels. Left out: coupled groups (all layers that
write into one stream pruned together).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ghostnet.convert.aliases import held_elsewhere
from ghostnet.convert.graph import HELD, ConvUnit, trace_graphs
from ghostnet.convert.order import find_readers
from ghostnet.errors import InputError
from ghostnet.nn.edits import replace_module_
from ghostnet.nn.narrow import narrowed, sizes


@dataclass(frozen=True)
class PruneSite:
    """A convolution that can lose output channels.

    Args:
        name: its path.
        channels: how many it has.
        norm: path of the batch norm that alone reads it, or None.
        followers: norms and depthwise convolutions that carry the same channels.
        reader: path of the one convolution or linear layer that mixes them.
        gates: convolutions that make a factor for each of the channels, as the second one of squeeze-excite.
        squeezes: convolutions that mix the channels for such factors alone, as its first one.
        reader_unit: what `observe` needs to know of the reader.
    """

    name: str
    channels: int
    norm: str | None
    followers: tuple[str, ...]
    reader: str
    reader_unit: ConvUnit
    gates: tuple[str, ...] = ()
    squeezes: tuple[str, ...] = ()

    def reader_inputs(self, model: nn.Module, kept: Tensor) -> Tensor:
        """Return the reader's inputs that kept channels feed; behind a flattening a channel is several features."""
        each = sizes(model.get_submodule(self.reader))[0] // self.channels
        return (kept[:, None] * each + torch.arange(each)).flatten()


def find_sites(
    model: nn.Module, units: list[ConvUnit], example_input: Tensor | None = None
) -> tuple[list[PruneSite], dict[str, str]]:
    """Find the prunable convolutions.

    Args:
        model: the network.
        units: from `find_units`.
        example_input: `(N, C, H, W)`, for networks that `torch.fx` cannot trace.

    Returns:
        The sites in the execution order of their readers; for every other convolution the reason why it keeps its
        width.

    Raises:
        InputError: the network cannot be traced in both modes, or nothing in it can be pruned.
    """
    graphs = trace_graphs(model, example_input)
    if len(graphs) < 2:
        raise InputError(
            f"this {type(model).__name__} cannot be traced{_without(example_input)}, and pruning must know what reads "
            "each channel; use method 'ghost', which needs no trace"
        )
    by_name = {unit.name: unit for unit in units}
    sites, reasons = [], {}
    held = held_elsewhere(model)
    for unit in units:
        found = _site(model, graphs, unit, by_name)
        if isinstance(found, PruneSite):
            stays = sorted(held & {found.name, found.reader, *found.followers, *found.gates, *found.squeezes})
            found = f"{stays[0]} would change with it, and is {HELD}" if stays else found
        if isinstance(found, PruneSite):
            sites.append(found)
        else:
            reasons[unit.name] = found
    sites = _choosing(sites)
    reasons |= {
        gate: f"it scales the channels of {site.name}, and loses them with it"
        for site in sites
        for gate in site.gates
    }
    order = {unit.name: place for place, unit in enumerate(units)}
    sites.sort(key=lambda site: order.get(site.reader, len(order)))  # a reader is repaired on what reaches it
    if not sites:
        first = next(iter(reasons.items()), ("it has", "no convolution"))
        raise InputError(f"nothing in this {type(model).__name__} can be pruned ({first[0]}: {first[1]})")
    return sites, reasons


def _without(example_input: Tensor | None) -> str:
    return " without an example_input" if example_input is None else ", in training and evaluation"


def _choosing(sites: list[PruneSite]) -> list[PruneSite]:
    """Return the sites that choose channels: of a product of two convolutions, each of which scales the other, one."""
    scaling: set[str] = set()
    found = []
    for site in sites:
        if site.name not in scaling:
            scaling |= {*site.gates}
            found.append(site)
    return found


def _site(model: nn.Module, graphs: list, unit: ConvUnit, by_name: dict[str, ConvUnit]) -> PruneSite | str:
    if unit.reason is not None:
        return unit.reason
    convolution = model.get_submodule(unit.name)
    if type(convolution) is not nn.Conv2d or convolution.groups != 1:
        return "a grouped convolution: it keeps the channels that it is given"
    readers = find_readers(model, graphs, unit.name, through_depthwise=True)
    mixing = [] if readers is None else sorted((readers.convolutions | readers.linears) - readers.squeezes)
    if readers is None or not mixing:
        return (
            "its channels meet others (addition, concatenation), leave the network or reach a layer that is not "
            "known to keep them apart"
        )
    if len(mixing) > 1:
        return f"{len(mixing)} layers read it"
    reader = model.get_submodule(mixing[0])
    if type(reader) not in (nn.Conv2d, nn.Linear):
        return f"a {type(reader).__name__} reads it"
    if mixing[0] in by_name and by_name[mixing[0]].reason is not None:
        return f"its reader must be left alone: {by_name[mixing[0]].reason}"
    beside = readers.gates | readers.squeezes
    left_alone = next(
        (path for path in sorted(beside) if path in by_name and by_name[path].reason is not None), None
    )
    if left_alone is not None:
        return f"its squeeze-excite must be left alone: {by_name[left_alone].reason}"
    plain = ConvUnit(mixing[0], None, None, 1, False, False, False, None)
    return PruneSite(
        unit.name,
        convolution.out_channels,
        unit.norm,
        tuple(sorted(readers.norms | readers.depthwise)),
        mixing[0],
        by_name.get(mixing[0], plain),
        tuple(sorted(readers.gates)),
        tuple(sorted(readers.squeezes)),
    )


def narrow_(model: nn.Module, sites: list[PruneSite], kept: dict[str, Tensor]) -> list[dict]:
    """Cut the network down to the kept channels, in place, and return the record of it (`nn.edits`).

    Args:
        model: a network of which `sites` were found.
        sites: the places.
        kept: sorted int64 indices for each site's name; a site without them keeps all.
    """
    outputs: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}
    for site in sites:
        chosen = kept.get(site.name)
        if chosen is None or len(chosen) == site.channels:
            continue
        for path in (site.name, *site.followers, *site.gates):
            outputs[path] = chosen
        inputs |= dict.fromkeys(site.squeezes, chosen)
        inputs[site.reader] = site.reader_inputs(model, chosen)
    edits = []
    for path in [name for name, _ in model.named_modules() if name in outputs or name in inputs]:
        module = narrowed(model.get_submodule(path), inputs.get(path), outputs.get(path))
        replace_module_(model, path, module)
        in_channels, out_channels = sizes(module)
        config = {"in_channels": in_channels, "out_channels": out_channels}
        edits.append({"path": path, "kind": "narrow", "config": config})
    return edits
