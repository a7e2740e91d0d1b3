"""Tables of deployment from `results/`.

Latency (`deploy`; on a further processor `processors`), int8 beside float (`int8`), plans (`plan`), browsers (`web`),
ARM (`arm`).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ghostnet.paper import table
from ghostnet.report.catalogue import RUNTIMES, timed_rows
from ghostnet.report.points import figure7
from ghostnet.report.tables import markdown_table

_INT8_HEADER = (
    *("network", "runtime", "images", "float top-1 %", "int8 top-1 %", "difference"),
    *("float MB", "int8 MB", "layers in float", "records"),
)
_PLAN_HEADER = (
    *("network", "runtime", "precision", "vectors", "budget"),
    *("layers ghosted, or pruned", "time ratio", "all ghosted", "record"),
)
SPREAD_NOTE = "in brackets the lowest and highest of several processes"
_ARM_HEADER = ("network", "input", "runtime", "to x86", "to PyTorch", "emulator", "record")
_WEB_HEADER = (
    *("network", "rewrites", "input", "to ONNX Runtime", "to PyTorch"),
    *("median ms", "time / first", "record"),
)

Results = Sequence[tuple[Path, Mapping[str, Any]]]


def deploy_part(results: Results, link_root: str = "results") -> str:
    """Return the Markdown of all tables, empty where nothing was run.

    Args:
        results: from `read_results`.
        link_root: folder of the results as seen from the document.
    """
    latency = latency_part(results, link_root)
    peers = peers_part(results, link_root)
    parts = [part for part in (latency, *_processors_parts(results, link_root), peers) if part]
    rows = int8_rows(results, link_root)
    if rows:
        title = (
            "int8 against float, the same test images through the exported files (`ghostnet eval FILE`); @w4: "
            "weights of 4 bits, @tuned: fine-tuned for int8:"
        )
        parts.append(f"{title}\n\n{markdown_table(_INT8_HEADER, rows)}")
    plans = plan_rows(results, link_root)
    if plans:
        places = (result["environment"] for _, result in results if result["exhibit"] == "plan")
        processor = next(places).get("cpu", "unknown processor")
        title = (
            "Conversion by plan (`ghostnet convert --plan`), time of the new network over the dense one's in the "
            f"same runtime and run, one thread, batch 1, {processor}; s: the ratios of a plan that chooses them:"
        )
        parts.append(f"{title}\n\n{markdown_table(_PLAN_HEADER, plans)}")
    parts += web_parts(results, link_root)
    emulated = arm_rows(results, link_root)
    if emulated:
        title = (
            "Outputs on emulated processors (`scripts/check_on_arm.py`, `scripts/check_c_elsewhere.py`), largest "
            "difference over the largest output, float32 unless said:"
        )
        parts.append(f"{title}\n\n{markdown_table(_ARM_HEADER, emulated)}")
    return "\n\n".join(parts)


def latency_part(results: Results, link_root: str = "results", *, exhibit: str = "deploy") -> str:
    """Return the Markdown table of `results/deploy`: each network's time over the first one's, in each runtime.

    Args:
        results: from `read_results`.
        link_root: folder of the results as seen from the document.
        exhibit: "processors" for the records of another processor.
    """
    rows: list[tuple[str, ...]] = []
    place: Mapping[str, Any] = {}
    spread = False
    for path, result in results:
        if result["exhibit"] != exhibit:
            continue
        place = result["environment"]
        for row in timed_rows(result):
            spread = spread or bool(row.get("ratios"))
            rows.append(
                (
                    _runtime(row),
                    str(row["name"]),
                    _side(result),
                    f"{float(row['median_ms']):.2f}",
                    ratio_cell(float(row["ratio"]), row.get("ratios") or [], 3),
                    f"[record]({link_root}/{path.as_posix()})",
                )
            )
    if not rows:
        return ""
    processor = str(place.get("cpu", "unknown processor"))
    if exhibit == "processors":
        title = f"The same on {processor} with {place.get('vectors', 'unknown vectors')}, no wider ones"
    else:
        title = (
            "Latency (`ghostnet bench`), float32 unless said, one thread, batch 1, random weights unless packaged, "
            f"side by side in turns, {processor}; `@plain` is what each library's own export gives"
        )
    title += f", {SPREAD_NOTE}:" if spread else ":"
    header = ("runtime", "network", "input", "median ms", "time / first", "record")
    return f"{title}\n\n{markdown_table(header, rows)}"


def _processors_parts(results: Results, link_root: str) -> list[str]:
    """Return the table of each further processor."""
    kinds: dict[str, list[tuple[Path, Mapping[str, Any]]]] = {}
    for path, result in results:
        if result["exhibit"] == "processors":
            place = result["environment"]
            kinds.setdefault(f"{place.get('cpu')} {place.get('vectors')}", []).append((path, result))
    return [latency_part(found, link_root, exhibit="processors") for found in kinds.values()]


def _side(result: Mapping[str, Any]) -> str:
    """Return height and width of a record's input, "224x224"."""
    size = result.get("metrics", {}).get("input_size", result.get("input_size"))
    return "x".join(map(str, size[-2:])) if size else "–"


def peers_part(results: Results, link_root: str = "results") -> str:
    """Return the Markdown table of `results/figure7`: a row a network, a column a runtime, milliseconds an image.

    Table 7's networks come first, in its order; a network that a runtime's record lacks has a dash there.

    Args:
        results: from `read_results`.
        link_root: folder of the results as seen from the document.
    """
    own = {path.as_posix() for path, result in results if result["exhibit"] == "figure7"}
    timed = [point for point in figure7(results) if point.record in own]
    if not timed:
        return ""
    printed = [str(row["model"]) for row in table(7)]
    names = sorted(
        dict.fromkeys(point.name for point in timed),
        key=lambda name: printed.index(name) if name in printed else len(printed),
    )
    kinds = list(dict.fromkeys(point.kind for point in timed))
    cells = {(point.name, point.kind): f"{point.x:.2f}" for point in timed}
    top1 = {point.name: "–" if point.top1 is None else f"{point.top1:.1f}" for point in timed}
    rows = [(name, top1[name], *(cells.get((name, kind), "–") for kind in kinds)) for name in names]
    places = {point.kind: point.record for point in timed}
    records = ", ".join(f"[{kind}]({link_root}/{place})" for kind, place in places.items())
    title = (
        "Table 7's networks and RepGhost, each exported here with the passes that its runtime gains from, milliseconds "
        f"an image, one thread, random weights; top-1 as in Table 7, where it is given; records: {records}:"
    )
    return f"{title}\n\n{markdown_table(('network', 'top-1 %', *kinds), rows)}"


def ratio_cell(ratio: float, ratios: Sequence[float], digits: int) -> str:
    """Return a ratio, and its lowest and highest where a record has one of each process: "0.85 (0.84-0.87)".

    Args:
        ratio: their median, or the only one.
        ratios: of each process; empty where there was one process.
        digits: after the point.
    """
    cell = f"{ratio:.{digits}f}"
    return f"{cell} ({min(ratios):.{digits}f}-{max(ratios):.{digits}f})" if len(set(ratios)) > 1 else cell


def time_over(row: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return the cell of one row's time over another's of the same record."""
    own, others = row.get("ratios") or [], other.get("ratios") or []
    # ratios are to the first network in the same setting
    alike = all(row.get(key) == other.get(key) for key in ("runtime", "precision", "threads"))
    if not own or not alike:
        return ratio_cell(float(row["median_ms"]) / float(other["median_ms"]), [], 2)
    ratios = [mine / theirs for mine, theirs in zip(own, others, strict=True)]
    return ratio_cell(statistics.median(ratios), ratios, 2)


def our_latencies(
    results: Results,
) -> list[tuple[Path, str, Mapping[str, Any], list[Mapping[str, Any]]]]:
    """Return for each runtime the record, the runtime, the zoo's own network, and the peers timed beside it.

    A runtime in another precision than float32 counts as one of its own, and is named so. Records that timed other
    peers than the first one are left out; of two in one runtime the last one counts.
    """
    found: dict[str, tuple[Path, str, Mapping[str, Any], list[Mapping[str, Any]]]] = {}
    others: list[str] = []
    for path, result in results:
        timed = timed_rows(result) if result["exhibit"] == "deploy" else []
        ours = next((row for row in timed if ":" not in str(row["name"])), None)
        beside = [row for row in timed if row is not ours]
        if ours is None or not beside or (others and [str(row["name"]) for row in beside] != others):
            continue
        others = [str(row["name"]) for row in beside]
        found[_runtime(ours)] = path, _runtime(ours), ours, beside
    return list(found.values())


def ghosted_latencies(results: Results) -> list[tuple[Path, str, str, Mapping[str, Any]]]:
    """Return record, runtime, input and row of each Ghost network that was timed beside its dense one's plain export.

    The Ghost network is our export, both are in float32, and the plain export is the record's first in that runtime,
    so that the row's ratio is to it.
    """
    found = []
    for path, result in results:
        first: dict[str, str] = {}
        for row in timed_rows(result) if result["exhibit"] == "deploy" else []:
            name, form = str(row["name"]).partition("@")[::2]
            dense = first.setdefault(_runtime(row), name if form == "plain" else "")
            if (
                name in (f"ghost_{dense}", f"{dense}.ghost")
                and form != "plain"
                and row.get("precision", "fp32") == "fp32"
            ):
                found.append((path, _runtime(row), _side(result), row))
    return found


def _runtime(row: Mapping[str, Any]) -> str:
    """Return a row's runtime, with its precision where that is not float32."""
    name = RUNTIMES.get(str(row["runtime"]), str(row["runtime"]))
    precision = row.get("precision", "fp32")
    return name if precision == "fp32" else f"{name} {precision}"


def latency_summary(results: Results, link_root: str = "results") -> str:
    """Return a row a runtime: the zoo's own network, and its time over each other's beside it."""
    rows: list[tuple[str, ...]] = []
    others: list[str] = []
    for path, runtime, ours, beside in our_latencies(results):
        others = [str(row["name"]) for row in beside]
        ratios = [time_over(ours, row) for row in beside]
        link = f"[record]({link_root}/{path.as_posix()})"
        rows.append((runtime, str(ours["name"]), f"{float(ours['median_ms']):.2f}", *ratios, link))
    if not rows:
        return ""
    header = ("runtime", "network", "ms", *(f"time / {name}" for name in others), "record")
    table = markdown_table(header, rows)
    note = f", {SPREAD_NOTE}" if any("(" in cell for row in rows for cell in row[3:-1]) else ""
    return f"GhostNet as exported here, beside others' plain exports{note} ([more](deploy.md)):\n\n{table}"


def arm_rows(results: Results, link_root: str = "results") -> list[tuple[str, ...]]:
    """Return a row for each network in each runtime that ran on an emulated processor."""
    return [
        (
            str(row["network"]),
            "x".join(map(str, row["input_size"][1:])),
            f"{_runtime(row)} {row['version']}",
            f"{row['against_here']:.1e}",
            f"{row['against_pytorch']:.1e}",
            f"{row.get('machine', 'aarch64')}, QEMU {result['metrics']['qemu']}",
            f"[record]({link_root}/{path.as_posix()})",
        )
        for path, result in results
        if result["exhibit"] == "arm"
        for row in result["metrics"]["rows"]
    ]


def web_parts(results: Results, link_root: str = "results") -> list[str]:
    """Return for each record of a browser what it is and a table: outputs beside ONNX Runtime's, and times."""
    parts = []
    for path, result in results:
        if result["exhibit"] != "web":
            continue
        found = result["metrics"]
        rows = [_web_row(row, f"[record]({link_root}/{path.as_posix()})") for row in found["rows"]]
        title = (
            f"In the browser (`scripts/check_in_browser.py`), onnxruntime-web {found['rows'][0]['version']}, WASM, "
            f"one thread, batch 1, {found['browser']}, {result['environment'].get('cpu', 'unknown processor')}; "
            "rewrites: none, those of the target onnx, or those for browsers; largest difference of outputs over the "
            f"largest output, float32; time over the first network's at the same input, {SPREAD_NOTE}:"
        )
        parts.append(f"{title}\n\n{markdown_table(_WEB_HEADER, rows)}")
    return parts


def _web_row(row: Mapping[str, Any], link: str) -> tuple[str, ...]:
    return (
        str(row["network"]),
        str(row["rewrites"]),
        "x".join(map(str, row["input_size"][1:])),
        f"{row['against_here']:.1e}",
        f"{row['against_pytorch']:.1e}",
        f"{row['median_ms']:.2f}",
        ratio_cell(float(row["ratio"]), row["ratios"], 2),
        link,
    )


def int8_rows(results: Results, link_root: str = "results") -> list[tuple[str, ...]]:
    """Return a row for each int8 record that has a float one of the same network, runtime and images.

    "net@tuned" is a variant of "net": other int8 files of it.
    """
    found: dict[str, dict[tuple[str, str, str], tuple[Path, Mapping[str, Any]]]] = {"fp32": {}, "int8": {}}
    for path, result in results:
        metrics = result.get("metrics", {})
        if result["exhibit"] != "int8" or metrics.get("precision") not in found:
            continue
        network = str(result["recipe"]["name"]).removesuffix(f"-{metrics['runtime']}-{metrics['precision']}")
        found[metrics["precision"]][network, metrics["runtime"], str(result["recipe"]["data"])] = path, result
    rows = []
    for (network, runtime, images), record in found["int8"].items():
        plain = found["fp32"].get((network.partition("@")[0], runtime, images))
        if plain is not None:
            rows.append(_int8_row((network, runtime, images), plain, record, link_root))
    return rows


def _int8_row(
    key: tuple[str, str, str],
    plain: tuple[Path, Mapping[str, Any]],
    int8: tuple[Path, Mapping[str, Any]],
    link_root: str,
) -> tuple[str, ...]:
    network, runtime, data = key
    before, after = plain[1]["metrics"], int8[1]["metrics"]
    stated = after.get("quantisation") or {}
    links = [
        f"[{name}]({link_root}/{path.as_posix()})" for name, (path, _) in (("float", plain), ("int8", int8))
    ]
    return (
        network,
        RUNTIMES.get(runtime, runtime),
        f"{after['count']:,} ({data})",
        f"{before['top1']:.2f}",
        f"{after['top1']:.2f}",
        f"{after['top1'] - before['top1']:+.2f}",
        f"{before['bytes'] / 1e6:.2f}",
        f"{after['bytes'] / 1e6:.2f}",
        f"{len(stated.get('float_layers', []))} of {stated.get('layers', '?')}",
        " ".join(links),
    )


def plan_rows(results: Results, link_root: str = "results") -> list[tuple[str, ...]]:
    """Return a row for each plan."""
    rows: list[tuple[str, ...]] = []
    for path, result in results:
        if result["exhibit"] != "plan":
            continue
        plan = result["metrics"]
        whole, budget = plan.get("all_ratio"), plan.get("budget", 1)
        rows.append(
            (
                str(result["recipe"]["network"]),
                RUNTIMES.get(plan["target"], plan["target"]),
                plan["precision"],
                _vectors(plan.get("processor_features", [])),
                "–" if budget == 1 else f"{budget}",
                _planned(plan, result["recipe"]),
                f"{plan['measured_ratio']:.3f}",
                "–" if whole is None else f"{whole:.3f}",
                f"[record]({link_root}/{path.as_posix()})",
            )
        )
    return rows


def _planned(plan: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """Say how many layers were ghosted, or how much pruning left."""
    if "share" in plan:
        return f"pruned ({recipe.get('method', '?')}) to {plan['share']:.2f} of the MACs"
    several = isinstance(plan.get("settings", {}).get("ratio"), list)
    ratios = ", ".join(map(str, sorted(set(plan["ratios"].values())))) if several else ""
    return f"{len(plan['layers'])} of {len(plan['rows'])}{f', s = {ratios}' if ratios else ''}"


def _vectors(features: Sequence[str]) -> str:
    """Return the widest vectors among what a processor states."""
    known = {"avx512f": "AVX-512", "avx2": "AVX2"}
    return next((name for feature, name in known.items() if feature in features), "?")
