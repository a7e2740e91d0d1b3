"""`ghostnet eval`: accuracy on a test set."""

from __future__ import annotations

from typing import Annotated

import typer

from ghostnet.cli.cifar10 import NORMALISATION_HELP, check_data_name, normalisation_of, test_batches
from ghostnet.cli.network import open_network
from ghostnet.cli.output import answer


def evaluate(
    network: Annotated[str, typer.Argument(help="Name of the zoo, or a saved network.")],
    weights: Annotated[str | None, typer.Option(help="Packaged tag or file, for a name of the zoo.")] = None,
    data: Annotated[str, typer.Option(help="Data set.")] = "cifar10",
    data_dir: Annotated[str | None, typer.Option(help="Folder or archive of the data set.")] = None,
    normalisation: Annotated[str | None, typer.Option(help=NORMALISATION_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure top-1 and top-5 accuracy on all test images.

    \b
    Example:
      ghostnet eval ghost.safetensors --data cifar10
    """
    check_data_name(data)
    from ghostnet import train

    model = open_network(network, weights, trained=True)
    found = train.evaluate(
        model, test_batches(data_dir, normalisation_of(model, normalisation)), progress=True
    )
    line = (
        f"top-1 {found.top1:.2f} %, top-5 {found.top5:.2f} %, loss {found.loss:.4f}, {found.count:,} images"
    )
    value = {"network": network, "data": data, **found.to_dict()}
    answer(value, as_json=as_json, text=lambda: f"{line}, {found.seconds:.1f} s")
