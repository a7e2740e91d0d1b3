"""Every exhibit of the paper: what it is, what running it needs, which records answer it, and how far they go.

Reads records only. An exhibit counts as done when its records answer every row of it; what is missing is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ghostnet.errors import unknown_name
from ghostnet.report.comparison import compare
from ghostnet.report.exhibits import EXHIBITS

Records = Sequence[tuple[Path, Mapping[str, Any]]]
DONE, PARTLY, NOT_RUN = "done", "partly", "not run"
RUNTIMES = {
    **{"onnx": "ONNX Runtime", "openvino": "OpenVINO", "litert": "LiteRT", "ncnn": "ncnn", "mnn": "MNN"},
    **{"c": "C", "coreml": "Core ML", "executorch": "ExecuTorch"},
}


@dataclass(frozen=True)
class Entry:
    """One exhibit.

    Attributes:
        key: for `ghostnet reproduce`.
        title: what it shows.
        needs: what running it takes beside this package.
    """

    key: str
    title: str
    needs: str


@dataclass(frozen=True)
class State:
    """How far an exhibit is.

    Attributes:
        word: "done", "partly" or "not run".
        detail: what there is and what is missing.
        seconds: that the records took, or None without one.
        records: their paths below the results folder.
    """

    word: str
    detail: str
    seconds: float | None
    records: tuple[str, ...]


_TRUNK = "a trained network (ResNet-50 v2's arrays, .npz), images"
CATALOGUE: dict[str, Entry] = {
    entry.key: entry
    for entry in (
        Entry("table1", "Table 1: GhostNet's layers", "nothing"),
        Entry("table2", "Table 2: error of d x d filters between like maps, d = 1 to 7", _TRUNK),
        Entry("table3", "Table 3: kernel size d of Ghost-VGG-16, CIFAR-10", "CIFAR-10, better with a GPU"),
        Entry("table4", "Table 4: ratio s of Ghost-VGG-16, CIFAR-10", "CIFAR-10, better with a GPU"),
        Entry(
            "table5", "Table 5: compression of VGG-16 and ResNet-56, CIFAR-10", "CIFAR-10, better with a GPU"
        ),
        Entry("short", "Table 5 in small: ResNet-20, five epochs a method", "CIFAR-10, a trained ResNet-20"),
        Entry(
            "short_sweep",
            "Tables 3 and 4 in small: ResNet-20 converted, five epochs each",
            "CIFAR-10, a trained ResNet-20",
        ),
        Entry("table6", "Table 6: compression of ResNet-50, ImageNet", "nothing to count; ImageNet to train"),
        Entry("table7", "Table 7: small networks, ImageNet", "nothing to count; ImageNet to train"),
        Entry(
            "table8",
            "Table 8: detection with RetinaNet and Faster R-CNN, COCO",
            "nothing to count; COCO to train",
        ),
        Entry("figure1", "Fig. 1: three pairs of like maps", _TRUNK),
        Entry(
            "figure4", "Fig. 4: intrinsic and ghost maps of Ghost-VGG-16", "a trained Ghost network, an image"
        ),
        Entry("figure5", "Fig. 5: maps of VGG-16", "a trained network, an image"),
        Entry("figure6", "Fig. 6: top-1 against MACs", "Table 7's counts"),
        Entry(
            "figure7", "Fig. 7: top-1 against latency", "`ghostnet bench … --result results/figure7/…json`"
        ),
    )
}


def entry(key: str) -> Entry:
    """Return an exhibit by its key.

    Raises:
        InputError: there is none; near matches are listed.

    Example:
        >>> entry("figure6").title
        'Fig. 6: top-1 against MACs'
    """
    if key not in CATALOGUE:
        raise unknown_name("exhibit", key, CATALOGUE)
    return CATALOGUE[key]


def records_of(key: str, results: Records) -> list[tuple[Path, Mapping[str, Any]]]:
    """Return the records that answer an exhibit.

    A record belongs to the exhibit that it names; those of `results/features` name it first in their recipe's name
    ("table2_resnet50"), and those with latencies belong to Fig. 7: but for detectors', which have no top-1, and for
    those of `results/processors`, since a picture shows one processor.
    """
    if key == "figure6":
        key = "table7"
    if key == "figure7":
        timed = [(path, result) for path, result in results if timed_rows(result)]
        return [
            (path, result) for path, result in timed if result["exhibit"] not in ("detection", "processors")
        ]
    if key in EXHIBITS:
        wanted = {path for row in compare(key, results) for path in row.records.values()}
        return [(path, result) for path, result in results if path.as_posix() in wanted]
    found = [
        (path, result)
        for path, result in results
        if result["exhibit"] == key
        or (result["exhibit"] == "features" and recipe_name(result).startswith(f"{key}_"))
    ]
    return sorted(
        found, key=lambda pair: not _of_the_paper(str((pair[1].get("metrics") or {}).get("network", "")))
    )


def _plain(network: str) -> str:
    return network.replace("-", "").replace("_", "").lower()


def _of_the_paper(network: str) -> bool:
    """Tell whether a network is one that the paper's figures show; those come first."""
    return any(name in _plain(network) for name in ("resnet50", "vgg16"))


def recipe_name(result: Mapping[str, Any]) -> str:
    """Return the name in a record's recipe, or ""."""
    recipe = result.get("recipe")
    return str(recipe.get("name", "")) if isinstance(recipe, Mapping) else str(recipe or "")


def timed_rows(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a record's rows that have a name, a runtime and a latency, whatever command wrote it; demos have none.

    Rows may stand in the record or in its metrics; a row's `runtime` may be the record's.
    """
    places = (result, result.get("metrics") or {}, result.get("recipe") or {})
    rows: Any = next(
        (place["rows"] for place in places if isinstance(place, Mapping) and "rows" in place), []
    )
    common = next(
        (str(place["runtime"]) for place in places if isinstance(place, Mapping) and place.get("runtime")), ""
    )
    found: list[Mapping[str, Any]] = []
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, Mapping) or "name" not in row:
            continue
        runtime = row.get("runtime") or common
        if runtime and isinstance(row.get("median_ms"), (int, float)):
            found.append({**row, "runtime": runtime})
    return found


def state_of(key: str, results: Records) -> State:
    """Return how far an exhibit is.

    Raises:
        InputError: there is no such exhibit.
    """
    entry(key)
    records = records_of(key, results)
    if key in EXHIBITS:
        word, detail = _trained(key, results)
    else:
        judge = _JUDGES.get(key)
        word, detail = (NOT_RUN, "no record") if not records or judge is None else judge(records)
    seconds = sum(float(result.get("seconds", 0.0)) for _, result in records) if records else None
    return State(word, detail, seconds, tuple(path.as_posix() for path, _ in records))


def _trained(key: str, results: Records) -> tuple[str, str]:
    rows = [row for row in compare(key, results) if row.name]
    run = sum(row.n > 0 for row in rows)
    detail = f"{run} of {len(rows)} rows trained"
    if not run and any(row.params is not None for row in rows):
        return PARTLY, f"counted, {detail}"
    return (DONE if run == len(rows) else PARTLY if run else NOT_RUN), detail


def _table1(records: Records) -> tuple[str, str]:
    rows = records[-1][1]["metrics"]["rows"]
    agree = sum(bool(row["agrees"]) for row in rows)
    return (DONE if agree == len(rows) else PARTLY), f"{agree} of {len(rows)} layers agree"


def _counted(records: Records) -> tuple[str, str]:
    rows = [row for row in records[-1][1]["metrics"]["rows"] if row.get("params") is not None]
    agree = sum(row.get("status") == "agrees" for row in rows)
    return PARTLY, f"{len(rows)} networks counted, {agree} agree; accuracy not run"


def _shown_on(wanted: str) -> Callable[[Records], tuple[str, str]]:
    """Judge by the network: done on the paper's own, partly on another."""

    def judge(records: Records) -> tuple[str, str]:
        networks = list(dict.fromkeys(str(result["metrics"].get("network", "?")) for _, result in records))
        right = any(wanted in _plain(name) for name in networks)
        return (DONE if right else PARTLY), "on " + ", ".join(networks)

    return judge


def _figure6(records: Records) -> tuple[str, str]:
    return PARTLY, f"{_counted(records)[1].split(';')[0]}; top-1 is the paper's"


def _figure7(records: Records) -> tuple[str, str]:
    rows = [row for _, result in records for row in timed_rows(result)]
    runtimes = ", ".join(sorted({str(row["runtime"]) for row in rows}))
    return PARTLY, f"{len(rows)} latencies in {runtimes}; not on the paper's phone"


def _detection(records: Records) -> tuple[str, str]:
    rows = [row for _, result in records for row in result["metrics"].get("rows", ())]
    counted = {row["backbone"] for row in rows}
    trained = {(row["backbone"], row["detector"]) for row in rows if row.get("map") is not None}
    return PARTLY, f"{len(counted)} backbones counted, {len(trained)} of 6 detectors trained"


_JUDGES: dict[str, Callable[[Records], tuple[str, str]]] = {
    "table1": _table1,
    "table2": _shown_on("resnet50"),
    "table6": _counted,
    "table7": _counted,
    "table8": _detection,
    "figure1": _shown_on("resnet50"),
    "figure4": _shown_on("vgg16"),
    "figure5": _shown_on("vgg16"),
    "figure6": _figure6,
    "figure7": _figure7,
}
