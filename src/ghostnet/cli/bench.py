"""`ghostnet bench`: networks side by side in any runtimes: latency, size, cold start, peak memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ghostnet.checks import check_integer
from ghostnet.cli.contestants import open_contestants
from ghostnet.cli.export import TARGET_NAMES
from ghostnet.cli.integer import integer_option
from ghostnet.cli.network import SIZE_HELP, refuse_source
from ghostnet.cli.output import answer, note
from ghostnet.errors import InputError, unknown_name
from ghostnet.files import refuse_overwrite

_NETWORKS_HELP = (
    "Names of the zoo, saved networks, timm:NAME, torchvision:NAME, or exported files. "
    "NAME@plain leaves out rewrites, NAME@optimized applies them."
)
_WEIGHTS_HELP = "NAME=TAG or NAME=FILE for a name; without weights they are random."
_RUNTIME_HELP = (
    "onnx, openvino, litert, ncnn, mnn, c, coreml, executorch, with commas; exported files keep their own."
)
_PRECISION_HELP = (
    "fp32, bf16, fp16, int8 (calibrated with noise, for its time), with commas; files keep their own."
)
_PROCESSES_HELP = (
    "More than 1: time in that many fresh ones, each loading in another order; medians over them."
)


def bench(
    networks: Annotated[list[str], typer.Argument(help=_NETWORKS_HELP)],
    runtime: Annotated[str, typer.Option(metavar="NAMES", help=_RUNTIME_HELP)] = "onnx",
    precision: Annotated[str, typer.Option(metavar="NAMES", help=_PRECISION_HELP)] = "fp32",
    threads: Annotated[str, typer.Option(metavar="NUMBERS", help="Threads, with commas.")] = "1",
    batch: Annotated[int, integer_option(help="Images in a call.")] = 1,
    weights: Annotated[list[str] | None, typer.Option(metavar="NAME=WEIGHTS", help=_WEIGHTS_HELP)] = None,
    input_size: Annotated[str | None, typer.Option("--input-size", metavar="C,H,W", help=SIZE_HELP)] = None,
    seconds: Annotated[float, typer.Option(help="Least time for each row.")] = 2.0,
    cold_starts: Annotated[int, integer_option("--cold-starts", help="Fresh processes a row; 0: none.")] = 3,
    processes: Annotated[int, integer_option(help=_PROCESSES_HELP)] = 1,
    result: Annotated[Path | None, typer.Option(help="Also write a result file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the result file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time networks in turn (A B A B ...) in one process or several; ratios are to the first one in the same setting,
    or where it has no row there, to its first row.

    \b
    Example:
      ghostnet bench dense.safetensors ghost.safetensors --threads 1
      ghostnet bench ghostnet_100 timm:mobilenetv3_large_100 --runtime onnx,openvino --precision fp32,bf16
    """
    runtimes, precisions = _names(runtime), _names(precision)
    for name in runtimes:
        if name not in TARGET_NAMES:
            raise unknown_name("export target", name, TARGET_NAMES)
    counts = [_thread_count(text) for text in _names(threads)]
    check_integer("--processes", processes)
    if not 0 < seconds < float("inf"):
        raise InputError(f"--seconds (={seconds}) must be a finite number above 0")
    if len(set(networks)) < len(networks):
        raise InputError("the same network is given twice; each needs a name of its own")
    if result is not None:
        refuse_source(result, *networks)
        refuse_overwrite(result, force=force)
    started = time.monotonic()
    from ghostnet import deploy

    contestants, size = open_contestants(networks, weights or [], input_size)
    found = deploy.benchmark(
        contestants,
        input_size=size,
        batch=batch,
        threads=counts,
        min_seconds=seconds,
        runtimes=runtimes,
        precisions=precisions,
        cold_starts=cold_starts,
        processes=processes,
        announce=note,
    )
    value = found.to_dict()
    if result is not None:
        from ghostnet.recipes import write_record

        recipe = {"name": "bench", "networks": networks}
        write_record(result, value, seconds=time.monotonic() - started, recipe=recipe)
    answer(value, as_json=as_json, text=lambda: str(found))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _thread_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--threads (={text}) must be an integer >= 1, or several with commas")
    return int(text)
