"""`ghostnet models`: the zoo's names."""

from __future__ import annotations

from typing import Annotated

import typer

from ghostnet.cli.output import answer
from ghostnet.errors import unknown_name


def models(
    pattern: Annotated[str, typer.Argument(help="Shell pattern; quote it.")] = "*",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the networks of the zoo with their input sizes and packaged weights.

    \b
    Example:
      ghostnet models 'ghost_*'
    """
    from ghostnet.models import list_models, model_info
    from ghostnet.report import text_table

    names = list_models(pattern)
    if not names:
        raise unknown_name("model", pattern, list_models())
    infos = [model_info(name) for name in names]
    header = ("name", "input", "classes", "weights")
    rows = [
        (
            info.name,
            "x".join(map(str, info.input_size)),
            str(info.num_classes),
            ", ".join(info.weights) or "-",
        )
        for info in infos
    ]
    answer([info.to_dict() for info in infos], as_json=as_json, text=lambda: text_table(header, rows))
