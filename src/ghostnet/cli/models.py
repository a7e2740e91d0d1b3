"""`ghostnet models`: the zoo's names, and the paper's Table 7 with the zoo's counts beside it."""

from __future__ import annotations

from typing import Annotated

import typer

from ghostnet.cli.integer import integer
from ghostnet.cli.output import answer
from ghostnet.cli.table7 import table7_rows, table7_text
from ghostnet.errors import InputError, unknown_name

_TABLE_HELP = "7: count every network of the paper's Table 7 and compare."


def models(
    pattern: Annotated[str, typer.Argument(help="Shell pattern; quote it.")] = "*",
    table: Annotated[
        int | None, typer.Option("--table", parser=integer, metavar="INTEGER", help=_TABLE_HELP)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the networks of the zoo with their input sizes and packaged weights.

    \b
    Example:
      ghostnet models 'ghost_*'
      ghostnet models --table 7
    """
    if table is None:
        _list(pattern, as_json)
        return
    if table != 7:
        raise InputError(f"--table (={table}) must be 7, the table of ImageNet networks")
    if pattern != "*":
        raise InputError(f"--table takes no pattern (={pattern}); it shows all rows")
    rows = table7_rows()
    answer(rows, as_json=as_json, text=lambda: table7_text(rows))


def _list(pattern: str, as_json: bool) -> None:
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
