"""Weights by tag, path, URL or hub name, of any layout that a GhostNet was published in, into a network of the zoo.

A packaged file is `weights/<model>.<tag>.safetensors` beside its model card `weights/<model>.<tag>.md`; the cards of
published ones are in `cards.py`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghostnet.errors import InputError, unknown_name
from ghostnet.image_facts import IMAGE_FACTS
from ghostnet.models.cards import WeightCard, weight_cards
from ghostnet.models.checkpoints import ENDINGS, read_npz, read_state_dict
from ghostnet.models.layouts import from_layout, layout_of
from ghostnet.models.paddle_pickle import read_pdparams
from ghostnet.models.remote import fetch_weights, is_remote
from ghostnet.models.saved import load_state_, read_plain_safetensors, read_saved

_FOLDER = Path(__file__).parent / "weights"
_FILES = (*ENDINGS, ".safetensors", ".npz", ".pdparams")


@dataclass(frozen=True)
class OpenedWeights:
    """Weights as read, before a network is filled with them.

    Attributes:
        name: the network that they were asked for.
        source: what to call them in messages.
        tensors: under the names of their layout.
        rounding: form of GhostNet that they are of, where the file tells.
        info: what the filled network carries as `ghostnet_info`.
    """

    name: str
    source: str
    tensors: dict[str, Tensor]
    rounding: str | None = None
    info: dict[str, Any] = field(default_factory=dict)


def packaged_tags(name: str) -> tuple[str, ...]:
    """Return the tags of the packaged weights of a model, sorted."""
    return tuple(sorted(path.name.split(".")[1] for path in _FOLDER.glob(f"{name}.*.safetensors")))


def packaged_path(name: str, tag: str) -> Path:
    """Return the file of packaged weights.

    Raises:
        InputError: the model has no weights of that tag.
    """
    tags = packaged_tags(name)
    if tag not in tags:
        if not tags:
            raise InputError(
                f"model {name!r} has no packaged weights; `weights` (={tag!r}) may be a file's path"
            )
        raise unknown_name(f"weights of {name!r}", tag, tags)
    return _FOLDER / f"{name}.{tag}.safetensors"


def packaged_network(name: str) -> Path | None:
    """Return the packaged file that "MODEL.TAG" names, None where it names none.

    A file may hold a converted network, which `create_model` cannot build and `load` can.

    Example:
        >>> packaged_network("resnet9_050.cifar10").name
        'resnet9_050.cifar10.safetensors'
    """
    model, dot, tag = name.partition(".")
    return packaged_path(model, tag) if dot and tag in packaged_tags(model) else None


def default_tag(name: str) -> str | None:
    """Return the first tag of a model's packaged weights, or None; networks converted from it do not count."""
    tags = packaged_tags(name)
    return next((tag for tag in tags if not read_saved(packaged_path(name, tag))[0]["edits"]), None)


def open_weights(name: str, weights: str | os.PathLike[str]) -> OpenedWeights:
    """Find, fetch if need be, and read weights.

    Args:
        name: of the zoo.
        weights: as in `create_model`.

    Raises:
        InputError: no such tag or file, or one that cannot be read safely.
        DownloadError: a remote file that cannot be fetched.
    """
    path, card = _find(name, os.fspath(weights))
    info = card.info() if card is not None else {}
    record, tensors = read_weights(path)
    if record is not None:
        if record["edits"]:
            stored = path.name.removesuffix(".safetensors") if path.parent == _FOLDER else str(path)
            raise InputError(
                f"{path} holds a converted network, which needs no name: give {stored!r} itself, in Python "
                f"ghostnet.load({stored!r})"
            )
        origin = record["origin"] or {}
        if origin.get("library") == "ghostnet" and origin["name"] != name:
            raise InputError(f"{path} holds weights of {origin['name']!r}, not of {name!r}; create that one")
        return OpenedWeights(
            name, str(path), tensors, origin.get("args", {}).get("rounding"), record["info"] or info
        )
    layout = layout_of(tensors)
    rounding = {"timm": "torch", "paddle": "paper"}.get(layout or "")
    if layout == "ghostnet":
        rounding = "paper" if "head.1.weight" in tensors else "torch"
    return OpenedWeights(name, str(path), tensors, rounding, info)


def _find(name: str, given: str) -> tuple[Path, WeightCard | None]:
    """Return the local file, and its card where it was asked for by a published tag."""
    if is_remote(given):
        return fetch_weights(given, read=read_weights), None
    if os.sep in given or given.endswith(_FILES) or Path(given).is_file():
        return Path(given), None
    published = {card.tag: card for card in weight_cards(name)}
    tag = given.removeprefix(f"{name}.")
    if tag in published and tag not in packaged_tags(name):
        card = published[tag]
        return fetch_weights(card.source, sha256=card.sha256, git_blob=card.git_blob), card
    if published:
        tags = {*published, *packaged_tags(name)}
        if tag not in tags:
            raise unknown_name(f"weights of {name!r}", given, tags)
    return packaged_path(name, tag), None


def read_weights(path: Path) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """Return the tensors of a file, and its record where `ghostnet.save` wrote it."""
    name = path.name
    if name.endswith(ENDINGS):
        return None, read_state_dict(path)
    if name.endswith(".npz"):
        return None, read_npz(path)
    if name.endswith(".pdparams"):
        return None, read_pdparams(path)
    plain = read_plain_safetensors(path)
    return (None, plain) if plain is not None else read_saved(path)


def fill_(model: nn.Module, opened: OpenedWeights, *, new_head: bool = False) -> None:
    """Fill a network with opened weights, in place.

    Args:
        model: a fresh network of the zoo.
        opened: from `open_weights`.
        new_head: leave the classifier as it is.

    Raises:
        InputError: weights of another network, form, width or number of classes.
    """
    own = model.state_dict()
    layout = layout_of(opened.tensors)
    tensors = opened.tensors
    if layout in ("timm", "paddle") and layout_of(own) == "ghostnet":
        _check_form(own, layout, opened.source)
        tensors = from_layout(tensors, layout, own)
    head = head_name(model)
    if new_head:
        if head is None:
            raise InputError(f"{opened.name!r} has no linear classifier to make anew; leave out new_head")
        kept = {name: value for name, value in own.items() if name.startswith(head + ".")}
        tensors = {**tensors, **kept}
    _check_fit(own, tensors, opened, head)
    load_state_(model, tensors, opened.source)
    model.ghostnet_info = {} if new_head else opened.info  # type: ignore[assignment]
    if new_head:  # the classes are no longer those of the file, how it wants its images still is
        kept_info = {key: opened.info[key] for key in IMAGE_FACTS if key in opened.info}
        model.ghostnet_info = kept_info  # type: ignore[assignment]


def head_name(model: nn.Module) -> str | None:
    """Return the path of the classifier: the last linear layer.

    Example:
        >>> from ghostnet.models import create_model
        >>> head_name(create_model("ghostnet_050"))
        'classifier'
    """
    linear = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None


def _check_form(own: dict[str, Tensor], layout: str, source: str) -> None:
    paper = "head.1.weight" in own
    if layout == "paddle" and not paper:
        raise InputError(f"{source} is of PaddleClas's form; leave out `rounding` or give rounding='paper'")
    if layout == "timm" and paper:
        raise InputError(f"{source} is of the PyTorch form; leave out `rounding` or give rounding='torch'")


def _check_fit(
    own: dict[str, Tensor], tensors: dict[str, Tensor], opened: OpenedWeights, head: str | None
) -> None:
    """Say in one line what is wrong, where that can be told from the shapes."""
    shared = [name for name in own if name in tensors]
    differing = [name for name in shared if own[name].shape != tensors[name].shape]
    if not differing:
        return
    if head is not None and all(name.startswith(head + ".") for name in differing):
        classes, wanted = tensors[f"{head}.weight"].shape[0], own[f"{head}.weight"].shape[0]
        if classes != wanted:
            raise InputError(
                f"{opened.source} is for {classes} classes and the network has {wanted}; give num_classes={classes}, "
                f"or new_head=True for a fresh classifier on its features"
            )
    sibling = _sibling(opened.name, tensors, head)
    if sibling is not None:
        raise InputError(
            f"{opened.source} holds weights of {sibling!r}, not of {opened.name!r}; create that one"
        )
    stem = differing[0]
    raise InputError(
        f"{opened.source} fits another width or form: {stem} is {tuple(tensors[stem].shape)} there and "
        f"{tuple(own[stem].shape)} in {opened.name!r}"
    )


def _sibling(name: str, tensors: dict[str, Tensor], head: str | None) -> str | None:
    """Return the network of the same family, at its defaults, whose shapes are those of the file."""
    from ghostnet.models.registry import create_model, list_models, model_info

    family = model_info(name).family
    for other in list_models():
        if other == name or model_info(other).family != family:
            continue
        with torch.device("meta"):
            state = create_model(other).state_dict()
        body = [key for key in state if head is None or not key.startswith(head + ".")]
        if all(
            key in tensors and tensors[key].shape == state[key].shape for key in body if "num_b" not in key
        ):
            return other
    return None
