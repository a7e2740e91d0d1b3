"""What docs/detection.md says in numbers: detectors that were trained, and how fast exported ones are.

Reads the records of `results/detection`; what was not run says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ghostnet.report.tables import markdown_table

_SPEED = "detector_speed"


def detection_section(
    results: Sequence[tuple[Path, Mapping[str, Any]]], link_root: str = "../results"
) -> str:
    """Return the generated part of docs/detection.md.

    Args:
        results: from `read_results`.
        link_root: folder of the results as seen from the document.
    """
    ours = [(path, result) for path, result in results if result["exhibit"] == "detection"]
    parts = [_trained(ours, link_root), _speed(ours, link_root)]
    return "\n\n".join(part for part in parts if part)


def _trained(results: Sequence[tuple[Path, Mapping[str, Any]]], link_root: str) -> str:
    rows = []
    for path, result in results:
        metrics, recipe = result["metrics"], result["recipe"]
        if "AP50" not in metrics:
            continue
        before = metrics.get("untrained", {})
        classes = ", ".join(f"{name} {100 * row['AP50']:.1f}" for name, row in metrics["classes"].items())
        minutes = metrics.get("processor_seconds", metrics["train_seconds"]) / 60
        rows.append(
            (
                f"{recipe['detector']}, {Path(recipe['start']).stem or recipe['backbone']}",
                f"{metrics['train_images']} / {metrics['held_out_images']}",
                f"{100 * metrics['AP']:.1f}",
                f"{100 * metrics['AP50']:.1f}",
                f"{100 * before['AP50']:.1f}" if before else "–",
                classes,
                f"{minutes:.1f}",
                f"[{result['seed']}]({link_root}/{path.as_posix()})",
            )
        )
    header = (
        *(
            "detector, backbone",
            "images trained on / held out",
            "AP",
            "AP50",
            "AP50 untrained",
            "AP50 by class",
        ),
        *("processor minutes", "record (seed)"),
    )
    return markdown_table(header, rows) if rows else "No detector was trained: not run."


def _speed(results: Sequence[tuple[Path, Mapping[str, Any]]], link_root: str) -> str:
    tables = []
    for path, result in results:
        if not str(result["recipe"].get("name", "")).startswith(_SPEED):
            continue
        found = result["metrics"]
        rows = [_speed_row(row) for row in found["rows"]]
        header = ("detector", "median ms", "p10-p90 ms", "time ratio", "MB", "AP", "AP50", "AP75")
        machine = found["environment"]
        tables.append(
            f"{markdown_table(header[: len(rows[0])], rows)}\n\n"
            f"{found['runtime']}, {found['threads']} thread(s), one image of "
            f"{found['image'][1]}x{found['image'][2]}, {machine['cpu']}; [record]({link_root}/{path.as_posix()})"
        )
    return "\n\n".join(tables)


def _speed_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["name"],
        f"{row['median_ms']:.1f}",
        f"{row['p10_ms']:.1f}-{row['p90_ms']:.1f}",
        f"{row['ratio']:.2f}",
        f"{row['bytes'] / 1e6:.1f}" if "bytes" in row else "–",
        *(f"{100 * row[name]:.1f}" for name in ("AP", "AP50", "AP75") if name in row),
    )
