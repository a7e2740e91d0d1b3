"""`ghostnet demo`: the main job on real images, from the trained network to the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ghostnet.cli.integer import integer_option
from ghostnet.cli.output import answer

_QUICK = ("epochs=0.1", "calibration_images=256")


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the networks, the result and the page.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[
        int,
        integer_option(help="Of the random initialisation and the order of the images."),
    ] = 0,
    data_dir: Annotated[str | None, typer.Option(help="Folder or archive of CIFAR-10.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Much shorter fine-tunes; the accuracy is not the real one.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Run again what an earlier demo left finished.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Convert the packaged CIFAR-10 network, fine-tune, export and time it; write a table and a page.

    An interrupted demo goes on where it stopped when the same command is given again.

    \b
    Example:
      ghostnet demo --out runs/demo
    """
    from ghostnet.recipes import run_demo
    from ghostnet.report import demo_page, demo_table

    result = run_demo(
        out, seed=seed, data_root=data_dir, progress=True, overrides=_QUICK if quick else (), force=force
    )
    page = demo_page(out / "demo.json")
    answer({**result, "page": str(page)}, as_json=as_json, text=lambda: f"{demo_table(result)}\npage: {page}")
