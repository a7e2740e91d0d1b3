"""Table 8 (detection on COCO): its six rows, the recipe that answers each, and mAP of the paper beside ours.

Backbones' MACs are counted elsewhere, with torch, and handed in. A row that was not trained says "not run".
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ghostnet.paper import agrees, table
from ghostnet.report.tables import text_table

TITLE = "Table 8: detection on COCO minival, backbones counted at 224x224"
_BACKBONES = {
    "MobileNetV2 1.0x": ("mobilenetv2_100", ""),
    "MobileNetV3 1.0x": (
        "mobilenetv3_large_100",
        "The MobileNetV3 paper prints 219 M; the table beside its authors' released weights prints 217 M.",
    ),
    "GhostNet 1.1x": ("ghostnet_110", ""),
}
_DETECTORS = {"RetinaNet": "retinanet", "Faster R-CNN": "faster_rcnn"}
_HEADER = (
    *(
        "backbone",
        "detector",
        "MACs M, paper",
        "counted",
        "",
        "mAP, paper",
        "ours",
        "difference",
        "n",
        "recipe",
    ),
)


@dataclass(frozen=True)
class Table8Row:
    """One row.

    Attributes:
        backbone, detector: as the paper names them.
        recipe: name of the recipe that answers it.
        paper_macs_m, paper_map: what the paper prints.
        macs: counted by us.
        agrees: whether the count, truncated or rounded, is the printed number.
        reason: why it is not, where it is not.
        map: our mean over seeds in percent, None if not run.
        n: seeds run.
        difference: `map - paper_map`.
        records: result files by seed.
    """

    backbone: str
    detector: str
    recipe: str
    paper_macs_m: float
    paper_map: float
    macs: int
    agrees: bool
    reason: str
    map: float | None
    n: int
    difference: float | None
    records: dict[int, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as what JSON can hold."""
        return asdict(self)


def table8_backbones() -> dict[str, str]:
    """Return the zoo's name of each backbone of Table 8."""
    return {label: name for label, (name, _) in _BACKBONES.items()}


def table8_rows(
    macs: Mapping[str, int], results: Sequence[tuple[Path, Mapping[str, Any]]]
) -> list[Table8Row]:
    """Put the paper's rows beside ours.

    Args:
        macs: multiply-accumulates by the zoo's name of the backbone.
        results: from `read_results`.
    """
    rows = []
    for printed in table(8):
        label, detector = str(printed["backbone"]), str(printed["detector"])
        network, reason = _BACKBONES[label]
        recipe = f"{_DETECTORS[detector]}_{network}"
        runs = [(path, result) for path, result in results if _is_of(result, recipe)]
        found = [100 * float(result["metrics"]["AP"]) for _, result in runs]
        mean = statistics.mean(found) if found else None
        paper_macs, paper_map = float(printed["backbone_macs_m"] or 0), float(printed["map"] or 0)
        same = agrees(macs[network], paper_macs, 0)
        rows.append(
            Table8Row(
                label,
                detector,
                recipe,
                paper_macs,
                paper_map,
                macs[network],
                same,
                "" if same else reason,
                mean,
                len(found),
                None if mean is None else mean - paper_map,
                {int(result["seed"]): path.as_posix() for path, result in runs},
            )
        )
    return rows


def _is_of(result: Mapping[str, Any], recipe: str) -> bool:
    asked = result.get("recipe")
    return result["exhibit"] == "table8" and isinstance(asked, Mapping) and asked.get("name") == recipe


def table8_text(rows: Sequence[Table8Row]) -> str:
    """Return the table as plain text, reasons below it."""
    cells = [
        (
            row.backbone,
            row.detector,
            f"{row.paper_macs_m:g}",
            f"{row.macs / 1e6:.2f}",
            "agrees" if row.agrees else "differs",
            f"{row.paper_map:.1f}",
            "not run" if row.map is None else f"{row.map:.1f}",
            "–" if row.difference is None else f"{row.difference:+.1f}",
            str(row.n),
            row.recipe,
        )
        for row in rows
    ]
    reasons = {row.backbone: row.reason for row in rows if row.reason}
    notes = [f"{backbone}: {reason}" for backbone, reason in reasons.items()]
    return "\n".join([TITLE, "", text_table(_HEADER, cells), *([""] if notes else []), *notes])
