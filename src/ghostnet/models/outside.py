"""Networks from outside the zoo by name: of timm, of torchvision, or of the user's own code, filled from a file.

"torchvision:resnet50", "nets.py:Net(num_classes=5)", and with a file behind either: "nets.py:Net=mine.pth".
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ghostnet.errors import InputError
from ghostnet.models.libraries import create_from_library, library_of
from ghostnet.models.own_code import build_own, split_own_code
from ghostnet.models.remote import fetch_weights, is_remote
from ghostnet.models.saved import load, load_state_
from ghostnet.models.weights import head_name, read_weights


@dataclass(frozen=True)
class Outside:
    """A name of a network from outside the zoo, taken apart.

    Attributes:
        builder: "timm:NAME", "torchvision:NAME", "FILE.py:NAME" or "package.module:NAME", with arguments, if any.
        weights: the file behind it, or None.
        library: "timm" or "torchvision"; None for the user's own code.
    """

    builder: str
    weights: str | None
    library: str | None

    @property
    def label(self) -> str:
        """The name without the folders of its files."""
        file, python, rest = self.builder.partition(".py:")
        builder = (
            f"{os.path.basename(file)}{python}{rest}" if self.library is None and python else self.builder
        )
        return builder if self.weights is None else f"{builder}={os.path.basename(self.weights)}"


def outside_of(name: str) -> Outside | None:
    """Take the name of a network from outside the zoo apart; None for another text, and for a file that is there.

    Raises:
        InputError: no file behind "=", or parentheses that do not close.

    Example:
        >>> outside_of("nets.py:Net(depth=18)=runs/mine.pth").label
        'nets.py:Net(depth=18)=mine.pth'
    """
    if ":" not in name or Path(name).is_file():
        return None
    found = library_of(name)
    if found is not None:
        builder, equals, weights = name.partition("=")
    else:
        split = split_own_code(name)
        if split is None:
            return None
        builder, (equals, weights) = split[0], (split[1][:1], split[1][1:])
    if equals not in ("", "=") or (equals and not weights):
        raise InputError(f"{name!r} must be {builder} or {builder}=FILE, the file holding its weights")
    return Outside(builder, weights or None, None if found is None else found[0])


def create_outside(
    name: str, weights: str | os.PathLike[str] | None = None, *, new_head: bool = False
) -> nn.Module:
    """Build a network from outside the zoo, in evaluation mode.

    Args:
        name: see `outside_of`. Code of one's own is run; without a file its weights are those that it gives.
        weights: the file, where the name has none: a checkpoint (.pth, .pt, .safetensors, .npz), a URL, or, for one's
            own code, what `ghostnet.save` wrote of a network that was built so, converted or not.
        new_head: where a checkpoint tells other classes apart than one's own code, leave its classifier out.

    Raises:
        InputError: no such network, code that fails, or a file that cannot be read safely or is of another network.
        DownloadError: a remote file that cannot be fetched.

    Example:
        >>> create_outside("torch.nn:Conv2d(3, 8, 3)").out_channels
        8
    """
    found = outside_of(name)
    if found is None:
        raise InputError(
            f"{name!r} names no network; write timm:NAME, torchvision:NAME, FILE.py:NAME or package.module:NAME"
        )
    if found.weights is not None and weights is not None:
        raise InputError(f"{name} names its weights already; leave {os.fspath(weights)} out")
    source = found.weights if weights is None else os.fspath(weights)
    if found.library is not None:
        return create_from_library(found.builder, source)
    model = build_own(found.builder)
    if source is not None:
        _fill_own_(model, source, found.builder, new_head=new_head)
    return model.eval()


def _fill_own_(model: nn.Module, source: str, builder: str, *, new_head: bool) -> None:
    path = fetch_weights(source, read=read_weights) if is_remote(source) else Path(source)
    record, tensors = read_weights(path)
    if record is None:
        load_state_(model, _with_own_head(model, tensors) if new_head else tensors, source)
        return
    if record["origin"] is not None:
        raise InputError(f"{source} says by itself how to build its network; give the file without {builder}")
    load(path, model=model)


def _with_own_head(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint's tensors, with the network's own classifier where that is of another size."""
    head = head_name(model)
    own = {name: value for name, value in model.state_dict().items() if head and name.startswith(f"{head}.")}
    differs = any(name in tensors and tensors[name].shape != value.shape for name, value in own.items())
    return {**tensors, **own} if differs else tensors
