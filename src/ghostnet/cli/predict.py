"""`ghostnet predict`: what a network sees in images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostnet.checks import check_integer
from ghostnet.cli.cifar10 import NORMALISATION_HELP
from ghostnet.cli.images import class_names, count_classes, image_files, preprocessing_for
from ghostnet.cli.integer import integer_option
from ghostnet.cli.network import RUNNABLE_HELP, WEIGHTS_HELP, open_runnable
from ghostnet.cli.output import answer

if TYPE_CHECKING:
    from ghostnet.train import Prediction


def predict(
    network: Annotated[str, typer.Argument(help=RUNNABLE_HELP)],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="What to classify.")],
    weights: Annotated[str | None, typer.Option(help=WEIGHTS_HELP)] = None,
    top_k: Annotated[int, integer_option("--top-k", help="Answers for each image.")] = 5,
    normalisation: Annotated[str | None, typer.Option(help=NORMALISATION_HELP)] = None,
    image_size: Annotated[
        int | None, integer_option(help="Side in pixels. Default: what the network was made for.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail at an image that cannot be read.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Name the classes of images, the likeliest first, with their probabilities.

    \b
    Example:
      ghostnet predict flowers.safetensors photos/ --top-k 3
    """
    check_integer("--top-k", top_k)
    files = image_files(images)
    from ghostnet import train

    model = open_runnable(network, weights)
    wanted = preprocessing_for(model, normalisation=normalisation, image_size=image_size)
    names = class_names(model, count_classes(model, wanted.size))
    found = train.predict(model, files, wanted, top_k=top_k, strict=strict, progress=len(files) > 1)
    rows = [_row(prediction, names) for prediction in found]
    answer(rows, as_json=as_json, text=lambda: _table(rows))


def _row(prediction: Prediction, names: list[str]) -> dict[str, Any]:
    if prediction.error:
        return {"image": str(prediction.path), "error": prediction.error}
    answers = zip(prediction.indices, prediction.probabilities, strict=True)
    top = [
        {"class": names[index], "index": index, "probability": round(value, 6)} for index, value in answers
    ]
    return {"image": str(prediction.path), "top": top}


def _table(rows: list[dict[str, Any]]) -> str:
    from ghostnet.report import text_table

    lines = []
    for row in rows:
        place = row["image"]
        for entry in row.get("top", ()):
            lines.append((place, entry["class"], f"{100 * entry['probability']:.2f} %"))
            place = ""
        if "error" in row:
            lines.append((place, row["error"], "–"))
    return text_table(("image", "class", "probability"), lines)
