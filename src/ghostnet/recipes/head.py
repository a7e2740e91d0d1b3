"""A classifier of another number of classes on a network that keeps the rest of its weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ghostnet.errors import InputError, first_line
from ghostnet.modes import evaluating

Classifier = nn.Linear | nn.Conv2d


def output_count(model: nn.Module) -> int:
    """Return how many classes a network tells apart.

    Raises:
        InputError: no linear layer or convolution ends it.
    """
    return _width(_classifier(model)[1])


def count_outputs(model: nn.Module, side: int, name: str) -> int:
    """Return how many numbers a network gives for an image, whatever ends it; the network runs once.

    Args:
        model: runs in evaluation mode.
        side: of the image, in pixels.
        name: what to call the network in messages.

    Raises:
        InputError: it does not run on such images, or is no classifier.
    """
    try:
        with torch.no_grad(), evaluating(model):
            scores = model(torch.zeros(1, 3, side, side))
    except Exception as error:  # the network's code may raise anything
        raise InputError(
            f"{name} does not run on images of {side}x{side} (set image_size=…): {first_line(error)}"
        ) from error
    if not isinstance(scores, torch.Tensor) or scores.ndim != 2:
        raise InputError(
            f"{name} is no classifier: it gives something else than one row of scores for an image"
        )
    return scores.shape[1]


def give_fresh_head_(model: nn.Module, classes: int, *, seed: int = 0) -> None:
    """Replace the last linear layer (or 1x1 convolution) by one of `classes` outputs, drawn anew.

    Args:
        model: changed in place; its origin says the new number of classes, so that it can be saved and loaded.
        classes: number of classes.
        seed: of the new weights.

    Raises:
        InputError: no such layer ends the network, or its class count cannot be kept in a file.

    Example:
        >>> give_fresh_head_(model, 5)  # doctest: +SKIP
    """
    name, old = _classifier(model)
    parent, _, attribute = name.rpartition(".")
    new = copy.deepcopy(old)  # of its very class: timm has a linear layer of its own
    if isinstance(new, nn.Linear):
        new.out_features = classes
    else:
        new.out_channels = classes
    new.weight = nn.Parameter(old.weight.new_empty(classes, *old.weight.shape[1:]))
    new.bias = None if old.bias is None else nn.Parameter(old.bias.new_empty(classes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new.reset_parameters()
    setattr(model.get_submodule(parent), attribute, new)
    origin = getattr(model, "ghostnet_origin", None)
    if isinstance(origin, dict):
        model.ghostnet_origin = {**origin, "args": {**origin["args"], "num_classes": classes}}  # type: ignore[assignment]


def _classifier(model: nn.Module) -> tuple[str, Classifier]:
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, Classifier)]
    if layers:
        name, layer = layers[-1]
        if isinstance(layer, nn.Linear) or layer.kernel_size == (1, 1):
            return name, layer
    raise InputError(
        "the network ends in no linear layer or 1x1 convolution, so its classes cannot be replaced"
    )


def _width(layer: Classifier) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
