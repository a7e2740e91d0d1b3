"""`ghostnet eval`: accuracy on a test set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostnet.cli.cifar10 import NORMALISATION_HELP, normalisation_of, test_batches
from ghostnet.cli.idle import refuse_idle
from ghostnet.cli.images import DATA_HELP, evaluation_batches, preprocessing_for
from ghostnet.cli.integer import integer_option
from ghostnet.cli.network import RUNNABLE_HELP, WEIGHTS_HELP, open_runnable, outside_name, refuse_source, told
from ghostnet.cli.output import answer
from ghostnet.errors import InputError, unknown_name
from ghostnet.files import refuse_overwrite

if TYPE_CHECKING:
    from torch import nn

    from ghostnet.train import Evaluation


def evaluate(
    context: typer.Context,
    network: Annotated[str, typer.Argument(help=RUNNABLE_HELP)],
    weights: Annotated[str | None, typer.Option(help=WEIGHTS_HELP)] = None,
    data: Annotated[str, typer.Option(help=DATA_HELP)] = "cifar10",
    data_dir: Annotated[str | None, typer.Option(help="Folder or archive of CIFAR-10.")] = None,
    normalisation: Annotated[str | None, typer.Option(help=NORMALISATION_HELP)] = None,
    image_size: Annotated[
        int | None, integer_option(help="Side in pixels. Default: what the network was made for.")
    ] = None,
    batch_size: Annotated[int, integer_option(help="Images a batch, of a folder or shards.")] = 64,
    workers: Annotated[int, integer_option(help="Processes that decode; 0 for none.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Fail at an image that cannot be read.")] = False,
    result: Annotated[Path | None, typer.Option(help="Also write a result record (.json).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the result record.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure top-1 and top-5 accuracy, single centre crop, on all test images.

    \b
    Example:
      ghostnet eval ghost.safetensors --data photos/val
    """
    if data != "cifar10" and not Path(data).expanduser().exists():
        if "/" in data or "." in data:
            raise InputError(f"there is no folder or shard {data}")
        raise unknown_name("folder or data set", data, ["cifar10"])
    refuse_idle(
        context,
        (data == "cifar10", "--data cifar10", ("data_dir",)),
        (data != "cifar10", "--data FOLDER", ("image_size", "batch_size", "workers", "strict")),
    )
    if result is not None:
        refuse_source(result, network, weights)
        refuse_overwrite(result, force=force)
    from ghostnet import train

    model = open_runnable(network, weights)
    skipped: dict[str, str] = {}
    recipe: dict[str, Any] = {"name": _name(network), "data": data}
    if data == "cifar10":
        batches: Any = test_batches(data_dir, normalisation_of(model, normalisation))
    else:
        wanted = preprocessing_for(model, normalisation=normalisation, image_size=image_size)
        recipe |= wanted.to_dict()
        batches = evaluation_batches(
            model, data, wanted, batch_size=batch_size, workers=workers, strict=strict
        )
        skipped = batches.skipped
    found = train.evaluate(model, batches, progress=True)
    if result is not None:
        _write(result, recipe, found, skipped, model)
    value = {"network": network, "data": data, **found.to_dict(), "skipped": skipped}
    answer(value, as_json=as_json, text=lambda: _line(found, skipped))


def _name(network: str) -> str:
    return Path(network).stem if outside_name(network) is None else told(network)


def _line(found: Evaluation, skipped: dict[str, str]) -> str:
    line = (
        f"top-1 {found.top1:.2f} %, top-5 {found.top5:.2f} %, loss {found.loss:.4f}, {found.count:,} images"
    )
    if skipped:
        line += f", {len(skipped)} skipped"
    return f"{line}, {found.seconds:.1f} s"


def _write(
    path: Path, recipe: dict[str, Any], found: Evaluation, skipped: dict[str, str], model: nn.Module
) -> None:
    from ghostnet.recipes import write_record

    metrics = {**found.to_dict(), "skipped": skipped, **_size_of(model, int(recipe.get("image_size", 32)))}
    write_record(path, metrics, seconds=found.seconds, recipe=recipe)


def _size_of(model: nn.Module, side: int) -> dict[str, Any]:
    """Return parameters and MACs of a network, or what is known of an exported file."""
    facts = getattr(model, "exported_facts", None)
    if facts is not None:
        return dict(facts)
    from ghostnet.measure import profile

    counts = profile(model, (3, side, side))
    return {"params": counts.params, "macs": counts.macs}
