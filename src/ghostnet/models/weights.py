"""Weights that come with the package, and loading of weights by tag or path.

A packaged file is `weights/<model>.<tag>.safetensors` beside its model card `weights/<model>.<tag>.md`.
"""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from ghostnet.errors import InputError, unknown_name
from ghostnet.models.checkpoints import ENDINGS, read_state_dict
from ghostnet.models.saved import load_state_, read_saved

_FOLDER = Path(__file__).parent / "weights"


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


def default_tag(name: str) -> str | None:
    """Return the only or first tag of a model's packaged weights, or None."""
    tags = packaged_tags(name)
    return tags[0] if tags else None


def load_weights_(model: nn.Module, name: str, weights: str | os.PathLike[str]) -> None:
    """Fill a zoo network with packaged weights (a tag), a saved file or a PyTorch checkpoint (a path).

    Raises:
        InputError: no such tag or file, or weights of another network.
    """
    given = os.fspath(weights)
    if given.endswith(ENDINGS):
        load_state_(model, read_state_dict(given), given)
        return
    is_path = os.sep in given or given.endswith(".safetensors") or Path(given).is_file()
    path = Path(given) if is_path else packaged_path(name, given)
    record, tensors = read_saved(path)
    if record["edits"]:
        raise InputError(f"{path} holds a converted network; load it with ghostnet.load({str(path)!r})")
    load_state_(model, tensors, str(path))
    model.ghostnet_info = record["info"]
