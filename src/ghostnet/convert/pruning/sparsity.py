"""Sparse structure selection (SSS, Huang and Wang 2018; [23] in the paper): factors behind channels, trained sparse.

Whoever calls supplies the training (`Sparsify`): this room trains nothing. After each of its steps the factors are
shrunk by a soft threshold, the proximal step of an L1 penalty, so that many become exactly zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ghostnet.convert.pruning.gates import ChannelGate, fold_gates_, insert_gates_
from ghostnet.convert.pruning.job import PruneJob
from ghostnet.errors import InputError
from ghostnet.modes import restored_modes

STRENGTH = 0.05  # of the penalty, in units of the loss for a factor of 1


class ProximalStep:
    """Shrinks gates after a training step of a given learning rate, until enough of them are zero.

    Once removing the zeros meets the target they stay zero, and the others are shrunk no more. All that it knows lies
    in the gates, so that a training which goes on from its checkpoint goes on from there.
    """

    def __init__(self, job: PruneJob, gates: dict[str, ChannelGate], strength: float) -> None:
        self.job, self.gates, self.strength = job, gates, strength
        self.scores: dict[str, Tensor] = {}
        self._held: bool | None = None

    @property
    def held(self) -> bool:
        """Tell whether the target is met and the zeros stay."""
        if self._held is None:  # not before training has read its checkpoint
            self._held = any(bool((gate.open == 0).any()) for gate in self.gates.values())
        return self._held

    @property
    def called(self) -> bool:
        """Tell whether a training did anything to the gates, in this process or before its checkpoint."""
        return bool(self.scores) or any(bool((gate.scale != 1).any()) for gate in self.gates.values())

    @torch.no_grad()
    def __call__(self, learning_rate: float) -> None:
        """Shrink, or hold the zeros."""
        if self.held:
            for gate in self.gates.values():
                gate.scale.mul_(gate.open)
            return
        for name, gate in self.gates.items():
            before = gate.scale.abs()
            left = (before - learning_rate * self.strength).clamp_min(0.0)
            gate.scale.copy_(gate.scale.sign() * left)
            # among zeros the ones that were largest a step ago are the last to go
            self.scores[name] = torch.where(left > 0, left, before - 1.0 - learning_rate * self.strength)
        counts = {name: max(1, int((gate.scale != 0).sum())) for name, gate in self.gates.items()}
        if self.job.budget.macs(counts) <= self.job.budget.target:
            for name, kept in self.job.budget.select(self.scores).items():
                self.gates[name].open.zero_()[kept] = 1.0
            self._held = True


def prune_sss(job: PruneJob) -> dict[str, Tensor]:
    """Train with sparse factors, then keep the channels whose factors are left, over all layers.

    Differs from the paper: the momentum is that of the training given, not of an accelerated proximal method; blocks
    and groups are not removed whole; where the training ends before the target the smallest factors go too.
    """
    if job.sparsify is None:
        raise InputError(
            "method 'sss' chooses channels by training: give `sparsify`, or use `ghostnet convert --method sss` or a "
            'recipe with method = "sss", which supply it'
        )
    with restored_modes(job.pruned):
        gates = insert_gates_(job.pruned, job.sites)
        step = ProximalStep(job, gates, STRENGTH)
        job.sparsify(job.pruned, step)
        if not step.called:
            raise InputError("`sparsify` never called its second argument; call it after each training step")
        if not step.held:
            kept = job.budget.select({name: gate.scale.detach().abs() for name, gate in gates.items()})
        else:
            kept = {name: gate.open.nonzero().flatten().cpu() for name, gate in gates.items()}
        _unplaced(job.pruned, job.model)
        fold_gates_(job.pruned, job.sites)
    return kept


def _unplaced(trained: nn.Module, original: nn.Module) -> None:
    """Move a network that training placed on another device back to where it came from."""
    place = next(original.parameters())
    trained.to(device=place.device, dtype=place.dtype)
