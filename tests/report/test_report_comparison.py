"""Paper beside ours: differences, seeds, counts, rows that were not run, and the documents made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ghostnet.errors import InputError
from ghostnet.report import (
    EXHIBITS,
    check_only,
    compare,
    comparison_text,
    exhibit,
    rows_that_were_run,
    tables_page,
)


def _result(name: str, seed: int, top1: float, folder: str = "cifar10", **metrics: Any) -> tuple[Path, dict]:
    record = {
        "schema": 1,
        "exhibit": folder,
        "seed": seed,
        "seconds": 100,
        "recipe": {"name": name},
        "metrics": {"top1": top1, "params": 438_000, "macs": 65_300_000, **metrics},
    }
    return Path(f"{folder}/{name}-seed{seed}.json"), record


def test_rows_hold_paper_ours_difference_and_seeds():
    runs = [_result("ghost_vgg16_s2_d3", seed, top1) for seed, top1 in ((0, 93.0), (1, 93.4))]
    rows = {row.name: row for row in compare("table3", runs)}
    row = rows["ghost_vgg16_s2_d3"]
    assert (row.paper_top1, row.top1, row.n) == (93.7, 93.2, 2)
    assert row.difference == pytest.approx(-0.5)
    assert row.std == pytest.approx(0.2828, abs=1e-3)
    assert row.records[1] == "cifar10/ghost_vgg16_s2_d3-seed1.json"
    assert rows["ghost_vgg16_s2_d3_long"].top1 is None


def test_results_of_another_table_or_recipe_do_not_count():
    runs = [_result("ghost_vgg16_s2_d3", 0, 93.0, folder="mine"), _result("vgg16_l1", 0, 90.0)]
    assert all(row.n == 0 for row in compare("table3", runs))
    assert [row.name for row in compare("table5", runs) if row.n] == ["vgg16_l1"]


def test_text_says_not_run_and_links_what_was():
    lines = comparison_text("table4", [_result("vgg16", 0, 93.5)]).splitlines()
    assert sum("not run" in line for line in lines) == 9
    (run,) = [line.split() for line in lines if "cifar10/vgg16-seed0.json" in line]
    assert run[3:7] == ["93.6", "93.50", "-0.10", "1"]


def test_counts_stand_in_rows_that_were_not_run():
    counts = (
        Path("cifar10/counts.json"),
        {
            "exhibit": "cifar10_counts",
            "metrics": {"counts": {"resnet56": {"params": 853_018, "macs": 125_485_696}}},
        },
    )
    rows = [row for row in compare("table5", [counts]) if row.name.startswith("resnet56_long")]
    assert [(row.params, row.macs, row.n) for row in rows] == [(853_018, 125_485_696, 0)]


def test_accuracy_as_converted_is_shown():
    stages = {"as converted": {"top1": 79.5}}
    runs = [_result("short_resnet20_l1", 0, 89.0, folder="cifar10_short", stages=stages)]
    assert [row.as_converted for row in compare("short", runs) if row.n] == [79.5]
    assert "79.50" in comparison_text("short", runs)


def test_number_of_rows_and_papers_own():
    sizes = {
        key: (len(exhibit(key).rows), sum(bool(row.recipe) for row in exhibit(key).rows)) for key in EXHIBITS
    }
    assert sizes == {
        "table3": (10, 10),
        "table4": (10, 10),
        "table5": (30, 28),
        "short": (22, 22),
        "short_sweep": (7, 7),
    }


def test_documents():
    page = tables_page([])
    assert page.count("not run") == 77
    assert page.count("\n| :-- |") == 5
    assert "table5 1 of 28" in rows_that_were_run([_result("vgg16_l1", 0, 90.0)])
    assert "Table 5: compression" in rows_that_were_run([_result("vgg16_l1", 0, 90.0)])
    assert "Table 5: compression" not in rows_that_were_run([])


def test_unknown_table_and_row():
    with pytest.raises(InputError, match="unknown exhibit 'table33'; did you mean 'table3'"):
        compare("table33", [])
    with pytest.raises(InputError, match="unknown row 'vgg61'; did you mean 'vgg16'"):
        check_only(exhibit("table3").rows, "vgg61")
