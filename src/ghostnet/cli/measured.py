"""`ghostnet convert --macs SHARE`: each layer gets the ratio that costs the network's answers least."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostnet.cli.calibration import CALIBRATION
from ghostnet.cli.output import note
from ghostnet.errors import InputError

if TYPE_CHECKING:
    from torch import nn


def check_measured(
    macs: float | None,
    costs: Path | None,
    calibration: str | None,
    method: str,
    others: dict[str, bool],
    *,
    by_budget: bool,
) -> None:
    """Refuse what makes no sense with `--macs` or `--costs`, before anything slow is loaded.

    Args:
        macs: value of `--macs`.
        costs: value of `--costs`.
        calibration: value of `--calibration`.
        method: value of `--method`; pruning has its own use of `--macs`.
        others: options that do not go with measured ratios, and whether each was given.
        by_budget: whether a plan measures costs.

    Raises:
        InputError: one of them was, or images are missing.
    """
    if costs is not None and not by_budget and (macs is None or method != "ghost"):
        raise InputError(
            "--costs keeps what --macs, or --plan with --budget and --calibration, measures for method ghost; give one"
            if macs is None
            else f"--costs is for method ghost, not for {method}; leave out one of them"
        )
    if macs is None or method != "ghost":
        return
    for name, given in others.items():
        if given:
            raise InputError(f"--macs chooses a ratio for each layer; leave out {name}, or --macs")
    if calibration is None:
        raise InputError(f"--macs measures on images what each layer costs: give {CALIBRATION}")


def measured_ratios(
    model: nn.Module,
    batches: Sequence[Any],
    macs: float,
    *,
    cheap_kernel_size: int,
    layers: Sequence[str] | None,
    costs: Path | None,
) -> dict[str, int]:
    """Measure, show the table, and return the ratio of each layer that is to be ghosted.

    Args:
        model: the dense network.
        batches: images, with or without labels, which are left out.
        macs: share of the MACs that stays.
        cheap_kernel_size: d.
        layers: the candidates, None for the usual ones.
        costs: keeps what is measured.
    """
    from ghostnet.convert import sensitivity

    found = sensitivity(
        model,
        batches,
        cheap_kernel_size=cheap_kernel_size,
        layers=layers,
        macs=macs,
        file=costs,
        progress=True,
    )
    note(str(found))
    return found.ratios(macs)
