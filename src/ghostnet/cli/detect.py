"""`ghostnet detect`: train, measure, use and export detectors; each is a verb of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ghostnet.cli.output import answer, note
from ghostnet.errors import InputError

detect = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_DATA_HELP = "Folder in Pascal VOC's or COCO's format, or a JSON in COCO's format."
_SPLIT_HELP = "Part of a folder: a list of ImageSets/Main, or the SPLIT of annotations/instances_SPLIT.json."


@detect.callback()
def _root() -> None:
    """Detect objects: RetinaNet and Faster R-CNN with FPN over any backbone of the zoo.

    \b
    Example:
      ghostnet detect train bccd_light --data BCCD
      ghostnet detect predict runs/bccd_light-seed0.safetensors photos/ --out drawn
    """


@detect.command()
def train(
    recipe: Annotated[
        str | None, typer.Argument(help="Packaged recipe of a detector, or a TOML file.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides.")
    ] = None,
    data: Annotated[str | None, typer.Option(help=_DATA_HELP)] = None,
    out: Annotated[Path, typer.Option(help="Folder of the detector, its result and its checkpoint.")] = Path(
        "runs"
    ),
    list_them: Annotated[bool, typer.Option("--list", help="List the packaged recipes.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an earlier result.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a detector as a recipe says; an interrupted run goes on from its checkpoint.

    \b
    Example:
      ghostnet detect train bccd_light --data BCCD start=trained.safetensors
      torchrun --nproc-per-node 8 -m ghostnet detect train retinanet_ghostnet_110 --data COCO
    """
    from ghostnet.recipes import detection

    if list_them:
        names = detection.list_detection_recipes()
        answer(names, as_json=as_json, text=lambda: "\n".join(names))
        return
    if recipe is None:
        raise InputError("no recipe given; `ghostnet detect train --list` shows them")
    changes = list(overrides or ())
    if data is not None:
        changes.append(f"data={json.dumps(data)}")  # quoted, so that a folder named 2024 is no number
    chosen = detection.load_detection_recipe(recipe, changes)
    from ghostnet.train import join_processes, leave_processes

    rank, _ = join_processes()
    result = detection.run_detection(chosen, out, force=force)
    leave_processes()
    if rank:
        return  # one answer is enough
    note(f"wrote {out / chosen.name}-seed{chosen.seed}.safetensors and .json")
    answer(result, as_json=as_json, text=lambda: _scores_text(result["metrics"]))


def _scores_text(found: dict[str, Any]) -> str:
    """Return COCO's twelve numbers in two lines and the classes as a table."""
    from ghostnet.detect import STATS
    from ghostnet.report import text_table

    lines = [", ".join(f"{name} {found[name]:.3f}" for name in names) for names in (STATS[:6], STATS[6:])]
    rows = [
        (name, f"{row['boxes']:,}", f"{row['AP']:.3f}", f"{row['AP50']:.3f}")
        for name, row in found["classes"].items()
    ]
    return "\n".join([*lines, "", text_table(("class", "boxes", "AP", "AP50"), rows)])
