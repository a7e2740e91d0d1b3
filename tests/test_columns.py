"""Columns stand one below the other, text flush left and numbers flush right."""

from __future__ import annotations

import pytest

from ghostnet.columns import aligned


def test_text_is_flush_left_and_numbers_are_flush_right() -> None:
    rows = [("layer", "MACs", "remark", "n"), ("a", "1,234,567", "", "1"), ("longest", "2", "kept", "10")]
    assert aligned(rows, numbers=(1, 3)) == [
        "layer         MACs  remark   n",
        "a        1,234,567           1",
        "longest          2  kept    10",
    ]


def test_no_line_ends_in_spaces() -> None:
    assert aligned([("a", "remark"), ("b", "")], numbers=()) == ["a  remark", "b"]


def test_rows_of_other_lengths_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="shorter"):
        aligned([("a", "b"), ("a",)], numbers=())
