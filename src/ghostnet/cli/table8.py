"""Table 8 for `ghostnet reproduce`: backbones counted here, mAP from `results/`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ghostnet.report.table8 import Table8Row

_PAPER_ROUNDING = {"ghostnet_110": {"rounding": "paper"}}


def counted_table8(results: Path) -> list[Table8Row]:
    """Return the rows of Table 8, backbones counted as whole classifiers as the paper does.

    Args:
        results: folder of finished results.
    """
    from ghostnet import measure, models, report

    macs = {}
    for name in report.table8_backbones().values():
        model = models.create_model(name, **_PAPER_ROUNDING.get(name, {}))  # type: ignore[arg-type]
        macs[name] = measure.profile(model, models.model_info(name).input_size).macs
    return report.table8_rows(macs, report.read_results(results))
