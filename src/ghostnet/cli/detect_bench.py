"""`ghostnet detect bench`: exported detectors timed side by side, image after image, in one process."""

from __future__ import annotations

import functools
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostnet.cli.integer import integer_option
from ghostnet.cli.network import refuse_source
from ghostnet.cli.output import answer, note
from ghostnet.errors import InputError
from ghostnet.files import refuse_overwrite

if TYPE_CHECKING:
    import numpy as np


def bench(
    detectors: Annotated[
        list[str], typer.Argument(metavar="FILE|KIND:BACKBONE...", help="Exported files, or fresh ones.")
    ],
    image: Annotated[
        Path | None, typer.Option(help="Image to detect in; default: noise of 320x427 pixels.")
    ] = None,
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
      ghostnet detect bench retinanet:mobilenetv3_large_100 retinanet:ghostnet_100
    """
    if result is not None:
        refuse_source(result, *detectors, image)
        refuse_overwrite(result, force=force)
    if len(set(detectors)) != len(detectors):
        raise InputError("the same detector is given twice; give each once")
    started = time.monotonic()
    from ghostnet.detect import export_detector, fresh_detector, load_detector_file
    from ghostnet.measure import environment, time_interleaved
    from ghostnet.recipes import detection

    write = export_detector if plain else detection.export_rewritten
    pixels = _pixels(image)
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for name in detectors:
            path = Path(name)
            if path.suffix != ".onnx":
                path = Path(folder) / f"{name.replace(':', '_')}.onnx"
                write(fresh_detector(name), path, runtimes=(runtime,), force=True)
            sessions[path.stem] = load_detector_file(path, runtime=runtime, threads=threads)
        timings = time_interleaved(
            {name: functools.partial(session.run, pixels) for name, session in sessions.items()},
            min_seconds=seconds,
        )
    first = next(iter(timings.values())).median_ms
    rows = [
        {"name": name, **timing.to_dict(), "ratio": timing.median_ms / first}
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
    from ghostnet.data import decode_image

    return decode_image(image.read_bytes(), str(image)).numpy()


def _text(found: dict[str, Any]) -> str:
    from ghostnet.report import text_table

    rows = [
        (
            row["name"],
            f"{row['median_ms']:.2f}",
            f"{row['p10_ms']:.2f}-{row['p90_ms']:.2f}",
            f"{row['ratio']:.3f}",
        )
        for row in found["rows"]
    ]
    size = "x".join(map(str, found["image"]))
    ending = f"{found['runtime']}, {found['threads']} thread(s), float32, image {size}, {found['environment']['cpu']}"
    return f"{text_table(('detector', 'median ms', 'p10-p90 ms', 'time ratio'), rows)}\n{ending}"
