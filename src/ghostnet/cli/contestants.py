"""What `ghostnet bench` is given: exported files, saved networks, names of the zoo, of timm and of torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostnet.cli.exported import refuse_detector
from ghostnet.cli.network import (
    IMAGENET_SIZE,
    holds_weights,
    input_size_of,
    is_exported,
    open_network,
    outside_name,
    parse_size,
)
from ghostnet.errors import InputError, first_line, unknown_name

if TYPE_CHECKING:
    from torch import nn

FORMS = ("plain", "optimized")


def open_contestants(
    names: Sequence[str], weights: Sequence[str], input_size: str | None
) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """Return what `deploy.benchmark` takes, by the names that were given, and the input size that all share.

    Args:
        names: see the command's help; "@plain" or "@optimized" behind a network chooses its form.
        weights: "NAME=TAG or FILE" for names of the zoo.
        input_size: "3,224,224", or None for what the networks were made for.

    Raises:
        InputError: an unknown name, a missing file, weights for no network, or sizes that differ.
    """
    chosen = _weights(weights, names)
    size = parse_size(input_size) if input_size is not None else None
    found: dict[str, Any] = {}
    for name in names:
        if is_exported(name):
            refuse_detector(name)
            found[name], own = Path(name), size or _size_of_file(name)
        else:
            network, form = _network_and_form(name)
            model, trained = _open(network, chosen.get(network))
            own = input_size_of(model, input_size)
            found[name] = _candidate(network, model, form, own, trained=trained)
        if size is not None and own != size:
            raise InputError(f"{name} takes {own}, another network {size}; give one --input-size for all")
        size = own
    return found, size or IMAGENET_SIZE


def _weights(given: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    networks = {_network_and_form(name)[0] for name in names if not is_exported(name)}
    chosen = {}
    for text in given:
        network, equals, source = text.partition("=")
        named = [name for name in networks if text.startswith(f"{name}=")]
        if named:  # arguments of one's own code may hold a "=", too
            network = max(named, key=len)
            source = text[len(network) + 1 :]
        if not equals or not source:
            raise InputError(
                f"--weights (={text}) must be NAME=TAG or NAME=FILE, NAME being a network that is timed"
            )
        if network not in networks:
            raise unknown_name("network in --weights", network, networks)
        chosen[network] = source
    return chosen


def _network_and_form(name: str) -> tuple[str, str]:
    """Return the network and "plain" or "optimized"; peers are plain unless the name says otherwise."""
    network, at, form = name.rpartition("@")
    if not at or (form not in FORMS and ("/" in form or Path(name).is_file())):  # the "@" is part of a path
        outside = outside_name(name)
        peer = outside is not None and outside.library is not None
        network, form = name, "plain" if peer else "optimized"
    if form not in FORMS:
        raise unknown_name("form", form, FORMS)
    return network, form


def _open(network: str, weights: str | None) -> tuple[nn.Module, bool]:
    """Return a network and whether it has weights that mean something."""
    model = open_network(network, weights)
    outside = outside_name(network)
    if outside is not None:
        return model, weights is not None or outside.weights is not None
    return model, holds_weights(network) or _has_weights(network, weights)


def _has_weights(name: str, weights: str | None) -> bool:
    from ghostnet import models

    return weights is not None or models.default_tag(name) is not None


def _candidate(
    network: str, model: nn.Module, form: str, size: tuple[int, int, int], *, trained: bool
) -> Any:
    from ghostnet import deploy

    if not trained:
        try:
            deploy.randomise_statistics_(model, size)
        except Exception as error:  # the network's code may raise anything
            reason = first_line(error)
            raise InputError(
                f"{network} does not run with input size {size}: {reason}; change --input-size"
            ) from error
    return deploy.Candidate(model, optimized=form == "optimized")


def _size_of_file(path: str) -> tuple[int, int, int]:
    """Return the input size that an exported file states."""
    from ghostnet import deploy

    size = deploy.load(path).input_size
    if len(size) != 3 or not all(isinstance(number, int) for number in size):
        raise InputError(f"{path} leaves its input size open; give --input-size")
    return size[0], size[1], size[2]
