"""Feature distillation: maps of chosen layers are drawn to the teacher's (the "hints" of FitNets, Romero et al. 2015).

Where a student has the teacher's layers with the teacher's channels in the same order, as a converted network has in
its residual streams unless they were put in one order of their own (`ghostify`'s `streams`), no adapter is needed
between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ghostnet.errors import InputError, unknown_name
from ghostnet.train.teacher import AdaptedTeacher


class FeatureMatch:
    """Watches layers of student and teacher and measures how far apart their outputs of the last passes are.

    Args:
        student: the network in training.
        teacher: the network to match.
        layers: module paths that both have, with outputs of one shape.

    Raises:
        InputError: no such layer in one of them (near matches are listed), or a student converted with channels in
            another order.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, layers: Sequence[str]) -> None:
        if _reordered(student) and not _reordered(teacher):
            raise InputError(
                "`feature_layers` compare channels one by one, and the student's residual streams are in another order "
                "than the teacher's; convert it with `streams=False` (--no-streams)"
            )
        self.layers = tuple(layers)
        self._seen: dict[tuple[str, str], Tensor] = {}
        self._handles = []
        # the names are those of the layers inside
        inner = teacher.network if isinstance(teacher, AdaptedTeacher) else teacher
        for role, network in (("student", student), ("teacher", inner)):
            modules = dict(network.named_modules())
            for layer in self.layers:
                if layer not in modules:
                    raise unknown_name(f"layer of the {role}", layer, modules)
                keep = self._keeper(role, layer)
                self._handles.append(modules[layer].register_forward_hook(keep))

    def _keeper(self, role: str, layer: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self._seen[role, layer] = output.clone()  # a ReLU or a sum in place may follow

        return keep

    def loss(self) -> Tensor:
        """Return the mean over the layers of `|student - teacher|^2 / |teacher|^2`, and forget the maps.

        Raises:
            InputError: a layer did not run, or the two outputs differ in shape.
        """
        errors = []
        for layer in self.layers:
            ours, theirs = self._seen.pop(("student", layer), None), self._seen.pop(("teacher", layer), None)
            if ours is None or theirs is None:
                raise InputError(f"layer {layer!r} of `feature_layers` does not run in student and teacher")
            if ours.shape != theirs.shape:
                raise InputError(
                    f"layer {layer!r} of `feature_layers` gives {tuple(ours.shape)} in the student and "
                    f"{tuple(theirs.shape)} in the teacher; name layers of one shape"
                )
            target = theirs.float()
            errors.append((ours.float() - target).square().mean() / target.square().mean().clamp_min(1e-12))
        return torch.stack(errors).mean()

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._seen.clear()


def _reordered(network: nn.Module) -> bool:
    """Tell whether a conversion left a note that layers write channels in another order (`nn.edits`)."""
    return any((getattr(m, "ghostnet_edit", None) or {}).get("reordered") for m in network.modules())


@contextmanager
def feature_match(
    student: nn.Module, teacher: nn.Module | None, layers: Sequence[str]
) -> Iterator[FeatureMatch | None]:
    """Watch the layers while the block runs; None without layers.

    Raises:
        InputError: there are layers and no teacher.
    """
    if not layers:
        yield None
        return
    if teacher is None:
        raise InputError(
            f"`feature_layers` (={list(layers)}) need a teacher to be matched to; set `teacher` too"
        )
    match = FeatureMatch(student, teacher, layers)
    try:
        yield match
    finally:
        match.close()
