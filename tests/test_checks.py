"""Checks of numbers say what was given, what is allowed and the way out."""

from __future__ import annotations

import math
import re

import pytest

from ghostnet.checks import check_integer, is_integer, is_number
from ghostnet.errors import InputError


@pytest.mark.parametrize(
    ("value", "integer", "number"),
    [
        (3, True, True),
        (-1, True, True),
        (3.0, False, True),
        (math.nan, False, True),
        (True, False, False),
        ("3", False, False),
        (None, False, False),
    ],
)
def test_what_is_an_integer_and_what_a_number(value: object, integer: bool, number: bool) -> None:
    assert is_integer(value) is integer
    assert is_number(value) is number


def test_an_integer_that_will_do_is_returned() -> None:
    assert check_integer("seed", 0, least=0) == 0
    assert check_integer("`cheap_kernel_size`", 5, odd=True) == 5


@pytest.mark.parametrize("value", [0, -3, True, 2.0, "2", None])
def test_what_is_no_integer_of_at_least_one_is_refused(value: object) -> None:
    message = f"`ratio` (={value!r}) must be an integer >= 1; use 1 to keep a plain convolution."
    with pytest.raises(InputError, match=re.escape(message) + "$"):
        check_integer("`ratio`", value, ending="; use 1 to keep a plain convolution.")


@pytest.mark.parametrize("value", [4, -1, 0])
def test_what_is_even_or_too_small_is_refused_where_it_has_to_be_odd(value: int) -> None:
    with pytest.raises(InputError, match=rf"^size \(={value}\) must be an odd integer >= 1$"):
        check_integer("size", value, odd=True)


def test_the_least_is_part_of_the_message() -> None:
    with pytest.raises(InputError, match=r"^--seed \(=-1\) must be an integer >= 0$"):
        check_integer("--seed", -1, least=0)
