"""`ghostnet profile`: parameters and MACs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ghostnet.cli.network import NETWORK_HELP, SIZE_HELP, input_size_of, open_network
from ghostnet.cli.output import answer


def profile(
    network: Annotated[str, typer.Argument(help=NETWORK_HELP)],
    input_size: Annotated[str | None, typer.Option("--input-size", metavar="C,H,W", help=SIZE_HELP)] = None,
    layers: Annotated[bool, typer.Option("--layers", help="One line a layer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count the parameters and the multiply-accumulates (MACs) of one image.

    \b
    Example:
      ghostnet profile ghost_resnet56 --layers
    """
    from ghostnet import measure

    model = open_network(network)
    found = measure.profile(model, input_size_of(model, input_size))
    value: dict[str, Any] = {"network": network, **found.to_dict()}
    if not layers:
        del value["layers"]
    answer(value, as_json=as_json, text=lambda: str(found) if layers else _summary(value))


def _summary(value: dict[str, Any]) -> str:
    lines = [
        f"network  {value['network']}",
        f"input    {'x'.join(map(str, value['input_size']))}",
        f"params   {value['params']:,}",
        f"MACs     {value['macs']:,}",
        *(f"not counted: {entry}" for entry in value["uncounted"]),
    ]
    return "\n".join(lines)
