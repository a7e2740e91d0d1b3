"""Table 8 counted: each row's backbone is built and profiled; its mAP comes from the records of training runs."""

from __future__ import annotations

from typing import Any


def table8_rows() -> list[dict[str, Any]]:
    """Return the six rows of Table 8 in its order, JSON-able.

    Each has `backbone`, `detector`, `recipe` (which trains it), the counted `backbone_macs`, `status` ("agrees" or
    "differs": truncated or rounded, it is the printed number or not) and `reason`.
    """
    from ghostnet.paper import agrees, table
    from ghostnet.recipes.detection import BACKBONES, DETECTORS

    macs = {label: backbone.macs() for label, backbone in BACKBONES.items()}
    rows = []
    for printed in table(8):
        label, detector = str(printed["backbone"]), str(printed["detector"])
        same = agrees(macs[label], float(printed["backbone_macs_m"] or 0), 0)
        rows.append(
            {
                "backbone": label,
                "detector": detector,
                "recipe": f"{DETECTORS[detector]}_{BACKBONES[label].name}",
                "backbone_macs": macs[label],
                "status": "agrees" if same else "differs",
                "reason": "" if same else BACKBONES[label].reason,
            }
        )
    return rows
