"""A network without the channels that a method has chosen: `silence_`, then `cut_`; `narrow_` does not compare."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ghostnet.convert.pruning.sites import PruneSite
from ghostnet.errors import InputError
from ghostnet.modes import restored_modes
from ghostnet.nn.answers import agree, same_random_numbers
from ghostnet.nn.edits import replace_module_
from ghostnet.nn.narrow import by_outputs, narrowed, sizes

_TOLERANCE = 1e-3  # of the largest value of an answer, in float32
_TOLERANCE_OF_HALVES = 5e-2


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
    noise = torch.rand(example[:1].shape, generator=torch.Generator().manual_seed(0))
    images = [example[:1], noise.to(example)]
    expected = _answers(model, images)
    edits = narrow_(model, sites, kept)
    try:
        found = _answers(model, images)
    except Exception as error:  # it is the user's code that runs
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{_refused(model)}: with fewer channels it does not run ({what})") from error
    tolerance = _TOLERANCE if example.dtype in (torch.float32, torch.float64) else _TOLERANCE_OF_HALVES
    if not any(agree(one, other, tolerance) for one, other in zip(expected, found, strict=True)):
        raise InputError(f"{_refused(model)}: with fewer channels it computes something else")
    return edits


def _answers(model: nn.Module, images: list[Tensor]) -> list[Any]:
    with restored_modes(model), same_random_numbers(images[0].device):
        model.eval()
        return [model(one.clone()) for one in images]


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
