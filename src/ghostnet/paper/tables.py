"""Every number that the paper prints, read from `tables/*.csv` (Tables 1 to 8, Fig. 7).

Fig. 6 and the curves of Fig. 7 are drawn, not printed; only the points that the text names are here.
"""

from __future__ import annotations

import csv
import functools
from importlib.resources import files

from ghostnet.errors import InputError

Cell = int | float | str | None

_FILES = {
    1: "table1_ghostnet_architecture.csv",
    2: "table2_feature_pair_mse.csv",
    3: "table3_vgg16_cifar10_kernel_d.csv",
    4: "table4_vgg16_cifar10_ratio_s.csv",
    5: "table5_cifar10_compression.csv",
    6: "table6_imagenet_resnet50_compression.csv",
    7: "table7_imagenet_small_networks.csv",
    8: "table8_coco_detection.csv",
}
_FIGURE_7 = "figure7_latency_points_in_text.csv"


def table(number: int) -> list[dict[str, Cell]]:
    """Return a table of the paper, one dictionary a row: numbers as int or float, empty cells as None.

    Args:
        number: 1 to 8, as the paper counts.

    Raises:
        InputError: the paper has no such table.

    Example:
        >>> table(3)[2]["accuracy"]
        93.7
    """
    if isinstance(number, bool) or number not in _FILES:
        raise InputError(f"the paper has no table {number!r}; choose 1 to {max(_FILES)}.")
    return [dict(row) for row in _rows(_FILES[number])]


def figure7_points() -> list[dict[str, Cell]]:
    """Return the accuracy and latency points of Fig. 7 that the text names, on the paper's phone.

    Example:
        >>> figure7_points()[0]["latency_ms"]
        40
    """
    return [dict(row) for row in _rows(_FIGURE_7)]


@functools.cache
def _rows(name: str) -> tuple[dict[str, Cell], ...]:
    text = (files("ghostnet.paper") / "tables" / name).read_text(encoding="utf-8")
    return tuple(
        {key: _parse(cell) for key, cell in row.items()} for row in csv.DictReader(text.splitlines())
    )


def _parse(cell: str) -> Cell:
    if not cell:
        return None
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell
