"""Importance of channels from weights alone (L1 norm) and from gradients on labelled images (Taylor-FO-BN).

L1 norm: Li et al. 2017 ([31] of the paper). Taylor-FO-BN: Molchanov et al. 2019 ([41]).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ghostnet.convert.pruning.gates import insert_gates_
from ghostnet.convert.pruning.job import PruneJob
from ghostnet.errors import InputError
from ghostnet.nn.copies import copy_model
from ghostnet.nn.narrow import by_outputs

_TAYLOR_ROUNDS = 5


def prune_l1(job: PruneJob) -> dict[str, Tensor]:
    """Keep each layer's filters of the largest L1 norm; the same share of every layer.

    Of filters that go together the norms are added up, each layer's in units of its mean.

    Differs from the paper: it chooses layers and shares by hand after measuring each layer's sensitivity.
    """
    scores = {}
    for site in job.sites:
        total = scores[site.name] = torch.zeros(site.channels)
        for writer in site.writers:
            layer = job.pruned.get_submodule(writer)
            weight = by_outputs(layer.weight, layer)  # type: ignore[arg-type]
            norms = weight.detach().abs().flatten(1).sum(1).float().cpu()
            total.index_add_(0, site.outputs[writer], norms / norms.mean().clamp_min(1e-30))
    return job.budget.uniform(scores)


def _loss(logits: object, labels: Tensor) -> Tensor:
    """Return the cross-entropy, where the answers and the labels allow one."""
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        given = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"method 'taylor' needs a network that answers logits (N, classes), not {given}")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise InputError(
            f"method 'taylor' was given labels from {int(labels.min())} to {int(labels.max())}; the network has "
            f"{logits.shape[1]} classes, from 0"
        )
    return F.cross_entropy(logits, labels)


@torch.enable_grad()  # whatever the caller has set
def prune_taylor(job: PruneJob) -> dict[str, Tensor]:
    """Drop the channels whose removal changes the loss least by first order, over all layers.

    The importance of a channel is `(dL/dz)^2` for a gate z = 1 behind its batch norm, averaged over batches; that
    is `(w dL/dw + b dL/db)^2` for the norm's scale w and shift b. It is measured anew in five rounds, dropped
    channels being gated off.

    Differs from the paper: no training between the rounds.
    """
    model = copy_model(job.pruned)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    gates = insert_gates_(model, job.sites)
    kept = {site.name: torch.arange(site.channels) for site in job.sites}
    for round_ in range(1, _TAYLOR_ROUNDS + 1):
        scores = {name: torch.zeros_like(gate.scale) for name, gate in gates.items()}
        for images, labels in job.labelled:
            loss = _loss(model(images.clone()), labels)
            gradients = torch.autograd.grad(loss, [gate.scale for gate in gates.values()])
            for name, gradient in zip(gates, gradients, strict=True):
                scores[name] += gradient.square() / len(job.labelled)
        for name, gate in gates.items():
            scores[name][gate.scale == 0] = -1.0  # dropped before: stays so
        share = round_ / _TAYLOR_ROUNDS
        kept = job.budget.select(
            scores, target=job.budget.full + share * (job.budget.target - job.budget.full)
        )
        with torch.no_grad():
            for name, gate in gates.items():
                gate.scale.zero_()
                gate.scale[kept[name]] = 1.0
    return kept
