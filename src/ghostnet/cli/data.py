"""`ghostnet data`: fetch a data set and check it."""

from __future__ import annotations

from typing import Annotated

import typer

from ghostnet.cli.cifar10 import check_data_name
from ghostnet.cli.output import answer


def data(
    name: Annotated[str, typer.Argument(help="Data set.")] = "cifar10",
    root: Annotated[
        str | None,
        typer.Option("--root", help="A folder or archive that holds it already; default: the cache."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fetch CIFAR-10 once, check its images by hash, and keep it in the cache.

    \b
    Example:
      ghostnet data cifar10
    """
    check_data_name(name)
    from ghostnet.data import load_cifar10

    dataset = load_cifar10(root, progress=True)
    value = {"data": name, "train_images": len(dataset.train_images), "test_images": len(dataset.test_images)}
    line = (
        f"{name}: {value['train_images']:,} training and {value['test_images']:,} test images, hash checked"
    )
    answer(value, as_json=as_json, text=lambda: line)
