"""What a network answers with: its tensors in one order and with names, whatever its forward holds them in.

A runtime's file has a list of outputs. Networks return a tensor, a list (a backbone's maps), a dictionary (those of
torchvision for segmentation) or these inside each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ghostnet.deploy.targets.target import ALONE
from ghostnet.errors import InputError

_INPUT = "images"  # as files call what they take


class Listed(nn.Module):
    """A network that returns a tuple of tensors: those of another network's answer, in order.

    Args:
        network: its modules are shared, and the rewrites that made it stay known.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.meta = getattr(network, "meta", None)
        self.train(network.training)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the tensors of the network's answer to `images`."""
        leaves = pytree.tree_leaves(self.network(images))
        return tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))


@dataclass(frozen=True)
class Answer:
    """The tensors of one answer.

    Attributes:
        tensors: by name, in order.
        alone: the network returns one tensor, and not a list or dictionary of one.
    """

    tensors: dict[str, torch.Tensor]
    alone: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The outputs' names, in order."""
        return tuple(self.tensors)

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each output without the batch."""
        return {name: tuple(tensor.shape[1:]) for name, tensor in self.tensors.items()}

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield the tensors."""
        return iter(self.tensors.values())


def answer_of(model: nn.Module, images: torch.Tensor, names: Sequence[str] | None = None) -> Answer:
    """Return what a network answers, by name.

    A tensor alone is called "logits"; the entries of a dictionary are called by their keys, of a list "output_0",
    "output_1", and of one inside the other by both ("maps_0"). None is left out.

    Args:
        model: whose forward takes the images.
        images: `(N, C, H, W)`.
        names: in place of these.

    Raises:
        InputError: there is no tensor, something is among them that a runtime's file has no output for, or names that
            do not fit.

    Example:
        >>> answer_of(nn.Identity(), torch.zeros(2, 3, 4, 4)).sizes
        {'logits': (3, 4, 4)}
    """
    with torch.no_grad():
        returned = model(images)
    if isinstance(returned, torch.Tensor):
        found = [(ALONE[0], returned)]
    else:
        leaves, _ = pytree.tree_flatten_with_path(returned)
        found = [(_name(path), leaf) for path, leaf in leaves if leaf is not None]
    if not found:
        raise InputError(f"the model returns a {type(returned).__name__} without a tensor; export needs some")
    for name, leaf in found:
        _check(name, leaf, len(images))
    given = [name for name, _ in found] if names is None else _checked_names(names, len(found))
    if len(set(given)) != len(given):
        raise InputError(f"two outputs have one name ({', '.join(given)}); give output_names")
    tensors = dict(zip(given, (leaf for _, leaf in found), strict=True))
    return Answer(tensors, isinstance(returned, torch.Tensor))


def refuse_input_name(names: Sequence[str]) -> None:
    """Raise where an output would have the name of what files take: inputs and outputs share one set of names.

    Args:
        names: of the outputs.

    Raises:
        InputError: one of them is "images".
    """
    if _INPUT in names:
        raise InputError(f"an output is called {_INPUT!r}, as the file's input is; give output_names")


def _check(name: str, leaf: Any, batch: int) -> None:
    if not isinstance(leaf, torch.Tensor) or not leaf.is_floating_point():
        what = f"{leaf.dtype} numbers" if isinstance(leaf, torch.Tensor) else f"a {type(leaf).__name__}"
        raise InputError(
            f"the model returns {what} ({name}); export needs floating tensors: wrap it in a module that returns those "
            "that you need"
        )
    if leaf.dim() == 0 or leaf.shape[0] != batch:
        raise InputError(
            f"the model answers {batch} images with a tensor of shape {tuple(leaf.shape)} ({name}); "
            "the first axis must be the images"
        )


def _checked_names(names: Sequence[str], count: int) -> list[str]:
    if isinstance(names, str) or not all(
        re.fullmatch(r"[A-Za-z_]\w*", str(name), re.ASCII) for name in names
    ):
        raise InputError(
            f"output_names (={names!r}) must be a list of identifiers, such as ['small', 'large']"
        )
    if len(names) != count:
        raise InputError(f"output_names has {len(names)} names and the model {count} outputs; name each")
    return [str(name) for name in names]


def _name(path: Sequence[Any]) -> str:
    keys = (getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))) for key in path)
    name = re.sub(r"\W", "_", "_".join(map(str, keys)), flags=re.ASCII)
    return name if name and not name[0].isdigit() else f"output_{name}"
