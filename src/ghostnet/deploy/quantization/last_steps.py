"""What puts a network's answers together behind its last layers, which stays in float."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from typing import NamedTuple


class Step(NamedTuple):
    """One operator of a file: its name and type, and the tensors that it reads and makes."""

    name: str
    operator: str
    reads: tuple[Hashable, ...]
    makes: tuple[Hashable, ...]


def behind_the_layers(
    steps: Iterable[Step], layers: Collection[str], activations: Collection[str] = ()
) -> set[str]:
    """Return the names of what computes answers from the last layers' maps, and feeds no layer.

    A detector puts boxes of hundreds of pixels and scores below 1 into one tensor, whose 256 steps leave no score. What
    a layer's own activation is stays with it: its range is the smaller one.

    Args:
        steps: in the order of the file.
        layers: types of operators that have weights.
        activations: types that may be a layer's own activation.
    """
    feeding: set[Hashable] = set()
    behind: list[Step] = []
    made_by_layers: set[Hashable] = set()
    for step in reversed(list(steps)):
        if step.operator in layers:
            made_by_layers.update(step.makes)
        if step.operator in layers or feeding.intersection(step.makes):
            feeding.update(step.reads)
        else:
            behind.append(step)
    return {
        step.name
        for step in behind
        if step.operator not in activations or step.reads[0] not in made_by_layers
    }
