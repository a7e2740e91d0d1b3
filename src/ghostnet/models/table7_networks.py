"""Which network of the zoo each row of Table 7 is, and why its counts are not the printed ones where they are not.

The rows' numbers are in `ghostnet.paper`; `ghostnet models --table 7` puts both side by side, and a test holds that
every row that differs has its reason here and no other row has one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Table7Network:
    """One row.

    Attributes:
        name: registry key.
        args: what `create_model` is given for this row.
        reason: why a count differs from the printed one; empty where both agree.
    """

    name: str
    args: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


_PAPER_ROUNDING = {"rounding": "paper"}  # the widths that the paper's own counts follow

TABLE7: dict[str, Table7Network] = {
    "ShuffleNetV1 0.5x (g=8)": Table7Network("shufflenetv1_g8_x0_5"),
    "MobileNetV2 0.35x": Table7Network("mobilenetv2_035"),
    "ShuffleNetV2 0.5x": Table7Network(
        "shufflenetv2_x0_5",
        reason="40.48 M are convolutions and classifier; with the 3x3 max pooling as 9 operations an output it is "
        "41.15 M. 1.0x and 1.5x, built of the same units, agree.",
    ),
    "MobileNetV3 Small 0.75x": Table7Network("mobilenetv3_small_075", {"head_channels": 1280}),
    "GhostNet 0.5x": Table7Network("ghostnet_050", _PAPER_ROUNDING),
    "MobileNetV1 0.5x": Table7Network(
        "mobilenetv1_050",
        reason="149.50 M without any pooling; with one operation for each pooled element it is 149.52 M, which "
        "rounds to 150.",
    ),
    "MobileNetV2 0.6x": Table7Network(
        "mobilenetv2_060",
        reason="0.6x is not a width of the MobileNetV2 paper; the row is the ShuffleNetV2 authors' own network, whose "
        "channels they do not print. Multiples of 8 give 150.96 M, of 4 132.03 M, of 1 121.18 M.",
    ),
    "ShuffleNetV1 1.0x (g=3)": Table7Network(
        "shufflenetv1_g3_x1_0",
        reason="137.46 M are convolutions and classifier; with the 3x3 max pooling as 9 operations an output it is "
        "138.14 M.",
    ),
    "ShuffleNetV2 1.0x": Table7Network("shufflenetv2_x1_0"),
    "MobileNetV3 Large 0.75x": Table7Network("mobilenetv3_large_075"),
    "GhostNet 1.0x": Table7Network("ghostnet_100", _PAPER_ROUNDING),
    "MobileNetV2 1.0x": Table7Network("mobilenetv2_100"),
    "ShuffleNetV2 1.5x": Table7Network("shufflenetv2_x1_5"),
    "FE-Net 1.0x": Table7Network(
        "fenet_100",
        reason="The network of the FE-Net paper's Table 4, whose 1.375x gives the printed 563 M and 5.9 M exactly. "
        "For 1.0x a last convolution of 1536 instead of the printed 1380 channels would give 301 M and 3.7 M.",
    ),
    "FBNet-B": Table7Network(
        "fbnet_b",
        reason="The block list of the authors' first code release. Neither it nor their later list, with or without "
        "1x1 convolutions in the blocks that do not widen, gives 4.5 M parameters (4.75 to 4.86 M).",
    ),
    "ProxylessNAS": Table7Network("proxylessnas_mobile"),
    "MnasNet-A1": Table7Network("mnasnet_a1"),
    "MobileNetV3 Large 1.0x": Table7Network(
        "mobilenetv3_large_100",
        reason="The MobileNetV3 paper prints 219 M; the table beside its authors' released weights prints 217 M.",
    ),
    "GhostNet 1.3x": Table7Network("ghostnet_130", _PAPER_ROUNDING),
}
