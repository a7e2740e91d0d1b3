"""`ghostnet models`: the zoo's names, model cards of published weights, and Table 7 with the zoo's counts beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ghostnet.cli.integer import integer_option
from ghostnet.cli.output import answer
from ghostnet.cli.table7 import table7_rows, table7_text
from ghostnet.errors import InputError, unknown_name

_TABLE_HELP = "7: count every network of the paper's Table 7 and compare."

if TYPE_CHECKING:
    from ghostnet.models import ModelInfo, WeightCard


def models(
    pattern: Annotated[str, typer.Argument(help="Shell pattern; quote it. One name shows its cards.")] = "*",
    table: Annotated[int | None, integer_option("--table", help=_TABLE_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the networks of the zoo with their input sizes, packaged weights and published weights.

    The name of one network shows, for each of its published weights, the model card: source, licence, accuracy
    claimed and measured.

    \b
    Example:
      ghostnet models 'ghost_*'
      ghostnet models ghostnet_100
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
    from ghostnet.models import list_models, model_info, weight_cards

    names = list_models(pattern)
    if not names:
        raise unknown_name("model", pattern, list_models())
    infos = [model_info(name) for name in names]
    value = [
        {**info.to_dict(), "cards": [card.to_dict() for card in weight_cards(info.name)]} for info in infos
    ]

    def text() -> str:
        cards = weight_cards(names[0]) if len(names) == 1 else ()
        return "\n\n".join(
            [_table(infos), *([infos[0].summary] if len(names) == 1 else []), *map(_card, cards)]
        )

    answer(value, as_json=as_json, text=text)


def _table(infos: list[ModelInfo]) -> str:
    from ghostnet.report import text_table

    header = ("name", "input", "classes", "weights", "published")
    rows = [
        (
            info.name,
            "x".join(map(str, info.input_size)),
            str(info.num_classes),
            ", ".join(info.weights) or "-",
            ", ".join(info.published) or "-",
        )
        for info in infos
    ]
    return text_table(header, rows)


def _card(card: WeightCard) -> str:
    """Return a model card, one line a fact."""
    measured = "not measured" if card.measured_top1 is None else f"{card.measured_top1} % top-1"
    top5 = "" if card.claimed_top5 is None else f", {card.claimed_top5} % top-5"
    checked = card.sha256 or (f"git object {card.git_blob}" if card.git_blob else None)
    return "\n".join(
        (
            f"weights {card.tag!r}: create_model({card.model!r}, weights={card.tag!r})",
            f"  source    {card.source}",
            f"  publisher {card.publisher}",
            f"  licence   {card.licence}",
            f"  claimed   {card.claimed_top1} % top-1{top5} (by {card.claimed_by})",
            f"  by us     {measured}",
            f"  input     {'x'.join(map(str, card.input_size))}, crop {card.crop}, {card.interpolation}",
            f"  check     {checked or 'as at the first download (the publisher states no digest here)'}",
        )
    )
