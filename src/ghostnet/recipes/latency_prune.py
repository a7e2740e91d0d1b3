"""Pruning to a budget of time: `deploy.plan_share` finds how many MACs may stay, `prune` removes the rest.

What is timed has the channels of what comes out. Methods that take the same share of every layer are timed as the
quickest of them prunes; only the network that was found is pruned as asked for, which may look at many images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ghostnet import deploy
from ghostnet.convert import PRUNE_METHODS, ConversionReport, prune
from ghostnet.convert.pruning.prune import calibration_for, draft, least_share
from ghostnet.errors import InputError, unknown_name

MULTIPLE = 8  # channels: the registers of CPUs hold as many float32, or twice


def prune_by_plan(
    model: nn.Module,
    target: str,
    *,
    method: str = "l1",
    budget: float,
    example_input: Tensor,
    calibration: Tensor | Iterable[Any] | None = None,
    multiple: int = MULTIPLE,
    streams: bool = False,
    precision: str = "fp32",
    seed: int = 0,
    seconds: float = 0.3,
    folder: str | Path | None = None,
    announce: Callable[[str], None] | None = None,
) -> tuple[nn.Module, ConversionReport, deploy.SharePlan]:
    """Prune channels until the network takes a share of its time in a runtime on this machine.

    Args:
        model: the dense network; it is untouched.
        target: key of `deploy.TARGETS`.
        method: "l1", "channel", "thinet" or "taylor"; "sss" would have to be trained for each share.
        budget: time of the pruned network over that of the original, in (0, 1).
        example_input: `(N, C, H, W)`; its size is what is timed.
        calibration: as for `prune`.
        multiple: as for `prune`.
        streams: as for `prune`.
        precision, seconds, folder, announce: as for `deploy.plan_share`.
        seed: as for `prune`.

    Returns:
        The pruned network, its report, and what was timed.

    Raises:
        InputError: as `prune` and `deploy.plan_share`; a budget that cannot be met.
    """
    if method not in PRUNE_METHODS:
        raise unknown_name("pruning method", method, PRUNE_METHODS)
    if PRUNE_METHODS[method].needs == "training":
        raise InputError(
            f"method {method!r} trains before it chooses, so that no time can be planned; find the share of the MACs "
            "with method 'l1', then give it as `macs` (--macs)"
        )
    data = calibration if calibration is None or isinstance(calibration, Tensor) else list(calibration)
    calibration_for(PRUNE_METHODS[method], data)  # refused before anything is timed
    shape: dict[str, Any] = {"example_input": example_input, "multiple": multiple, "streams": streams}

    @functools.cache
    def pruned(share: float) -> tuple[nn.Module, ConversionReport]:
        return prune(model, method, macs=share, calibration=data, seed=seed, **shape)

    def candidate(share: float) -> nn.Module:
        # where every layer loses the same share its size is known before its channels are
        return (
            draft(model, method, macs=share, **shape) if PRUNE_METHODS[method].uniform else pruned(share)[0]
        )

    found = deploy.plan_share(
        model,
        target,
        build=candidate,
        input_size=tuple(example_input.shape[1:]),
        budget=budget,
        least=least_share(model, method=method, **shape),
        precision=precision,
        seconds=seconds,
        folder=folder,
        announce=announce,
    )
    if not found.met:
        raise InputError(
            f"budget (={budget}) cannot be met by pruning: with {found.share:.3f} of its MACs the network takes "
            f"{found.measured_ratio:.3f} of its time in {deploy.TARGETS[target].runtime}; ask for more"
        )
    return *pruned(found.share), found
