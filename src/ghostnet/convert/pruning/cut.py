"""A network without the channels that a method has chosen: `silence_`, then `cut_`; `narrow_` does not compare."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ghostnet.convert.pruning.sites import PruneSite
from ghostnet.errors import InputError
from ghostnet.nn.answers import agree_on_any, answers_to, probes
from ghostnet.nn.edits import replace_module_
from ghostnet.nn.narrow import by_outputs, narrowed, sizes


@torch.no_grad()
def silence_(model: nn.Module, sites: list[PruneSite], kept: dict[str, Tensor]) -> None:
    """Let nothing read the channels that go, in place: what the network computes from now on stays when it is cut.

    Args:
        model: a network of which `sites` were found.
        sites: the places.
        kept: as for `narrow_`.
    """
    for site, stays in _cuts(sites, kept):
        for path, index in site.inputs.items():
            layer = model.get_submodule(path)
            weight = by_outputs(layer.weight, layer)  # type: ignore[arg-type]
            weight[:, ~stays[index].to(weight.device)] = 0


@torch.no_grad()
def cut_(
    model: nn.Module, sites: list[PruneSite], kept: dict[str, Tensor], example: Tensor | None
) -> list[dict]:
    """Cut a network down, in place, and see that it answers what it did before.

    Args:
        model: a network of which `sites` were found, after `silence_`.
        sites: the places.
        kept: as for `narrow_`.
        example: `(N, C, H, W)`; without it nothing is compared.

    Returns:
        The record of it, as from `narrow_`.

    Raises:
        InputError: it does not: the network's code depends on numbers of channels in a way that its graph does not
            show.
    """
    if example is None:
        return narrow_(model, sites, kept)
    images = probes(example)
    expected = answers_to(model, images)
    edits = narrow_(model, sites, kept)
    try:
        found = answers_to(model, images)
    except Exception as error:  # it is the user's code that runs
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{_refused(model)}: with fewer channels it does not run ({what})") from error
    if not agree_on_any(expected, found, example.dtype):
        raise InputError(f"{_refused(model)}: with fewer channels it computes something else")
    return edits


def _refused(model: nn.Module) -> str:
    return f"this {type(model).__name__} cannot be pruned, since its code depends on numbers of channels"


def _cuts(sites: list[PruneSite], kept: dict[str, Tensor]) -> Iterator[tuple[PruneSite, Tensor]]:
    """Yield the sites that lose channels, and which stay; the last entry is for channels of other sites."""
    for site in sites:
        chosen = kept.get(site.name)
        if chosen is not None and len(chosen) < site.channels:
            stays = torch.zeros(site.channels + 1, dtype=torch.bool)
            stays[chosen], stays[-1] = True, True
            yield site, stays


def narrow_(model: nn.Module, sites: list[PruneSite], kept: dict[str, Tensor]) -> list[dict]:
    """Cut the network down to the kept channels, in place, and return the record of it (`nn.edits`).

    Args:
        model: a network of which `sites` were found.
        sites: the places.
        kept: sorted int64 indices for each site's name; a site without them keeps all.
    """
    outputs: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}
    for site, stays in _cuts(sites, kept):
        for places, found in ((site.outputs, outputs), (site.followers, outputs), (site.inputs, inputs)):
            for path, index in places.items():
                found[path] = stays[index] & found.get(path, torch.tensor(True))
    edits = []
    for path in [name for name, _ in model.named_modules() if name in outputs or name in inputs]:
        read, made = (
            found[path].nonzero().flatten() if path in found else None for found in (inputs, outputs)
        )
        module = narrowed(model.get_submodule(path), read, made)
        replace_module_(model, path, module)
        in_channels, out_channels = sizes(module)
        config = {"in_channels": in_channels, "out_channels": out_channels}
        edits.append({"path": path, "kind": "narrow", "config": config})
    return edits
