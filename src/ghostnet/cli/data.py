"""`ghostnet data`: fetch a data set and check it; write folders and shards; measure how fast images are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ghostnet.cli.idle import refuse_idle
from ghostnet.cli.integer import integer_option
from ghostnet.cli.output import answer
from ghostnet.errors import InputError, unknown_name
from ghostnet.files import refuse_overwrite

_TASKS = ("cifar10", "shards", "speed")


def data(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="cifar10, shards or speed.")] = "cifar10",
    paths: Annotated[
        list[Path] | None, typer.Argument(help="shards: SOURCE and OUT folder; speed: SOURCE folder.")
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(
            "--root", help="cifar10: a folder or archive that holds it already; default: the cache."
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="cifar10: also write it as image files, FOLDER/train/CLASS and FOLDER/val/CLASS."),
    ] = None,
    per_class: Annotated[
        int | None, integer_option(help="cifar10: training images a class that --folder gets.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="cifar10: classes that --folder gets, e.g. 'cat,dog'; default: all.")
    ] = None,
    images_per_shard: Annotated[int, integer_option(help="shards: images in one .tar.")] = 1000,
    seed: Annotated[int, integer_option(help="shards: of the order in them.")] = 0,
    rounds: Annotated[int, integer_option(help="speed: passes over the images.")] = 7,
    result: Annotated[Path | None, typer.Option(help="speed: also write a result record (.json).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the result record.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fetch CIFAR-10 once and check it by hash; write WebDataset shards; measure loading beside torchvision's.

    \b
    Example:
      ghostnet data cifar10
      ghostnet data cifar10 --folder cifar10_files --per-class 500
      ghostnet data cifar10 --folder pets --per-class 1000 --classes cat,dog
      ghostnet data shards photos/train shards/train
      ghostnet data speed photos/train
    """
    if name not in _TASKS:
        raise unknown_name("data set", name, _TASKS)
    given = paths or []
    wanted = {"cifar10": 0, "shards": 2, "speed": 1}[name]
    if len(given) != wanted:
        what = {"cifar10": "no path", "shards": "SOURCE and OUT", "speed": "SOURCE"}[name]
        raise InputError(f"`ghostnet data {name}` takes {what}, not {len(given)} paths")
    refuse_idle(
        context,
        (name == "cifar10", "`ghostnet data cifar10`", ("root", "folder", "per_class", "classes")),
        (name == "shards", "`ghostnet data shards`", ("images_per_shard", "seed")),
        (name == "speed", "`ghostnet data speed`", ("rounds", "result", "force")),
    )
    if name == "cifar10":
        _cifar10(root, folder, per_class, classes, as_json)
    elif name == "shards":
        _shards(given[0], given[1], images_per_shard, seed, as_json)
    else:
        _speed(given[0], rounds, result, force, as_json)


def _cifar10(
    root: str | None, folder: Path | None, per_class: int | None, classes: str | None, as_json: bool
) -> None:
    for option, given in (("--per-class", per_class), ("--classes", classes)):
        if given is not None and folder is None:
            raise InputError(f"{option} (={given}) is for --folder; give both")
    from ghostnet.data import load_cifar10, write_cifar10_folder

    dataset = load_cifar10(root, progress=True)
    value: dict[str, Any] = {
        "data": "cifar10",
        "train_images": len(dataset.train_images),
        "test_images": len(dataset.test_images),
    }
    line = (
        f"cifar10: {value['train_images']:,} training and {value['test_images']:,} test images, hash checked"
    )
    if folder is not None:
        names = {} if classes is None else {"classes": [name.strip() for name in classes.split(",")]}
        written = write_cifar10_folder(dataset, folder, per_class=per_class, **names, progress=True)
        value["written"] = written
        line += f"; wrote {written['train']:,} and {written['val']:,} of them to {folder}"
    answer(value, as_json=as_json, text=lambda: line)


def _shards(source: Path, out: Path, images_per_shard: int, seed: int, as_json: bool) -> None:
    from ghostnet.data import open_images, refuse_parts, write_shards

    refuse_parts(source)
    images = open_images(source)
    written = write_shards(images, out, images_per_shard=images_per_shard, seed=seed, progress=True)
    value = {"out": str(out), "images": len(images), "classes": len(images.classes), "shards": len(written)}
    line = f"{out}: {value['images']:,} images of {value['classes']:,} classes in {value['shards']:,} shards"
    answer(value, as_json=as_json, text=lambda: line)


def _speed(source: Path, rounds: int, result: Path | None, force: bool, as_json: bool) -> None:
    if result is not None:
        refuse_overwrite(result, force=force)
    from ghostnet.data import compare_loading_speed

    found = compare_loading_speed(str(source), rounds=rounds, progress=True)
    if result is not None:
        from ghostnet.recipes import write_record

        write_record(result, found, seconds=found["seconds"], recipe={"name": "speed"})
    answer(found, as_json=as_json, text=lambda: _speed_table(found))


def _speed_table(found: dict[str, Any]) -> str:
    from ghostnet.report import text_table

    rows = [(row["name"], f"{row['images_per_s']:,.0f}") for row in found["rows"]]
    table = text_table(("decode, crop, mirror, batch", "images/s per core"), rows)
    return f"{table}\n\nghostnet / the faster one of torchvision's: {found['ratio']:.2f}"
