"""Networks of timm and torchvision by name, such as "torchvision:resnet50", filled from a checkpoint of yours."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ghostnet.errors import InputError, unknown_name
from ghostnet.models.origin import build_torchvision, torchvision_names
from ghostnet.models.remote import fetch_weights, is_remote
from ghostnet.models.saved import load_state_
from ghostnet.models.weights import head_name, read_weights

LIBRARIES = ("timm", "torchvision")
_WITH_AUXILIARY = ("googlenet", "inception_v3")  # classifiers that only training reads
_AUXILIARY = ("aux1.", "AuxLogits.")


def library_of(name: str) -> tuple[str, str] | None:
    """Return library and name of "library:name", or None for another text.

    Example:
        >>> library_of("torchvision:resnet50"), library_of("resnet56")
        (('torchvision', 'resnet50'), None)
    """
    library, colon, own = name.partition(":")
    return (library, own) if colon and library in LIBRARIES else None


def create_from_library(name: str, weights: str | os.PathLike[str] | None = None) -> nn.Module:
    """Build a network of timm or torchvision, with random weights or those of a checkpoint.

    Args:
        name: "timm:NAME" or "torchvision:NAME".
        weights: a file (.pth, .pt, .safetensors, .npz), a URL or `hf:owner/name`, in the library's own layout. The
            classifier gets as many classes as the file's.

    Returns:
        The network in eval mode.

    Raises:
        InputError: no such network, or a file that cannot be read safely or is of another network.
        DownloadError: a remote file that cannot be fetched.

    Example:
        >>> create_from_library("torchvision:resnet18").fc.out_features
        1000
    """
    found = library_of(name)
    if found is None:
        raise InputError(
            f"{name!r} names no library; write one of {', '.join(f'{one}:NAME' for one in LIBRARIES)}"
        )
    library, own = found
    build = _builder_of_timm(own) if library == "timm" else _builder_of_torchvision(own)
    extra: dict[str, Any] = (
        {"aux_logits": False} if library == "torchvision" and own in _WITH_AUXILIARY else {}
    )
    if weights is None:
        return _with_origin(build(extra), library, own, extra).eval()
    source = os.fspath(weights)
    record, tensors = read_weights(
        fetch_weights(source, read=read_weights) if is_remote(source) else Path(source)
    )
    if record is not None and record["edits"]:
        raise InputError(f"{source} holds a converted network, which needs no name; give the file instead")
    args = dict(extra)
    if any(key.startswith(_AUXILIARY) for key in tensors):
        args["aux_logits"] = True
    if any(key.startswith("aux_classifier.") for key in tensors):
        args["aux_loss"] = True  # of a network for segmentation
    model = build(args)
    classes = _classes(model, tensors)
    if classes is not None:
        args["num_classes"] = classes
        model = build(args)
    load_state_(model, tensors, source)
    model.ghostnet_info = {} if record is None else record["info"]  # type: ignore[assignment]
    return _with_origin(model, library, own, args).eval()


def _with_origin(model: nn.Module, library: str, name: str, args: dict[str, Any]) -> nn.Module:
    """Note what built a network, so that its file and a classifier of other classes need no search for it."""
    architecture = name.partition(".")[0]  # behind the dot timm has a tag of its weights
    model.ghostnet_origin = {"library": library, "name": architecture, "args": args}  # type: ignore[assignment]
    return model


def _classes(model: nn.Module, tensors: dict[str, Tensor]) -> int | None:
    """Return how many classes a checkpoint tells apart, where that is not the network's own number."""
    head = f"{head_name(model) or _last_convolution(model)}.weight"
    own, given = model.state_dict().get(head), tensors.get(head)
    if own is None or given is None or own.ndim != given.ndim or own.shape[0] == given.shape[0]:
        return None
    return int(given.shape[0])


def _last_convolution(model: nn.Module) -> str | None:
    """Return the path of the last convolution of `classifier`, which scores pixels where there is no linear layer."""
    classifier = getattr(model, "classifier", None)
    parts = classifier.named_modules() if isinstance(classifier, nn.Module) else ()
    convolutions = [path for path, module in parts if isinstance(module, nn.Conv2d)]
    return f"classifier.{convolutions[-1]}" if convolutions else None


def _builder_of_timm(name: str) -> Callable[[dict[str, Any]], nn.Module]:
    try:
        import timm
    except ImportError as error:
        raise InputError("timm is not installed; run: pip install timm") from error
    if not timm.is_model(name):
        raise unknown_name("network of timm", name, timm.list_models())

    def build(args: dict[str, Any]) -> nn.Module:
        model: nn.Module = timm.create_model(name, pretrained=False, **args)
        return model

    return build


def _builder_of_torchvision(name: str) -> Callable[[dict[str, Any]], nn.Module]:
    known = torchvision_names()
    if name not in known:
        raise unknown_name("network of torchvision", name, known)
    return lambda args: build_torchvision(name, args)
