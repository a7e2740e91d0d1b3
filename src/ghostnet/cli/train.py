"""`ghostnet train`: run a recipe, or fine-tune on a folder of one's own images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostnet.cli.idle import refuse_idle
from ghostnet.cli.network import outside_name
from ghostnet.cli.output import answer, note
from ghostnet.errors import InputError

if TYPE_CHECKING:
    from ghostnet.recipes import Recipe


def train(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(help="Packaged recipe, or a TOML file.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the network, its result and its checkpoint.")] = Path(
        "runs"
    ),
    data: Annotated[
        str | None,
        typer.Option(help="Folder with a subfolder a class, or shards; without a recipe: fine-tune on it."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="For fine-tuning: a saved network, or a tag or checkpoint for --model. Without it weights are random, "
            "or those that code of yours gives."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="For fine-tuning: a name of the zoo, torchvision:NAME, timm:NAME, or code of yours "
            "(FILE.py:NAME or MODULE:NAME)."
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="For fine-tuning: a trained network to learn from: saved, packaged or NAME=FILE."),
    ] = None,
    unlabelled: Annotated[
        bool,
        typer.Option(
            "--unlabelled", help="For fine-tuning: --data has no labels; learn what the --teacher answers."
        ),
    ] = False,
    data_dir: Annotated[str | None, typer.Option(help="Folder or archive of CIFAR-10.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Say so when there is no checkpoint; one is taken up anyway.")
    ] = False,
    list_them: Annotated[bool, typer.Option("--list", help="List the packaged recipes.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an earlier result.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train as a recipe says, or fine-tune on your own images; an interrupted run goes on from its checkpoint.

    \b
    Example:
      ghostnet train resnet9_050 epochs=2 seed=1 --out runs/short
      ghostnet train --data photos --weights trained.safetensors epochs=5
      ghostnet train --data photos --weights ghost.safetensors --teacher dense.safetensors --unlabelled
      torchrun --nproc-per-node 8 -m ghostnet train ghostnet_100 --data imagenet
    """
    from ghostnet import recipes

    if list_them:
        names = recipes.list_recipes()
        answer(names, as_json=as_json, text=lambda: "\n".join(names))
        return
    tuned = {"model": model, "weights": weights, "teacher": teacher, "unlabelled": unlabelled}
    chosen = _recipe(recipe, list(overrides or ()), data, tuned)
    refuse_idle(context, (chosen.data == "cifar10", 'recipes with data = "cifar10"', ("data_dir",)))
    stem = out / f"{chosen.name}-seed{chosen.seed}"
    endings = ("checkpoint", "sparsity.checkpoint")
    if resume and not any(Path(f"{stem}.{ending}").is_file() for ending in endings):
        raise InputError(f"there is no checkpoint {stem}.checkpoint to resume; leave out --resume to start")
    from ghostnet.train import join_processes, leave_processes

    rank, _ = join_processes()
    from_nothing = chosen.name == "fine_tune" and not (chosen.start or chosen.weights)
    if rank == 0 and from_nothing and Path(chosen.data).expanduser().is_dir():
        note(
            f"{chosen.model} starts from {_first_weights(chosen.model)}; --weights names a trained network to fine-tune"
        )
    result = recipes.run_recipe(chosen, out, data_root=data_dir, progress=True, force=force)
    leave_processes()
    if rank:
        return  # one answer is enough
    note(f"wrote {stem}.safetensors and {stem}.json")
    answer(result, as_json=as_json, text=lambda: _line(result["metrics"], chosen.labels))


def _first_weights(model: str) -> str:
    outside = outside_name(model)
    own = outside is not None and outside.library is None
    return "the weights that its code gives it" if own else "random weights"


def _recipe(name: str | None, overrides: list[str], data: str | None, tuned: dict[str, Any]) -> Recipe:
    """Return the named recipe on the given data, or that of fine-tuning, whose options `tuned` are."""
    from ghostnet import recipes

    if name is not None and "=" in name and data is not None:
        overrides, name = [name, *overrides], None  # no recipe was named: the first word is an override
    if name is None and data is None:
        raise InputError(
            "no recipe given; `ghostnet train --list` shows them, --data DIR fine-tunes on images"
        )
    if name is None or name == "fine_tune":
        if data is None:
            raise InputError("fine-tuning needs images; give --data DIR, a folder with a subfolder a class")
        return recipes.fine_tune_recipe(data, overrides=overrides, **tuned)
    if any(tuned.values()):
        raise InputError(
            "--weights, --model, --teacher and --unlabelled are for fine-tuning; with a recipe write weights=…, "
            "model=…, teacher=… and labels=teacher"
        )
    if data is not None:
        overrides.append(
            f"data={json.dumps(data, ensure_ascii=False)}"
        )  # quoted: a folder named 2024 is no number
    return recipes.load_recipe(name, overrides)


def _line(metrics: dict[str, Any], labels: str) -> str:
    if labels == "teacher":
        line = f"agrees with its teacher on {metrics['top1']:.2f} % of {metrics['count']:,} held-out images"
    else:
        shares = f"top-1 {metrics['top1']:.2f} %, top-5 {metrics['top5']:.2f} %"
        line = f"held-out {shares}, {metrics['count']:,} images"
    if metrics["skipped"]:
        line += f", {len(metrics['skipped'])} images could not be read"
    return line
