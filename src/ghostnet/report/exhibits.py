"""Tables 3 to 5 and the short CPU tables, row by row: what the paper prints and which recipes answer it.

Only names of recipes stand here; their numbers come from `results/`. A row without a recipe is a baseline of the
paper that is not built here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ghostnet.errors import unknown_name
from ghostnet.paper import table

_ORIGINAL, _LONG = "164 epochs", "400 epochs"


@dataclass(frozen=True)
class Row:
    """One row of a table of ours.

    Args:
        label: the network.
        training: how it is trained, in a few words.
        recipe: name of the recipe, "" for a row of the paper alone.
        variant: of the recipe.
        paper: the paper's row, or None beyond the paper.
    """

    label: str
    training: str
    recipe: str = ""
    variant: str = ""
    paper: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The name that results of this row have."""
        return f"{self.recipe}_{self.variant}" if self.variant else self.recipe


@dataclass(frozen=True)
class Exhibit:
    """A table: its key for `ghostnet reproduce`, folder of `results/`, title and rows."""

    key: str
    folder: str
    title: str
    rows: tuple[Row, ...]


def _both(label: str, recipe: str, paper: dict[str, Any] | None) -> list[Row]:
    return [Row(label, _ORIGINAL, recipe, "", paper), Row(label, _LONG, recipe, "long", paper)]


def _sweep(number: int) -> tuple[Row, ...]:
    rows = []
    for paper in table(number):
        ghost = paper["s"] is not None
        recipe = f"ghost_vgg16_s{paper['s']}_d{paper['d']}" if ghost else "vgg16"
        label = f"{paper['model']} s={paper['s']} d={paper['d']}" if ghost else str(paper["model"])
        rows += _both(label, recipe, paper)
    return tuple(rows)


_DENSE = {
    "VGG-16": [("VGG-16", "vgg16")],
    "ResNet-56": [("ResNet-56", "resnet56")],
    "Ghost-VGG-16 (s=2)": [("Ghost-VGG-16 s=2 d=3", "ghost_vgg16_s2_d3")],
    "Ghost-ResNet-56 (s=2)": [
        ("Ghost-ResNet-56 s=2 d=3", "ghost_resnet56_d3"),
        ("Ghost-ResNet-56 s=2 d=1", "ghost_resnet56_d1"),
    ],
}
_PRUNED = {
    "L1-VGG-16": "vgg16_l1",
    "L1-ResNet-56": "resnet56_l1",
    "CP-ResNet-56": "resnet56_channel",
}
_BEYOND = {
    "converted": "converted, 40 epochs",
    "distilled": "distilled, 400 epochs",
    "affine": "affine, 400 epochs",
    "wavelet": "wavelet, 400 epochs",
}


def _table5() -> tuple[Row, ...]:
    rows: list[Row] = []
    for paper in table(5):
        name = str(paper["model"])
        for label, recipe in _DENSE.get(name, ()):
            rows += _both(label, recipe, paper)
        if name in _PRUNED:
            rows.append(Row(name, "pruned, 40 epochs", _PRUNED[name], "", paper))
        elif name not in _DENSE:
            rows.append(Row(name, "not built here", "", "", paper))
    for method, label in (("thinet", "ThiNet"), ("sss", "SSS"), ("taylor", "Taylor-FO-BN")):
        rows.append(Row(f"{label}-ResNet-56", "pruned, 40 epochs", f"resnet56_{method}"))
    for network, nice in (("vgg16", "VGG-16"), ("resnet56", "ResNet-56")):
        rows += [
            Row(f"Ghost-{nice} s=2", training, f"ghost_{network}_{kind}")
            for kind, training in _BEYOND.items()
        ]
    rows += [
        Row("Ghost-VGG-16 s=2", "taught by a published ResNet-56, 20 epochs", "ghost_vgg16_taught"),
        Row("Ghost-VGG-16 s=2", "Muon, 30 epochs", "ghost_vgg16_muon"),
        Row("Ghost-ResNet-56 s=2", "published ResNet-56 converted, 32 epochs", "ghost_resnet56_published"),
        Row("ResNet-56", "published ResNet-56, 32 epochs more", "control_resnet56"),
    ]
    return tuple(rows)


_SHORT = (
    ("ResNet-20, dense, trained on", "short_resnet20"),
    ("Ghost-ResNet-20, from scratch", "short_ghost_resnet20"),
    ("Ghost-ResNet-20, affine, from scratch", "short_ghost_resnet20_affine"),
    ("Ghost-ResNet-20, wavelet, from scratch", "short_ghost_resnet20_wavelet"),
    ("Ghost-ResNet-20, converted", "short_ghost_resnet20_converted"),
    ("Ghost-ResNet-20, converted, measured ratios", "short_ghost_resnet20_measured"),
    ("L1 norm [31, 37]", "short_resnet20_l1"),
    ("Channel pruning (CP) [18]", "short_resnet20_channel"),
    ("ThiNet [39]", "short_resnet20_thinet"),
    ("SSS [23]", "short_resnet20_sss"),
    ("Taylor-FO-BN [41]", "short_resnet20_taylor"),
)


def _short() -> tuple[Row, ...]:
    ways = (("", "5 epochs, labels"), ("distilled", "5 epochs, distilled"))
    return tuple(
        Row(label, training, recipe, variant) for variant, training in ways for label, recipe in _SHORT
    )


def _short_sweep() -> tuple[Row, ...]:
    rows = [row for number in (3, 4) for row in table(number) if row["s"]]
    like_paper = dict.fromkeys((str(row["s"]), str(row["d"])) for row in rows)
    return tuple(
        Row(f"Ghost-ResNet-20 s={s} d={d}", "converted, 5 epochs, labels", _short_converted(s, d))
        for s, d in like_paper
    )


def _short_converted(ratio: str, kernel: str) -> str:
    name = "short_ghost_resnet20_converted"
    return name if (ratio, kernel) == ("2", "3") else f"{name}_s{ratio}_d{kernel}"


_MAKERS = {
    "table3": ("cifar10", "Table 3: kernel size d of Ghost-VGG-16, CIFAR-10", lambda: _sweep(3)),
    "table4": ("cifar10", "Table 4: ratio s of Ghost-VGG-16, CIFAR-10", lambda: _sweep(4)),
    "table5": ("cifar10", "Table 5: compression of VGG-16 and ResNet-56, CIFAR-10", _table5),
    "short": (
        "cifar10_short",
        "Table 5 in small: ResNet-20, five epochs for every method on a CPU, from one dense network",
        _short,
    ),
    "short_sweep": (
        "cifar10_short",
        "Tables 3 and 4 in small: kernel size d and ratio s of a converted ResNet-20, five epochs on a CPU",
        _short_sweep,
    ),
}
EXHIBITS = tuple(_MAKERS)


def exhibit(key: str) -> Exhibit:
    """Return a table by its key.

    Raises:
        InputError: there is none; near matches are listed.

    Example:
        >>> exhibit("table3").rows[2].recipe
        'ghost_vgg16_s2_d1'
    """
    if key not in _MAKERS:
        raise unknown_name("exhibit", key, _MAKERS)
    folder, title, rows = _MAKERS[key]
    return Exhibit(key, folder, title, rows())


def check_only(rows: tuple[Row, ...], pattern: str) -> None:
    """Raise unless some row's name matches a shell pattern.

    Raises:
        InputError: none does.
    """
    from fnmatch import fnmatchcase

    if not any(fnmatchcase(row.name, pattern) for row in rows if row.recipe):
        raise unknown_name("row", pattern, [row.name for row in rows if row.recipe])
