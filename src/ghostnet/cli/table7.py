"""Table 7 counted: every row's network is built and profiled, and its counts stand beside the printed ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ghostnet.errors import InputError

_HEADER = ("row", "network", "params M", "counted", "diff", "MACs M", "counted", "diff", "")


def table7_rows() -> list[dict[str, Any]]:
    """Return the 19 rows of Table 7 in its order, JSON-able.

    Each has `row`, `name`, `args`, `status` ("agrees", "differs" or "not built"), the printed `params_m` and `macs_m`,
    the counted `params` and `macs`, the differences counted minus printed in millions, and `reason`. A network that is
    not in the zoo has None for what was not counted.
    """
    from ghostnet import measure, models, paper
    from ghostnet.models.table7_networks import TABLE7

    rows = []
    for printed in paper.table(7):
        network = TABLE7[str(printed["model"])]
        row: dict[str, Any] = {
            "row": printed["model"],
            "name": network.name,
            "args": network.args,
            "status": "not built",
            "params_m": printed["params_m"],
            "params": None,
            "params_difference_m": None,
            "macs_m": printed["macs_m"],
            "macs": None,
            "macs_difference_m": None,
            "reason": "",
        }
        if network.name in models.list_models():
            size = models.model_info(network.name).input_size
            counted = measure.profile(models.create_model(network.name, **network.args), size)
            if counted.uncounted:
                raise InputError(f"{network.name} runs operations that are not counted: {counted.uncounted}")
            row |= _comparison(row, counted.params, counted.macs)
            row["reason"] = network.reason
        rows.append(row)
    return rows


def _comparison(row: dict[str, Any], params: int, macs: int) -> dict[str, Any]:
    from ghostnet.paper import agrees

    both = agrees(params, row["params_m"], 1), agrees(macs, row["macs_m"], 0)
    return {
        "status": "agrees" if all(both) else "differs",
        "params": params,
        "params_difference_m": round(params / 1e6 - row["params_m"], 3),
        "macs": macs,
        "macs_difference_m": round(macs / 1e6 - row["macs_m"], 3),
    }


def table7_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as an aligned table, the reasons below it."""
    from ghostnet.report import text_table

    lines = [text_table(_HEADER, [_cells(row) for row in rows]), ""]
    lines.append("Agrees: the count, truncated or rounded to the printed digits, is the printed number.")
    lines += [f"{row['row']}: {row['reason']}" for row in rows if row["reason"]]
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    args = ", ".join(f"{key}={value}" for key, value in row["args"].items())
    name = f"{row['name']}({args})" if args else row["name"]
    if row["params"] is None:
        return (
            row["row"],
            name,
            f"{row['params_m']:.1f}",
            "-",
            "-",
            f"{row['macs_m']}",
            "-",
            "-",
            row["status"],
        )
    return (
        row["row"],
        name,
        f"{row['params_m']:.1f}",
        f"{row['params'] / 1e6:.3f}",
        f"{row['params_difference_m']:+.3f}",
        f"{row['macs_m']}",
        f"{row['macs'] / 1e6:.2f}",
        f"{row['macs_difference_m']:+.2f}",
        row["status"],
    )
