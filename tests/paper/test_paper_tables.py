"""The packaged tables: rows, types, a few printed numbers, and that reading them needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ghostnet.errors import InputError
from ghostnet.paper import figure7_points, table

ROWS = {1: 21, 2: 3, 3: 5, 4: 5, 5: 9, 6: 11, 7: 19, 8: 6}


@pytest.mark.parametrize("number", sorted(ROWS))
def test_every_table_has_its_rows_and_parsed_numbers(number):
    rows = table(number)
    assert len(rows) == ROWS[number]
    cells = [cell for row in rows for cell in row.values()]
    assert any(isinstance(cell, int | float) for cell in cells)
    for cell in cells:
        assert cell != ""
        if isinstance(cell, str):
            with pytest.raises(ValueError, match="could not convert"):
                float(cell)


def test_printed_numbers():
    assert table(3)[0] == {
        "model": "VGG-16",
        "s": None,
        "d": None,
        "params_m": 15.0,
        "macs_m": 313,
        "accuracy": 93.6,
    }
    assert table(5)[-1]["accuracy"] == 92.7
    assert table(6)[-1]["params_m"] == 6.5
    assert table(7)[10]["macs_m"] == 141
    assert table(8)[2]["map"] == 26.6
    assert [point["latency_ms"] for point in figure7_points()] == [40, 45]


def test_the_bottlenecks_of_table_1():
    bottlenecks = [row for row in table(1) if row["operator"] == "G-bneck"]
    assert len(bottlenecks) == 16
    assert sum(row["stride"] == 2 for row in bottlenecks) == 4
    assert sum(row["se"] == 1 for row in bottlenecks) == 7


def test_changing_a_row_does_not_change_the_table():
    table(4)[0]["accuracy"] = 0
    assert table(4)[0]["accuracy"] == 93.6


@pytest.mark.parametrize("number", [0, 9, True, "3"])
def test_unknown_table(number):
    with pytest.raises(InputError, match=f"the paper has no table {number!r}; choose 1 to 8"):
        table(number)


def test_no_torch_and_no_numpy():
    code = "import sys, ghostnet.paper as p; p.table(7); print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
