"""From what the user types to a network (a name of the zoo or a file), its weights and its input size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ghostnet.cli.output import note
from ghostnet.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from ghostnet.models import Outside

IMAGENET_SIZE = (3, 224, 224)
RGB = 3  # channels of every image that is read from a file
_NETWORKS = "Name of the zoo (or NAME.TAG), a saved network, torchvision:NAME, timm:NAME, "
_OWN_CODE = "FILE.py:NAME or MODULE:NAME (code of yours that builds it)"
NETWORK_HELP = f"{_NETWORKS}or {_OWN_CODE}."
RUNNABLE_HELP = f"{_NETWORKS}{_OWN_CODE}, or an exported file."
WEIGHTS_HELP = "For a name: file (.pth, .safetensors), URL or, for one of the zoo, packaged tag."
SIZE_HELP = "Channels, height, width of one image; default: what the network was made for."


def open_network(name_or_file: str, weights: str | None = None, *, trained: bool = False) -> nn.Module:
    """Return the network in evaluation mode.

    Args:
        name_or_file: name of the zoo or of a network from outside (`models.outside_of`), or a file that `ghostnet.save`
            wrote.
        weights: packaged tag or file for a name; None takes the packaged weights if there are any.
        trained: refuse a network without weights.

    Raises:
        InputError: unknown name, missing or exported file, weights for a file, or none where they are needed.
    """
    outside = outside_name(name_or_file)
    if outside is not None:
        return _open_outside(outside, weights, trained=trained)
    if is_exported(name_or_file):
        raise InputError(
            f"{name_or_file} is an exported file, whose layers cannot be seen; name the network that it was made of "
            "(eval, predict and bench take exported files)"
        )
    from ghostnet import models

    is_file = holds_weights(name_or_file)
    if is_file and weights is not None:
        raise InputError(f"{name_or_file} holds its weights already; leave out --weights")
    if is_file:
        return models.load(name_or_file)
    info = models.model_info(name_or_file)
    chosen = weights if weights is not None else models.default_tag(info.name)
    if chosen is None and trained:
        raise InputError(f"{name_or_file} has no packaged weights; give --weights FILE or a saved network")
    return models.create_model(name_or_file, weights=chosen).eval()


def _open_outside(outside: Outside, weights: str | None, *, trained: bool) -> nn.Module:
    from ghostnet import models

    if outside.weights is not None and weights is not None:
        raise InputError(f"{outside.label} names its weights already; leave out --weights")
    given = weights if outside.weights is None else outside.weights
    if given is None and trained:
        if outside.library is not None:
            raise InputError(f"{outside.builder} is built with random weights here; give --weights FILE")
        note(f"{outside.builder} has the weights that its code gives it; --weights FILE fills it")
    return models.create_outside(outside.builder, given)


def open_runnable(name_or_file: str, weights: str | None = None) -> nn.Module:
    """Return a network with weights in evaluation mode, or an exported file in its place: what answers images.

    Raises:
        InputError: as for `open_network`, or an exported file that cannot be used.
    """
    if is_exported(name_or_file):
        from ghostnet.cli.exported import open_exported

        return open_exported(name_or_file, weights)
    return open_network(name_or_file, weights, trained=True)


def outside_name(text: str) -> Outside | None:
    """Return the name of a network from outside the zoo taken apart, None for another text."""
    if ":" not in text:  # saves loading PyTorch for what can be refused without it
        return None
    from ghostnet.models import outside_of

    return outside_of(text)


def told(name_or_file: str) -> str:
    """Return what a record calls a network: its name or its file's, without folders."""
    outside = outside_name(name_or_file)
    return Path(name_or_file).name if outside is None else outside.label


def holds_weights(name_or_file: str) -> bool:
    """Tell whether something names a saved network, one of the package included, whose weights are in the file."""
    from ghostnet import models

    if name_or_file.endswith(".safetensors") or Path(name_or_file).is_file():
        return True
    return models.packaged_network(name_or_file) is not None


def is_exported(name_or_file: str) -> bool:
    """Tell whether a name ends like a runtime's file, or is a manifest or a file with its manifest beside it.

    A saved network is none, though a manifest lie beside it that an earlier file of its name left.
    """
    if outside_name(name_or_file) is not None:
        return False
    from ghostnet.deploy.targets import TARGETS

    endings = (".json", *(target.suffixes[0] for target in TARGETS.values()))
    with_manifest = Path(name_or_file).is_file() and Path(f"{name_or_file}.json").is_file()
    return name_or_file.lower().endswith(endings) or (with_manifest and not _is_safetensors(name_or_file))


def _is_safetensors(path: str) -> bool:
    """Tell whether a file begins as safetensors do: eight bytes with the length of a JSON object, and the object."""
    with Path(path).open("rb") as stream:
        start = stream.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= Path(path).stat().st_size


def refuse_source(out: Path, *sources: str | Path | None) -> None:
    """Raise where an output is a file that is read, which it would destroy.

    Raises:
        InputError: it is.
    """
    named = [outside_name(source) for source in sources if isinstance(source, str)]
    for source in (*sources, *(outside.weights for outside in named if outside is not None)):
        if source is not None and out.exists() and os.path.exists(source) and out.samefile(source):
            raise InputError(f"{out} is read here and would be lost; name another output")


def input_size_of(model: nn.Module, given: str | None) -> tuple[int, int, int]:
    """Return the given input size, or the one that the network was made for: what its file says, if it was trained.

    Args:
        model: from `open_network`.
        given: "3,224,224" or None.

    Raises:
        InputError: not three integers of at least 1.
    """
    if given is not None:
        return parse_size(given)
    origin = getattr(model, "ghostnet_origin", None)
    origin = origin if isinstance(origin, dict) else {}
    known = origin.get("input_size")
    if known is None and origin.get("library") == "ghostnet":
        from ghostnet import models

        known = models.model_info(origin["name"]).input_size
    if known is None:
        theirs = getattr(model, "pretrained_cfg", None)  # timm's
        known = theirs.get("input_size") if isinstance(theirs, dict) else None
    channels, height, width = known or IMAGENET_SIZE
    trained_at = (getattr(model, "ghostnet_info", None) or {}).get("image_size")
    if isinstance(trained_at, int):
        height = width = trained_at
    return int(origin.get("args", {}).get("in_chans", channels)), int(height), int(width)


def parse_size(given: str) -> tuple[int, int, int]:
    """Return "3,224,224" as three integers.

    Raises:
        InputError: anything else.

    Example:
        >>> parse_size("3,32,32")
        (3, 32, 32)
    """
    parts = given.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) >= 1 for part in parts):
        raise InputError(
            f"--input-size (={given}) must be three integers >= 1: channels,height,width, e.g. 3,224,224"
        )
    channels, height, width = (int(part) for part in parts)
    return channels, height, width
