"""How far a network's answers move when one of its layers alone is ghosted: what `sensitivity` measures with."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet.convert.cost_notes import CostNotes
from ghostnet.convert.graph import ConvUnit
from ghostnet.convert.group_fit import fit_layer
from ghostnet.convert.layer_fit import FitOptions
from ghostnet.convert.observe import Pairs, observe
from ghostnet.errors import InputError, first_line
from ghostnet.measure.ghost_convolutions import ghost_macs
from ghostnet.nn.edits import replace_module_
from ghostnet.nn.ghost_conv import ghost_like

_FIT_IMAGES = 512  # the first of the calibration images
_COST_IMAGES = 1024  # the last of them; the same ones where there are few


class Measurement:
    """A network, the images that layers are fitted to, and those that it is asked about.

    Args:
        dense: the network in evaluation mode; layers of it are exchanged for a moment.
        batches: calibration images.
        tried: ratios.
        cheap_kernel_size: d.
        file: keeps the costs, or None.
    """

    def __init__(
        self,
        dense: nn.Module,
        batches: list[Tensor],
        tried: list[int],
        cheap_kernel_size: int,
        file: str | Path | None,
    ) -> None:
        first, last = _head(batches, _FIT_IMAGES), _tail(batches, _COST_IMAGES)
        self.settings: dict[str, Any] = {
            "ratios": tried,
            "cheap_kernel_size": cheap_kernel_size,
            "fit_images": sum(map(len, first)),
            "cost_images": sum(map(len, last)),
        }
        self._dense = dense
        answers = [_tensors(dense(batch.clone())) for batch in last]
        if not all(bool(tensor.isfinite().all()) for one in answers for tensor in one):
            raise InputError(
                "the network answers `calibration` with NaN or infinity; its weights may be damaged"
            )
        if not all(answers):
            raise InputError(
                "sensitivity compares answers, and the network gives none that is a tensor of floats"
            )
        self._asked = answers, last
        self.unit_of_cost = "KL divergence" if _are_logits(answers) else "relative squared error"
        self._source = observe(dense, dense, first)
        self._notes = CostNotes(file, lambda: _fingerprint(dense, batches, self.settings))

    def layer(self, unit: ConvUnit, ratios: list[int], macs: int) -> tuple[dict[int, float], dict[int, int]]:
        """Measure one convolution in the ratios that it can have; called in execution order.

        Args:
            unit: the convolution.
            ratios: s.
            macs: of the plain convolution.

        Returns:
            The cost by ratio, and the MACs by ratio.
        """
        convolution = self._dense.get_submodule(unit.name)
        assert isinstance(convolution, nn.Conv2d)
        costs, macs_at = {}, {}
        moments: dict[Any, Any] = {}  # they serve all ratios
        seen: Pairs | None = None
        for ratio in ratios:
            config = {"ratio": ratio, "cheap_kernel_size": self.settings["cheap_kernel_size"]}
            with torch.random.fork_rng(devices=[]):  # the fit replaces its weights
                ghost = ghost_like(convolution, config).eval()
            macs_at[ratio] = ghost_macs(ghost, convolution, macs)
            known = self._notes.get(unit.name, ratio)
            if known is None:
                if seen is None:
                    seen = self._source.pairs(unit)
                norm = None if unit.norm is None else copy.deepcopy(self._dense.get_submodule(unit.norm))
                fit_layer(convolution, ghost, norm, seen, FitOptions(), moments)
                known = _cost(self._dense, {unit.name: ghost, unit.norm or "": norm}, self._asked)
                self._notes.put(unit.name, ratio, known)
            costs[ratio] = known
        return costs, macs_at


def _cost(
    dense: nn.Module, new: dict[str, nn.Module | None], asked: tuple[list[list[Tensor]], list[Tensor]]
) -> float:
    """Put modules into the network, see how far its answers move, and take them out again."""
    answers, batches = asked
    old = {path: dense.get_submodule(path) for path, module in new.items() if module is not None}
    try:
        for path in old:
            replace_module_(dense, path, new[path])  # type: ignore[arg-type]
        moved = [_tensors(dense(batch.clone())) for batch in batches]
    except Exception as raised:  # the network's own code, which ran with the plain layer
        raise InputError(
            f"the network does not run with a Ghost convolution for {next(iter(old))} ({first_line(raised)}); leave "
            "that layer out of `layers`"
        ) from raised
    finally:
        for path, module in old.items():
            replace_module_(dense, path, module)
    if _are_logits(answers):
        before = torch.cat([one[0] for one in answers]).double().log_softmax(1)
        after = torch.cat([one[0] for one in moved]).double().log_softmax(1)
        # this order of arguments keeps NaN, which no choice takes
        return max(float(F.kl_div(after, before, reduction="batchmean", log_target=True)), 0.0)
    error = power = 0.0
    for one, other in zip(answers, moved, strict=True):
        for wanted, found in zip(one, other, strict=True):
            error += float((wanted.double() - found.double()).square().sum())
            power += float(wanted.double().square().sum())
    return error / max(power, 1e-30)


def _tensors(output: Any) -> list[Tensor]:
    """Return the floating-point tensors of an output, whatever holds them."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [tensor for part in output for tensor in _tensors(part)]
    return []


def _are_logits(answers: list[list[Tensor]]) -> bool:
    return all(len(one) == 1 and one[0].dim() == 2 and one[0].shape[1] > 1 for one in answers)


def _head(batches: list[Tensor], count: int) -> list[Tensor]:
    """Return the first images, in the batches that they came in."""
    kept: list[Tensor] = []
    for batch in batches:
        missing = count - sum(map(len, kept))
        if missing > 0:
            kept.append(batch[:missing])
    return kept


def _tail(batches: list[Tensor], count: int) -> list[Tensor]:
    """Return the last images."""
    return [batch.flip(0) for batch in _head([batch.flip(0) for batch in reversed(batches)], count)]


def _fingerprint(model: nn.Module, batches: list[Tensor], settings: dict[str, Any]) -> str:
    """Return a hash of the network, the images and the settings, which costs on disk must agree with."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    tensors = [*model.state_dict().values(), *batches]
    for tensor in tensors:
        digest.update(tensor.detach().double().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
