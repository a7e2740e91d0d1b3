"""`ghostnet train`: run a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ghostnet.cli.output import answer, note
from ghostnet.errors import InputError


def train(
    recipe: Annotated[str | None, typer.Argument(help="Packaged recipe, or a TOML file.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the network, its result and its checkpoint.")] = Path(
        "runs"
    ),
    data_dir: Annotated[str | None, typer.Option(help="Folder or archive of the data set.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Say so when there is no checkpoint; one is taken up anyway.")
    ] = False,
    list_them: Annotated[bool, typer.Option("--list", help="List the packaged recipes.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an earlier result.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train as a recipe says; an interrupted run goes on from its checkpoint.

    \b
    Example:
      ghostnet train resnet9_050 epochs=2 seed=1 --out runs/short
    """
    from ghostnet import recipes

    if list_them:
        names = recipes.list_recipes()
        answer(names, as_json=as_json, text=lambda: "\n".join(names))
        return
    if recipe is None:
        raise InputError("no recipe given; `ghostnet train --list` shows them")
    chosen = recipes.load_recipe(recipe, overrides or ())
    stem = out / f"{chosen.name}-seed{chosen.seed}"
    if resume and not Path(f"{stem}.checkpoint").is_file():
        raise InputError(f"there is no checkpoint {stem}.checkpoint to resume; leave out --resume to start")
    result = recipes.run_recipe(chosen, out, data_root=data_dir, progress=True, force=force)
    note(f"wrote {stem}.safetensors and {stem}.json")
    metrics = result["metrics"]
    answer(
        result, as_json=as_json, text=lambda: f"top-1 {metrics['top1']:.2f} %, top-5 {metrics['top5']:.2f} %"
    )
