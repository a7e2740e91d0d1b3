"""`ghostnet detect bench`: exported detectors timed side by side, image after image, in one process."""

from __future__ import annotations

import functools
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostnet.cli.detect_data import BAD_BOXES_HELP, DATA_HELP, SPLIT_HELP, opened_boxes
from ghostnet.cli.idle import refuse_idle
from ghostnet.cli.integer import integer_option
from ghostnet.cli.network import refuse_source
from ghostnet.cli.output import answer, note
from ghostnet.errors import InputError
from ghostnet.files import refuse_overwrite

if TYPE_CHECKING:
    import numpy as np

    from ghostnet.data import DetectionSet
    from ghostnet.detect import DetectorSession

AVERAGE_PRECISIONS = ("AP", "AP50", "AP75")


def bench(
    context: typer.Context,
    detectors: Annotated[
        list[str], typer.Argument(metavar="FILE|KIND:BACKBONE...", help="Exported files, or fresh ones.")
    ],
    image: Annotated[
        Path | None, typer.Option(help="Image to detect in; default: noise of 320x427 pixels.")
    ] = None,
    data: Annotated[str, typer.Option(help=f"Also measure their AP. {DATA_HELP}")] = "",
    split: Annotated[str, typer.Option(help=SPLIT_HELP)] = "",
    bad_boxes: Annotated[str, typer.Option(help=BAD_BOXES_HELP)] = "error",
    runtime: Annotated[str, typer.Option(help="onnxruntime or openvino.")] = "onnxruntime",
    threads: Annotated[int, integer_option(help="Threads inside one operator.")] = 1,
    plain: Annotated[
        bool, typer.Option("--plain", help="Export the fresh ones as they are, without rewrites.")
    ] = False,
    seconds: Annotated[float, typer.Option(help="Least time for each, after warm-up.")] = 5.0,
    result: Annotated[Path | None, typer.Option(help="Also write a result record (.json).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the result record.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time whole detectors, scaling and suppression included, in turn on one image; ratios are to the first.

    \b
    Example:
      ghostnet detect bench cells.onnx other.onnx --image photo.jpg
      ghostnet detect bench cells.onnx cells8.onnx --data BCCD --split test
      ghostnet detect bench retinanet:mobilenetv3_large_100 retinanet:ghostnet_100
    """
    fresh = [name for name in detectors if Path(name).suffix != ".onnx"]
    refuse_idle(
        context,
        (bool(data), "--data", ("split", "bad_boxes")),
        (bool(fresh), "KIND:BACKBONE", ("plain",)),
    )
    if result is not None:
        refuse_source(result, *detectors, image, data or None)
        refuse_overwrite(result, force=force)
    if len(set(detectors)) != len(detectors):
        raise InputError("the same detector is given twice; give each once")
    started = time.monotonic()
    from ghostnet.detect import export_detector, fresh_detector, load_detector_file
    from ghostnet.measure import environment, time_interleaved
    from ghostnet.recipes import detection

    write = export_detector if plain else detection.export_rewritten
    pixels = _pixels(image)
    source = opened_boxes(data, split, bad_boxes) if data else None
    with tempfile.TemporaryDirectory() as folder:
        sessions, sizes = {}, {}
        for name in detectors:
            path = Path(name)
            if name in fresh:
                path = Path(folder) / f"{name.replace(':', '_')}.onnx"
                write(fresh_detector(name), path, runtimes=(runtime,), force=True)
            sessions[path.stem] = load_detector_file(path, runtime=runtime, threads=threads)
            sizes[path.stem] = path.stat().st_size
        scores = {name: {} if source is None else _scores(source, sessions[name]) for name in sessions}
        timings = time_interleaved(
            {name: functools.partial(session.run, pixels) for name, session in sessions.items()},
            min_seconds=seconds,
        )
    first = next(iter(timings.values())).median_ms
    rows = [
        {
            "name": name,
            **timing.to_dict(),
            "ratio": timing.median_ms / first,
            "bytes": sizes[name],
            **scores[name],
        }
        for name, timing in timings.items()
    ]
    found = {
        "rows": rows,
        "image": list(pixels.shape),
        "runtime": runtime,
        "threads": threads,
        "environment": environment(),
    }
    if result is not None:
        from ghostnet.recipes import write_record

        write_record(result, found, seconds=time.monotonic() - started, recipe={"name": result.stem})
        note(f"wrote {result}")
    answer(found, as_json=as_json, text=lambda: _text(found))


def _pixels(image: Path | None) -> np.ndarray:
    import numpy as np

    if image is None:
        return np.random.default_rng(0).integers(0, 256, (3, 320, 427), dtype=np.uint8)
    if not image.is_file():
        raise InputError(f"there is no image {image}")
    from ghostnet.data import read_image

    return read_image(image.read_bytes, str(image)).numpy()


def _scores(source: DetectionSet, session: DetectorSession) -> dict[str, float]:
    """Return the average precision of a file on a set."""
    from ghostnet.data import DetectionBatches
    from ghostnet.detect import ExportedDetector, evaluate_detector

    batches = DetectionBatches(source.with_classes(tuple(session.classes)), 8)
    found = evaluate_detector(ExportedDetector(session), batches, progress=True).to_dict()
    return {name: float(found[name]) for name in AVERAGE_PRECISIONS}


def _text(found: dict[str, Any]) -> str:
    from ghostnet.report import text_table

    rows = [
        (
            row["name"],
            f"{row['median_ms']:.2f}",
            f"{row['p10_ms']:.2f}-{row['p90_ms']:.2f}",
            f"{row['ratio']:.3f}",
            f"{row['bytes'] / 1e6:.2f}",
            *(f"{100 * row[name]:.1f}" for name in AVERAGE_PRECISIONS if name in row),
        )
        for row in found["rows"]
    ]
    size = "x".join(map(str, found["image"]))
    header = ("detector", "median ms", "p10-p90 ms", "time ratio", "MB", *AVERAGE_PRECISIONS)[: len(rows[0])]
    ending = f"{found['runtime']}, {found['threads']} thread(s), image {size}, {found['environment']['cpu']}"
    return f"{text_table(header, rows)}\n{ending}"
