"""The rule by which a count agrees with a printed number."""

import pytest

from ghostnet.paper import agrees


@pytest.mark.parametrize(
    ("count", "printed", "decimals", "expected"),
    [
        (141_150_512, 141, 0, True),
        (226_996_000, 226, 0, True),  # truncated
        (226_996_000, 227, 0, True),  # rounded
        (227_003_256, 226, 0, False),
        (225_999_999, 226, 0, True),
        (225_499_999, 226, 0, False),
        (5_158_000, 5.2, 1, True),
        (5_158_000, 5.1, 1, True),
        (5_250_000, 5.3, 1, True),  # a half is rounded up
        (5_149_999, 5.2, 1, False),
        (430_000, 0.43, 2, True),
    ],
)
def test_truncated_or_rounded(count, printed, decimals, expected):
    assert agrees(count, printed, decimals) is expected
